/* Files of named tensors, whichever of the two formats they are in.
 *
 * Used by train/ wherever a user names weights: safetensors (checkpoints/safetensors) and PyTorch's
 * zip archives (checkpoints/torch_file) look the same from here on.
 */
#ifndef RETORT_CHECKPOINTS_WEIGHTS_FILE_H
#define RETORT_CHECKPOINTS_WEIGHTS_FILE_H

#include "checkpoints/safetensors.h"

typedef struct WeightsFile { /* an open file, mapped read-only */
    const char *path;
    const char *format; /* "safetensors" or "torch" */
    const NamedTensor *tensors;
    int n_tensors;
    const MetaPair *meta; /* none in a torch file */
    int n_meta;
    const char *note; /* entries of a torch file that are not read: "epoch, optimizer"; or NULL */
    size_t file_bytes;
    SafeTensors *safetensors; /* the one that is open; the other is NULL */
    struct TorchFile *torch;
} WeightsFile;

/* weights_file_open: maps and validates a file; its content, not its name, says which format it
 * is.
 * errors  those of safetensors_open and torch_file_open; E_FORMAT for a PyTorch file older than the
 *         zip format */
Status weights_file_open(const char *path, WeightsFile **out);
void weights_file_close(WeightsFile *file);                                 /* NULL is fine */
const Tensor *weights_file_find(const WeightsFile *file, const char *name); /* NULL if absent */

/* weights_file_write: replaces `path` by a file with these tensors: PyTorch's format for a name
 * that ends in .pth or .pt, else safetensors, with metadata {"format": "pt"}, for .safetensors.
 * errors  E_CONFIG for another ending; those of safetensors_write and torch_file_write */
Status weights_file_write(const char *path, int n_tensors, const NamedTensor *tensors);

/* weights_file_can_write: whether the ending of `path` is one of these. errors  E_CONFIG */
Status weights_file_can_write(const char *path);

#endif
