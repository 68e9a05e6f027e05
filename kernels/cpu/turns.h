/* Sine and cosine of angles in turns, and SAM's positional code made of them.
 *
 * Called by resample.c (grid) and prompt.c (points). Arguments reach tens of turns: the product
 * with the Gaussian matrix is made in double and reduced to a fraction of a turn before it is
 * rounded to f32, so the results are as exact near 50 turns as near 0.
 */
#ifndef RETORT_KERNELS_CPU_TURNS_H
#define RETORT_KERNELS_CPU_TURNS_H

#include <stdint.h>

/* sin x and cos x for |x| <= pi/4: Taylor polynomials, relative error below 4e-9. */
static inline float turns_sin_small(float x)
{
    float s = x * x;
    float p = 1.0f / 362880;
    p = p * s - 1.0f / 5040;
    p = p * s + 1.0f / 120;
    p = p * s - 1.0f / 6;
    return x + x * s * p;
}

static inline float turns_cos_small(float x)
{
    float s = x * x;
    float p = -1.0f / 3628800;
    p = p * s + 1.0f / 40320;
    p = p * s - 1.0f / 720;
    p = p * s + 1.0f / 24;
    return 1.0f + s * (p * s - 0.5f);
}

/* Both of `turns` circles. Quadrants by rounding; what is left is at most an eighth of a turn. */
static inline void turns_sincos(double turns, float *sine, float *cosine)
{
    double quadrants = __builtin_rint(4 * turns);
    float x = (float)((turns - 0.25 * quadrants) * 6.283185307179586);
    int32_t q = (int32_t)(quadrants - 4 * __builtin_floor(0.25 * quadrants)); /* 0..3 */
    float s = turns_sin_small(x), c = turns_cos_small(x);
    float a = q & 1 ? c : s, b = q & 1 ? s : c;
    *sine = q & 2 ? -a : a;
    *cosine = q == 1 || q == 2 ? -b : b;
}

/* turns_code: dst (2 half) = [sin(2 pi (u,v) G), cos(2 pi (u,v) G)]; u, v in [-1,1], G (2,half). */
static inline void turns_code(double u, double v, const float *gaussian, int64_t half, float *dst)
{
#pragma omp simd
    for (int64_t i = 0; i < half; i++)
        turns_sincos(u * gaussian[i] + v * gaussian[half + i], &dst[i], &dst[half + i]);
}

#endif
