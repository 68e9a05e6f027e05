/* PyTorch checkpoints (.pth, .pt): the tensors of a state dict, read in place, and written.
 *
 * The same view as checkpoints/safetensors. Used by checkpoints/weights_file.
 *
 * Format: a zip archive ROOT/data.pkl, a pickle of the state dict (checkpoints/pickle), ROOT/data/N
 * with the bytes of storage N, and ROOT/byteorder. A tensor is a storage, an offset, a shape and
 * strides; several may share a storage. Only the bytes are trusted that were checked to lie inside
 * their storage.
 *
 * Invariants
 *  1. Tensors that are contiguous and aligned in the file point into the mapping; the others are
 *     copied, within the budget of the archive (zip_budget).
 *  2. Names are unique.
 * source  torch/serialization.py (_save, _load), PyTorch 1.6 and later
 */
#ifndef RETORT_CHECKPOINTS_TORCH_FILE_H
#define RETORT_CHECKPOINTS_TORCH_FILE_H

#include "base/file.h"
#include "checkpoints/safetensors.h" /* NamedTensor */

typedef struct TorchFile { /* an open file, mapped read-only */
    char *path;
    NamedTensor *tensors; /* in the order of the state dict */
    int n_tensors;
    char *note; /* entries beside the state dict, which are not read: "epoch, optimizer"; or NULL */
    size_t file_bytes;
    struct ZipFile *zip;
    struct Pickle *pickle; /* owns the names */
    void **copies;         /* of tensors that do not lie in the file as they are wanted; NULLs */
} TorchFile;

/* torch_file_open: maps and validates a file. The state dict is the whole content, or its entry
 * "state_dict" or "model".
 * dtypes  float32 float16 bfloat16 float64 int64 int32 uint8; booleans are read as uint8
 * errors  E_FILE; E_FORMAT with file, what is wrong, got and wanted; E_MEMORY */
Status torch_file_open(const char *path, TorchFile **out);
void torch_file_close(TorchFile *file);                                 /* NULL is fine */
const Tensor *torch_file_find(const TorchFile *file, const char *name); /* NULL if absent */

/* torch_file_write: replaces `path` (base/file.h) by a state dict of these tensors, in the caller's
 * order, which torch.load(weights_only=True) reads and load_state_dict(strict=True) takes.
 * errors  E_FILE naming the step that failed, the old file is then untouched; E_FORMAT if a name
 *         is not UTF-8 or given twice; E_UNSUPPORTED for a tensor without dtype */
Status torch_file_write(const char *path, int n_tensors, const NamedTensor *tensors);

/* torch_file_write_with: the same through the caller's system calls, for tests. */
Status torch_file_write_with(const FileOps *ops, const char *path, int n_tensors,
                             const NamedTensor *tensors);

#endif
