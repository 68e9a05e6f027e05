/* Between stores and files: strict loading, saving under PyTorch's names, and copies between
 * stores. */
#ifndef RETORT_TRAIN_WEIGHTS_H
#define RETORT_TRAIN_WEIGHTS_H

#include "autograd/store.h"
#include "checkpoints/weights_file.h"
#include "model/model.h"

/* weights_load: parameters and buffers of `store` from a safetensors or PyTorch file, matched by
 * name. allow    glob patterns (fnmatch) of names that may be missing or unexpected report   NULL,
 * or where the line "loaded FILE: N tensors matched, M missing, U unexpected, sha256 .." goes, with
 * the names of entries beside the state dict, if a PyTorch file has some, at its end errors E_FILE,
 * E_FORMAT; E_SHAPE naming the first tensor that is missing, unexpected or of another shape;
 *          nothing is silently left as it was. Optimiser tensors of a training state are not
 * weights and are left alone. */
Status weights_load(Store *store, const char *path, int n_allow, const char *const *allow,
                    char *report, size_t report_bytes);

/* weights_freeze: the same from a file straight into a frozen store (model/model.h), allocated.
 * What the file may lack gets its initial weights from `seed`. */
Status weights_freeze(const Model *model, Store *frozen, const char *path, int n_allow,
                      const char *const *allow, uint64_t seed, char *report, size_t report_bytes);

/* weights_is_optimizer_name: whether a tensor of this name in a training state belongs to the
 * optimiser. */
bool weights_is_optimizer_name(const char *name);

/* weights_copy: entries of `dst` whose name starts with `prefix` from the equally named ones of
 * `src`. errors  E_SHAPE if one is absent or differs */
Status weights_copy(Store *dst, const Store *src, const char *prefix);

/* weights_save: parameters and buffers to a safetensors file, under PyTorch's names, in its shapes
 * and order, atomically. errors  E_DEVICE; those of safetensors_write */
Status weights_save(const FileOps *ops, const Store *store, const char *path);

#endif
