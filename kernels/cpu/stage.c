/* Converted copies of operands. See stage.h. */
#include "kernels/cpu/stage.h"

#include <assert.h>
#include <string.h>

size_t stage_book(KernelCall *call, size_t bytes)
{
    size_t offset = (call->scratch_bytes + 63) / 64 * 64;
    call->scratch_bytes = offset + bytes;
    return offset;
}

Stage stage_plan(KernelCall *call, const Tensor *tensor, DType wanted)
{
    if (tensor->dtype == wanted) return (Stage){0};
    assert(wanted == DT_F32);
    return (Stage){.used = true,
                   .offset = stage_book(call, (size_t)shape_elems(tensor->shape) * sizeof(float))};
}

void *stage_target(const KernelCall *call, const Stage *stage, const Tensor *tensor)
{
    return stage->used ? (char *)call->scratch + stage->offset : tensor->data;
}

const void *stage_in(const KernelCall *call, const Stage *stage, const Tensor *tensor)
{
    float *copy = stage_target(call, stage, tensor);
    if (!stage->used) return copy;
    int64_t total = shape_elems(tensor->shape);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t i = 0; i < total; i += CPU_BLOCK)
        cpu_load(tensor, i, total - i < CPU_BLOCK ? total - i : CPU_BLOCK, copy + i);
    return copy;
}

void stage_out(const KernelCall *call, const Stage *stage, const Tensor *tensor)
{
    if (!stage->used) return;
    const float *copy = stage_target(call, stage, tensor);
    int64_t total = shape_elems(tensor->shape);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t i = 0; i < total; i += CPU_BLOCK)
        cpu_store(tensor, i, total - i < CPU_BLOCK ? total - i : CPU_BLOCK, copy + i);
}
