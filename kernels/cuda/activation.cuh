/* The activations and their derivatives in f32. Included by the kernels of ACT and of the norms.
 * Written as kernels/ref/ref_common.h defines them; `kind` is uniform over a launch.
 */
#ifndef RETORT_KERNELS_CUDA_ACTIVATION_CUH
#define RETORT_KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/cuda/launch.h"

/* 1 / (1 + exp(-2u)) = (1 + tanh(u)) / 2 without the cancellation near -1. */
static __device__ __forceinline__ float half_tanh_plus_half(float u)
{
    return 1.0f / (1.0f + expf(-2.0f * u));
}

static __device__ __forceinline__ float gelu_tanh_argument(float x)
{
    return 0.7978845608f * x * (1.0f + 0.044715f * x * x);
}

static __device__ __forceinline__ float act_value(Activation kind, float x)
{
    switch (kind) {
    case ACT_RELU: return x < 0.0f ? 0.0f : x; /* written so that NaN stays NaN */
    case ACT_GELU_TANH: return x * half_tanh_plus_half(gelu_tanh_argument(x));
    case ACT_GELU_ERF: return 0.5f * x * erfcf(-0.7071067812f * x);
    case ACT_HARDSWISH: return x * fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f;
    default: return x;
    }
}

static __device__ __forceinline__ float act_slope(Activation kind, float x)
{
    switch (kind) {
    case ACT_RELU: return x > 0.0f ? 1.0f : 0.0f;
    case ACT_GELU_TANH: {
        float s = half_tanh_plus_half(gelu_tanh_argument(x)), rest = 1.0f - s;
        return s + 2.0f * x * s * rest * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
    }
    case ACT_GELU_ERF:
        return 0.5f * erfcf(-0.7071067812f * x) + x * 0.3989422804f * expf(-0.5f * x * x);
    case ACT_HARDSWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : (2.0f * x + 3.0f) / 6.0f;
    default: return 1.0f;
    }
}

#endif
