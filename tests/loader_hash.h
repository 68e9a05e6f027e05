/* What the tests of the loader share with the plain program for ThreadSanitizer: a small config,
 * and a hash of everything of a sample that a step sees. */
#ifndef RETORT_TESTS_LOADER_HASH_H
#define RETORT_TESTS_LOADER_HASH_H

#include "data/loader.h"

/* loader_small_config: both images and six masks, four images a step, no threads. */
LoaderConfig loader_small_config(void);

/* hash_bytes: goes on from `hash`. loader_hash_image: of image b of a batch. */
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n);
uint64_t loader_hash_image(const LoaderConfig *config, const Batch *batch, int64_t b);

#endif
