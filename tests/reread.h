/* A second reading of weights files, as plain as can be, against which the engine's is judged: what
 * loads, damaged or not, must be exactly the bytes that the file's own description names. Made for
 * files of a few kB that the engine has accepted; everything it relies on was checked there.
 */
#ifndef RETORT_TESTS_REREAD_H
#define RETORT_TESTS_REREAD_H

#include "checkpoints/weights_file.h"

enum { REREAD_WHY_BYTES = 200 };

/* reread_safetensors: whether `file` holds what the safetensors file of n_bytes says, tensor by
 * tensor in the header's order; if not, `why` says what differs first. */
bool reread_safetensors(const char *content, size_t n_bytes, const WeightsFile *file,
                        char why[REREAD_WHY_BYTES]);

/* reread_pickle: the same for a PyTorch file with this pickle, whose one storage "0" holds
 * storage_bytes. */
bool reread_pickle(const char *pickle, const void *storage, size_t storage_bytes,
                   const WeightsFile *file, char why[REREAD_WHY_BYTES]);

#endif
