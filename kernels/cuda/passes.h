/* Small launches that several ops are made of, callable from C and from .cu files; to be used in
 * run functions. Implemented beside the op they belong to: elementwise.cu, columns.cu.
 */
#ifndef RETORT_KERNELS_CUDA_PASSES_H
#define RETORT_KERNELS_CUDA_PASSES_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* cuda_convert: dst = (dtype of dst) src, equal numbers of elements, f32, bf16 or f16. */
void cuda_convert(const KernelCall *call, const Tensor *dst, const Tensor *src);

/* cuda_add_bias: dst (..,C) = src + bias (C) f32; src is f32 or of dst's dtype, and may be dst. */
void cuda_add_bias(const KernelCall *call, const Tensor *dst, const Tensor *src,
                   const Tensor *bias);

/* cuda_sum_parts: dst[b][i] = sum over p, in order, of parts[b][p][i] for i < n; both f32. */
void cuda_sum_parts(const KernelCall *call, float *dst, const float *parts, int64_t batches,
                    int64_t n_parts, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
