/* Taps of resampling on the device: the source elements, and their weights, that one value is a
 * weighted sum of along one axis. Positions are exact fractions (integers until the last division),
 * so that f32 gives the reference's weights to its last bits at any size. source
 * torch.nn.functional.interpolate, align_corners=False
 */
#ifndef RETORT_KERNELS_CUDA_TAPS_CUH
#define RETORT_KERNELS_CUDA_TAPS_CUH

#include "kernels/cuda/launch.h"

/* Where output i of `out` lies in an axis of `in` elements: first + t, 0 <= t < 1. */
typedef struct Position {
    int first;
    float t;
} Position;

static __device__ __forceinline__ Position position_of(int i, int in, int out)
{
    int numerator = (2 * i + 1) * in - out, denominator = 2 * out;
    int first = numerator >= 0 ? numerator / denominator
                               : -((denominator - 1 - numerator) / denominator);
    Position at = {first, (float)(numerator - first * denominator) / (float)denominator};
    return at;
}

static __device__ __forceinline__ int clamp_index(int i, int size)
{
    return i < 0 ? 0 : i >= size ? size - 1 : i;
}

/* Bilinear: (1 - t) * at[first] + t * at[second]. */
typedef struct LinearTaps {
    int first, second;
    float t;
} LinearTaps;

static __device__ __forceinline__ LinearTaps linear_taps(int i, int in, int out)
{
    Position at = position_of(i, in, out);
    if (at.first < 0) at = Position{0, 0.0f};
    LinearTaps taps = {at.first, at.first + 1 < in ? at.first + 1 : in - 1, at.t};
    return taps;
}

/* Weight of the cubic kernel, a = -0.75, at distance x. */
static __device__ __forceinline__ float cubic_weight(float x)
{
    const float a = -0.75f;
    x = fabsf(x);
    return x <= 1.0f ? ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f
                     : ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
}

/* Tap k of output i: where it reads and its weight. Bilinear has 2 taps, bicubic 4. */
typedef struct Tap {
    int at;
    float weight;
} Tap;

template <ResizeMode MODE>
static __device__ __forceinline__ Tap resize_tap(int i, int k, int in, int out)
{
    if (MODE == RESIZE_BILINEAR) {
        LinearTaps taps = linear_taps(i, in, out);
        return k == 0 ? Tap{taps.first, 1.0f - taps.t} : Tap{taps.second, taps.t};
    }
    Position at = position_of(i, in, out);
    return Tap{clamp_index(at.first - 1 + k, in), cubic_weight(at.t + 1.0f - (float)k)};
}

/* The outputs that may read source element i: [begin, end). */
static __device__ __forceinline__ void outputs_reading(int i, int in, int out, int *begin, int *end)
{
    float ratio = (float)out / (float)in;
    *begin = max(0, (int)floorf(((float)i - 1.5f) * ratio - 0.5f) - 1);
    *end = min(out, (int)ceilf(((float)i + 2.5f) * ratio - 0.5f) + 2);
}

#endif
