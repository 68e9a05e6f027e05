/* Dtypes as types: how the elements of a tensor are stored, and the one switch that picks a
 * kernel's template by a dtype. Included by kernels whose operands may be f32, bf16 or f16 (kinds
 * 'a' and 'l').
 */
#ifndef RETORT_KERNELS_CUDA_STORAGE_H
#define RETORT_KERNELS_CUDA_STORAGE_H

#include "kernels/cuda/launch.h"

static __device__ __forceinline__ float to_f32(float value) { return value; }
static __device__ __forceinline__ float to_f32(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}
static __device__ __forceinline__ float to_f32(__half value) { return __half2float(value); }

/* store(&dst[i], value): rounds to nearest even. */
static __device__ __forceinline__ void store(float *dst, float value) { *dst = value; }
static __device__ __forceinline__ void store(__nv_bfloat16 *dst, float value)
{
    *dst = __float2bfloat16_rn(value);
}
static __device__ __forceinline__ void store(__half *dst, float value)
{
    *dst = __float2half_rn(value);
}

/* WITH_STORAGE(dtype, T, statements): the statements with T the element type of a float dtype.
 * bind has checked the dtype against the op table. */
#define WITH_STORAGE(dtype, T, ...)  \
    do {                             \
        switch (dtype) {             \
        case DT_F32: {               \
            typedef float T;         \
            __VA_ARGS__;             \
        } break;                     \
        case DT_BF16: {              \
            typedef __nv_bfloat16 T; \
            __VA_ARGS__;             \
        } break;                     \
        case DT_F16: {               \
            typedef __half T;        \
            __VA_ARGS__;             \
        } break;                     \
        default: break;              \
        }                            \
    } while (0)

#endif
