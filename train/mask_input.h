/* Mask prompts in files: the low-resolution logits of an earlier mask, as one tensor "mask_input".
 * Written and read by `retort segment`; `retort trace` takes the same name among its inputs.
 */
#ifndef RETORT_TRAIN_MASK_INPUT_H
#define RETORT_TRAIN_MASK_INPUT_H

#include <stdint.h>

#include "base/status.h"

/* mask_input_read: the tensor "mask_input" of a safetensors or PyTorch file.
 * shapes  in the file (..,side,side), all dims in front 1; *out (side,side), to be freed
 * errors  those of weights_file_open; E_SHAPE if the tensor is absent, of another shape or not of
 *         floating point; E_FORMAT if a value is not finite */
Status mask_input_read(const char *path, int64_t side, float **out);

/* mask_input_write: replaces `path` by a file with logits (side,side) as a tensor (1,side,side),
 * which SAM's own predictor takes as mask_input. errors  those of weights_file_write */
Status mask_input_write(const char *path, int64_t side, const float *logits);

#endif
