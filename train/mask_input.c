/* Mask prompts in files. See mask_input.h. */
#include "train/mask_input.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "checkpoints/weights_file.h"

static const char tensor_name[] = "mask_input";

/* One mask of side x side px, whatever dims of 1 stand before it. */
static bool is_one_mask(const Tensor *tensor, int64_t side)
{
    return dtype_is_float(tensor->dtype) && tensor->shape.rank >= 2 &&
           shape_elems(tensor->shape) == side * side &&
           shape_dim_from_end(tensor->shape, 1) == side &&
           shape_dim_from_end(tensor->shape, 2) == side;
}

static Status check_tensor(const WeightsFile *file, const Tensor *tensor, int64_t side)
{
    char shape[SHAPE_MAX_RANK * 24];
    if (!tensor)
        return status_fail(E_SHAPE,
                           "%s: has no tensor %s; wanted the logits of one mask under this name, "
                           "as segment --save-logits writes them",
                           file->path, tensor_name);
    if (is_one_mask(tensor, side)) return OK;
    return status_fail(E_SHAPE,
                       "%s: tensor %s is %s of %s, wanted 1,%lld,%lld of a floating-point type: "
                       "the logits of one mask",
                       file->path, tensor_name, shape_format(tensor->shape, shape, sizeof shape),
                       dtype_name(tensor->dtype), (long long)side, (long long)side);
}

static Status take_logits(const WeightsFile *file, int64_t side, float **out)
{
    const Tensor *tensor = weights_file_find(file, tensor_name);
    TRY(check_tensor(file, tensor, side));
    float *logits = mem_alloc((size_t)(side * side) * sizeof *logits);
    tensor_convert(logits, DT_F32, tensor->data, tensor->dtype, side * side);
    *out = logits;
    for (int64_t i = 0; i < side * side; i++)
        if (!isfinite(logits[i]))
            return status_fail(E_FORMAT, "%s: tensor %s: value %lld is %g, wanted finite logits",
                               file->path, tensor_name, (long long)i, (double)logits[i]);
    return OK;
}

Status mask_input_read(const char *path, int64_t side, float **out)
{
    WeightsFile *file;
    *out = NULL;
    TRY(weights_file_open(path, &file));
    Status status = take_logits(file, side, out);
    weights_file_close(file);
    if (status == OK) return OK;
    free(*out);
    *out = NULL;
    return status;
}

Status mask_input_write(const char *path, int64_t side, const float *logits)
{
    NamedTensor tensor = {tensor_name, {DT_F32, SHAPE(1, side, side), (void *)logits}};
    return weights_file_write(path, 1, &tensor);
}
