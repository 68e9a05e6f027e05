/* Elementary functions that the compiler turns into vector code: straight-line C, no branches, no
 * calls.
 *
 * Called from the inner loops of all kernels of this folder. Errors, measured against double over
 * the whole range, are in units in the last place (ulp) of the f32 result. NaN gives NaN
 * everywhere.
 *
 * Must hold: a function stays free of branches and of loads from tables, or the loops around it
 * lose their vectors (check with -fopt-info-vec). Polynomials are minimax fits made for this file.
 */
#ifndef RETORT_KERNELS_CPU_MATH_H
#define RETORT_KERNELS_CPU_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t math_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float math_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Comparisons in this order let a NaN through. */
static inline float math_clamp(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* x = n ln 2 + r with |r| <= ln(2)/2. Adding 1.5 * 2^23 rounds to an integer and leaves n in the
 * low bits of the sum; ln 2 comes in two parts, the first with trailing zeros, so that n times it
 * is exact. */
static inline float math_exp_reduce(float x, uint32_t *n)
{
    float shifted = x * 1.44269504f + 12582912.0f;
    *n = math_bits(shifted);
    float rounded = shifted - 12582912.0f;
    float r = x - rounded * 0.693145752f;
    return r - rounded * 1.42860677e-6f;
}

/* 2^(n + bias - 127) where that is a normal number; only the low bits of n count. */
static inline float math_exp2_int(uint32_t n, uint32_t bias)
{
    return math_from_bits((n + bias) << 23);
}

/* e^r - 1 for |r| <= ln(2)/2 */
static inline float math_expm1_small(float r)
{
    float p = 1.98699243e-4f;
    p = p * r + 1.39428955e-3f;
    p = p * r + 8.33335146e-3f;
    p = p * r + 4.16663326e-2f;
    p = p * r + 1.66666672e-1f;
    p = p * r + 0.5f;
    return r + r * r * p;
}

/* e^x: 1 ulp. Infinity above 88.72, 0 below -86.5 (no subnormal results). */
static inline float math_exp(float x)
{
    uint32_t n;
    float y = 1.0f + math_expm1_small(math_exp_reduce(x, &n));
    y = 2.0f * (y * math_exp2_int(n, 126)); /* in two steps: 2^128 is out of range */
    y = x > 88.7228317f ? INFINITY : y;
    return x < -86.5f ? 0.0f : y;
}

/* e^x for x <= 0: as math_exp, a little cheaper. */
static inline float math_exp_negative(float x)
{
    uint32_t n;
    float y = 1.0f + math_expm1_small(math_exp_reduce(x, &n));
    y *= math_exp2_int(n, 127);
    return x < -87.0f ? 0.0f : y;
}

/* e^x - 1 for x <= 0: 2 ulp, exact in sign near 0. */
static inline float math_expm1_negative(float x)
{
    uint32_t n;
    float small = math_expm1_small(math_exp_reduce(x, &n));
    float scale = math_exp2_int(n, 127);
    return x < -87.0f ? -1.0f : scale * small + (scale - 1.0f);
}

/* 2 atanh(z) = ln((1+z)/(1-z)) for |z| <= 1/3 */
static inline float math_two_atanh(float z)
{
    float s = z * z;
    float p = 1.21402532e-1f;
    p = p * s + 1.07165948e-1f;
    p = p * s + 1.43081844e-1f;
    p = p * s + 1.99994490e-1f;
    p = p * s + 3.33333373e-1f;
    return 2.0f * (z + z * s * p);
}

/* ln x for normal x > 0: 2 ulp. Others (0, negative, subnormal, infinity) give no useful value. */
static inline float math_log(float x)
{
    uint32_t bits = math_bits(x);
    int32_t n = (int32_t)(bits - 0x3f3504f3u) >> 23; /* mantissa into [sqrt(1/2), sqrt 2) */
    float f = math_from_bits(bits - ((uint32_t)n << 23)) - 1.0f;
    float log_m = math_two_atanh(f / (2.0f + f));
    return (float)n * 0.693145752f + ((float)n * 1.42860677e-6f + log_m);
}

/* ln(1 + e^x), softplus: 3 ulp. */
static inline float math_log1p_exp(float x)
{
    float small = math_exp_negative(
        -fabsf(x)); /* in (0, 1]: ln(1 + small) = 2 atanh(small / (2 + small)) */
    return (x < 0.0f ? 0.0f : x) + math_two_atanh(small / (2.0f + small));
}

/* 1 / (1 + e^-x): 3 ulp. With e^-|x|, which cannot overflow. */
static inline float math_sigmoid(float x)
{
    float e = math_exp_negative(-fabsf(x));
    float upper = 1.0f / (1.0f + e);
    return x < 0.0f ? e * upper : upper;
}

/* tanh x: 3 ulp. Through e^y - 1, because 1 - e^y has no digits left near 0. */
static inline float math_tanh(float x)
{
    float em1 = math_expm1_negative(-2.0f * fabsf(x));
    return copysignf(-em1 / (2.0f + em1), x);
}

/* Half of erfc(t / sqrt 2) for t >= 0, the normal distribution's upper tail: e^(-t q(t)) / 2, with
 * q fitted on [0, 6] and constant beyond, where the value is below 1e-9. */
static inline float math_normal_tail(float t)
{
    float u = t > 6.0f ? 6.0f : t;
    float q = -2.31435493e-9f;
    q = q * u + 8.18500254e-8f;
    q = q * u + -1.28968168e-6f;
    q = q * u + 1.18552261e-5f;
    q = q * u + -6.84690385e-5f;
    q = q * u + 2.27970828e-4f;
    q = q * u + -4.47025304e-5f;
    q = q * u + -4.78254259e-3f;
    q = q * u + 3.63378972e-2f;
    q = q * u + 3.18309009e-1f;
    q = q * u + 7.97884643e-1f;
    return 0.5f * math_exp_negative(-t * q);
}

/* P(Z <= x) = (1 + erf(x / sqrt 2)) / 2: 3 ulp for x >= -1, relative error below 5e-6 down to -6
 * (where 1 + erf itself has no digits left), absolute error below 1e-7 everywhere. */
static inline float math_normal_cdf(float x)
{
    float tail = math_normal_tail(fabsf(x));
    return x > 0.0f ? 1.0f - tail : tail;
}

/* ---- activations and their derivatives; formulas in op_attrs.h ---- */

static inline float math_relu(float x) { return x < 0.0f ? 0.0f : x; }
static inline float math_relu_grad(float x) { return x > 0.0f ? 1.0f : 0.0f; }

/* 2u = 2 sqrt(2/pi) (x + 0.044715 x^3); (1 + tanh u) / 2 is the sigmoid of it. */
static inline float math_gelu_tanh_argument(float x)
{
    return x * (1.59576912f + 0.0713548163f * (x * x));
}

/* Absolute error below 1 ulp of the larger of |x| and 1, as for all four below. Where x^2 overflows
 * the derivative is NaN, as PyTorch's is. */
static inline float math_gelu_tanh(float x) { return x * math_sigmoid(math_gelu_tanh_argument(x)); }

static inline float math_gelu_tanh_grad(float x)
{
    float e = math_exp_negative(-fabsf(math_gelu_tanh_argument(x)));
    float upper = 1.0f / (1.0f + e), lower = e * upper;
    float gate = x < 0.0f ? lower : upper;
    /* the sigmoid's slope is upper * lower; gate (1 - gate) would cancel */
    return gate + x * (upper * lower) * (1.59576912f + 0.214064449f * (x * x));
}

static inline float math_gelu_erf(float x) { return x * math_normal_cdf(x); }

static inline float math_gelu_erf_grad(float x)
{
    x = math_clamp(x, -15.0f, 15.0f);
    return math_normal_cdf(x) + x * (0.398942280f * math_exp_negative(-0.5f * (x * x)));
}

static inline float math_hardswish(float x)
{
    return x * (math_clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f);
}

/* PyTorch's choice at the kinks: 0 at -3 and below, 1 at 3 and above. */
static inline float math_hardswish_grad(float x)
{
    float inside = x / 3.0f + 0.5f;
    float below = x <= -3.0f ? 0.0f : inside;
    return x >= 3.0f ? 1.0f : below;
}

#endif
