/* What the reference kernels share that does not depend on the float type: addresses, activations,
 * taps of resampling, the per-pixel terms of the mask losses.
 *
 * Included by ref_f32.c and ref_f64.c only, in front of the ref_*.inc. All values here are double:
 * the reference computes in double and rounds where it stores, so f32 and f64 differ in storage
 * alone.
 */
#ifndef RETORT_KERNELS_REF_COMMON_H
#define RETORT_KERNELS_REF_COMMON_H

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/soft_runs.h"
#include "kernels/comm/all_reduce.h"
#include "kernels/ref/ref.h"

/* ---- operands and addresses ---- */

static inline bool has_src(const KernelCall *call, int i)
{
    return i < call->n_src && call->src[i].dtype != DT_NONE;
}

/* NULL if the operand is absent. */
static inline const int32_t *src_int(const KernelCall *call, int i)
{
    return has_src(call, i) ? call->src[i].data : NULL;
}

/* Where element `flat` of a tensor of shape `outer` reads in `inner`, which numpy broadcasts to
 * `outer`. */
static inline int64_t broadcast_offset(Shape outer, int64_t flat, Shape inner)
{
    int64_t offset = 0, stride = 1;
    for (int back = 1; back <= inner.rank; back++) {
        int64_t dim = shape_dim_from_end(outer, back), own = shape_dim_from_end(inner, back);
        if (own != 1) offset += flat % dim * stride;
        stride *= own;
        flat /= dim;
    }
    return offset;
}

/* A shape seen from one axis: outer x axis x inner. */
typedef struct AxisView {
    int64_t outer, axis, inner;
} AxisView;

static inline AxisView axis_view(Shape shape, int axis)
{
    assert(axis >= 0 && axis < shape.rank);
    AxisView view = {1, shape.dim[axis], 1};
    for (int i = 0; i < axis; i++) view.outer *= shape.dim[i];
    for (int i = axis + 1; i < shape.rank; i++) view.inner *= shape.dim[i];
    return view;
}

/* First channel of token t of prompt m in (N,M,T,D); M may be 1: shared by all prompts. */
static inline int64_t token_offset(Shape shape, int64_t n, int64_t m, int64_t t)
{
    int64_t prompts = shape.dim[1];
    return ((n * prompts + (prompts == 1 ? 0 : m)) * shape.dim[2] + t) * shape.dim[3];
}

/* First channel of pixel (y,x) of an N,H,W,C map. */
static inline int64_t pixel_offset(Shape shape, int64_t n, int64_t y, int64_t x)
{
    return ((n * shape.dim[1] + y) * shape.dim[2] + x) * shape.dim[3];
}

/* ---- activations ---- */

#define SQRT_HALF 0.70710678118654752440
#define SQRT_2_OVER_PI 0.79788456080286535588
#define PI 3.14159265358979323846

static inline double act_value(Activation kind, double x)
{
    switch (kind) {
    case ACT_NONE: return x;
    case ACT_RELU: return x < 0 ? 0 : x; /* written so that NaN stays NaN */
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
    case ACT_GELU_ERF: return 0.5 * x * (1 + erf(x * SQRT_HALF));
    case ACT_HARDSWISH: return x * fmin(fmax(x + 3, 0), 6) / 6;
    }
    assert(!"unknown activation");
    return 0;
}

/* Derivative; at the kinks the value of the straight side: 0 for ReLU at 0 and hardswish at -3,
 * 1 for hardswish at 3. */
static inline double act_slope(Activation kind, double x)
{
    switch (kind) {
    case ACT_NONE: return 1;
    case ACT_RELU: return x > 0 ? 1 : 0;
    case ACT_GELU_TANH: {
        double t = tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x);
    }
    case ACT_GELU_ERF: return 0.5 * (1 + erf(x * SQRT_HALF)) + x * exp(-0.5 * x * x) / sqrt(2 * PI);
    case ACT_HARDSWISH: return x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6;
    }
    assert(!"unknown activation");
    return 0;
}

/* ---- resampling ---- */

/* The source elements that one value is a weighted sum of, along one axis. */
typedef struct Taps {
    int n;
    int64_t at[4];
    double weight[4];
} Taps;

static inline int64_t clamp_index(int64_t i, int64_t size)
{
    return i < 0 ? 0 : i >= size ? size - 1 : i;
}

static inline Taps bilinear_taps(int64_t i, int64_t in, int64_t out)
{
    double s = fmax((i + 0.5) * in / out - 0.5, 0);
    int64_t first = (int64_t)floor(s);
    double t = s - first;
    return (Taps){2, {first, clamp_index(first + 1, in)}, {1 - t, t}};
}

static inline Taps bicubic_taps(int64_t i, int64_t in, int64_t out)
{
    const double a = -0.75;
    double s = (i + 0.5) * in / out - 0.5;
    int64_t first = (int64_t)floor(s) - 1;
    Taps taps = {.n = 4};
    for (int k = 0; k < 4; k++) {
        double x = fabs(s - (double)(first + k));
        taps.at[k] = clamp_index(first + k, in);
        taps.weight[k] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1
                                : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
    return taps;
}

/* Taps of output i of `out` in a source of `in` elements.
 * source  torch.nn.functional.interpolate */
static inline Taps resize_taps(ResizeMode mode, int64_t i, int64_t in, int64_t out)
{
    return mode == RESIZE_BICUBIC ? bicubic_taps(i, in, out) : bilinear_taps(i, in, out);
}

/* Taps of the point u in [0,1] of an axis of `size` pixels; taps outside are left out, that is,
 * read as 0.
 * source  torch.nn.functional.grid_sample, zero padding, align_corners=False */
static inline Taps point_taps(double u, int64_t size)
{
    double s = u * size - 0.5;
    int64_t first = (int64_t)floor(s);
    double t = s - first;
    Taps taps = {.n = 0};
    for (int k = 0; k < 2; k++) {
        if (first + k < 0 || first + k >= size) continue;
        taps.at[taps.n] = first + k;
        taps.weight[taps.n++] = k ? t : 1 - t;
    }
    return taps;
}

/* ---- terms of the mask losses: logit x, target t in [0,1] ---- */

static inline double sigmoid(double x)
{
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static inline double bce_value(double x, double t)
{
    return fmax(x, 0) - x * t + log1p(exp(-fabs(x)));
}

static inline double bce_slope(double x, double t) { return sigmoid(x) - t; }

/* 1 - p_t as a sum of products of positive terms: no cancellation where the prediction is right. */
static inline double focal_miss(double x, double t)
{
    return sigmoid(x) * (1 - t) + sigmoid(-x) * t;
}

static inline double focal_value(double x, double t, const FocalDiceAttr *attr)
{
    double alpha_t = attr->alpha * t + (1 - attr->alpha) * (1 - t);
    return alpha_t * pow(focal_miss(x, t), attr->gamma) * bce_value(x, t);
}

static inline double focal_slope(double x, double t, const FocalDiceAttr *attr)
{
    double alpha_t = attr->alpha * t + (1 - attr->alpha) * (1 - t);
    double miss = focal_miss(x, t), g = attr->gamma;
    /* d(miss)^g: miss is 0 only where p(1-p) is 0 too, and pow(0, g - 1) may be infinite */
    double d_miss = miss > 0 ? g * pow(miss, g - 1) * (1 - 2 * t) * sigmoid(x) * sigmoid(-x) : 0;
    return alpha_t * (pow(miss, g) * bce_slope(x, t) + d_miss * bce_value(x, t));
}

/* I = 2 sum pt + 1 and S = sum p + sum t + 1; Dice = 1 - I/S. */
typedef struct DiceSums {
    double intersection, total;
} DiceSums;

static inline void dice_add(DiceSums *sums, double x, double t)
{
    double p = sigmoid(x);
    sums->intersection += 2 * p * t;
    sums->total += p + t;
}

static inline double dice_slope(double x, double t, DiceSums sums)
{
    double i = sums.intersection, s = sums.total;
    return -sigmoid(x) * sigmoid(-x) * (2 * t / s - i / (s * s));
}

/* Value at pixel x of a row of soft runs. */
static inline double soft_run_at(const uint32_t *word, const uint32_t *end, int64_t x)
{
    while (word < end) {
        uint32_t kind = *word & SOFT_KIND_MASK;
        int64_t n = *word++ & SOFT_LENGTH_MASK;
        if (x < n) {
            if (kind != SOFT_LITERAL) return kind == SOFT_ONES;
            float value;
            memcpy(&value, word + x, sizeof value);
            return value;
        }
        if (kind == SOFT_LITERAL) word += n;
        x -= n;
    }
    return 0;
}

/* The candidates that the output mode takes part with: [begin, end). */
static inline void mode_candidates(const int32_t *mode, int64_t n_candidates, int64_t *begin,
                                   int64_t *end)
{
    *begin = *mode == 1 ? 1 : 0;
    *end = *mode == 1 ? n_candidates : 1;
}

static inline bool mode_has(const int32_t *mode, int64_t n_candidates, int64_t candidate)
{
    int64_t begin, end;
    mode_candidates(mode, n_candidates, &begin, &end);
    return candidate >= begin && candidate < end;
}

/* ---- scratch, booked by ref.c ---- */

/* A point of the oversampled set of POINT_SAMPLE. */
typedef struct RankedPoint {
    double magnitude; /* |logit| */
    int64_t index;    /* of the draw */
} RankedPoint;

static inline int64_t point_sample_drawn(const PointSampleAttr *attr)
{
    return (int64_t)floor(attr->oversample * (double)attr->n_points);
}

#endif
