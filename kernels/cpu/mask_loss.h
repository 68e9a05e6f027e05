/* What the mask losses on all pixels (losses.c) and on points (points.c) share: the operands, the
 * targets' rows, the taps of the up-sampling and the terms of one pixel.
 *
 * Sources 0..3 of all these ops: logits (N,M,C,h,w), words (N,capacity), rows (N,M,S+1), mode (1).
 */
#ifndef RETORT_KERNELS_CPU_MASK_LOSS_H
#define RETORT_KERNELS_CPU_MASK_LOSS_H

#include "base/soft_runs.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/math.h"

typedef struct MaskLoss {
    int64_t prompts, per_image, candidates; /* prompts: of all images */
    int64_t height, width, size;            /* of the logits; S */
    const float *logits;
    const uint32_t *words;
    int64_t capacity; /* words of an image */
    const int32_t *rows, *mode;
} MaskLoss;

static inline MaskLoss mask_loss_of(const KernelCall *call, int64_t size)
{
    const Shape *logits = &call->src[0].shape;
    return (MaskLoss){.prompts = logits->dim[0] * logits->dim[1],
                      .per_image = logits->dim[1],
                      .candidates = logits->dim[2],
                      .height = logits->dim[3],
                      .width = logits->dim[4],
                      .size = size,
                      .logits = call->src[0].data,
                      .words = call->src[1].data,
                      .capacity = call->src[1].shape.dim[1],
                      .rows = call->src[2].data,
                      .mode = call->src[3].data};
}

/* Mode 1: all candidates but the first; 0: the first alone. */
static inline bool mask_takes_part(const MaskLoss *loss, int64_t candidate)
{
    return *loss->mode == 1 ? candidate > 0 : candidate == 0;
}

static inline int64_t mask_map_elems(const MaskLoss *loss) { return loss->height * loss->width; }

static inline const float *mask_logits(const MaskLoss *loss, int64_t prompt, int64_t candidate)
{
    return loss->logits + (prompt * loss->candidates + candidate) * mask_map_elems(loss);
}

/* Row y of a prompt's target, `size` values. */
static inline void mask_target_row(const MaskLoss *loss, int64_t prompt, int64_t y, float *dst)
{
    const uint32_t *words = loss->words + prompt / loss->per_image * loss->capacity;
    const int32_t *rows = loss->rows + prompt * (loss->size + 1);
    soft_runs_expand_row(words + rows[y], words + rows[y + 1], dst, loss->size);
}

/* The two source elements that an up-sampled one lies between: first and min(first + 1, n - 1). */
typedef struct MaskTaps {
    int64_t first, second;
    double weight; /* of the second */
} MaskTaps;

static inline MaskTaps mask_taps(int64_t i, int64_t n_src, int64_t n_dst)
{
    double position = ((double)i + 0.5) * (double)n_src / (double)n_dst - 0.5;
    if (position < 0) position = 0;
    int64_t first = (int64_t)position;
    return (MaskTaps){first, first + 1 < n_src ? first + 1 : n_src - 1, position - (double)first};
}

/* p = sigmoid(x), q = 1 - p without cancellation, and the cross entropy of x against t, all from
 * one exponential and one division. */
typedef struct MaskPixel {
    float p, q, ce;
} MaskPixel;

static inline MaskPixel mask_pixel(float x, float t)
{
    float e = math_exp(-fabsf(x)), one = 1.0f + e, two = 2.0f + e, inverse = 1.0f / (one * two);
    float larger = two * inverse, smaller = e * larger;
    float log1p_e = math_two_atanh(e * (one * inverse)); /* ln(1+e) = 2 atanh(e / (2+e)) */
    return (MaskPixel){.p = x > 0.0f ? larger : smaller,
                       .q = x > 0.0f ? smaller : larger,
                       .ce = (x > 0.0f ? x : 0.0f) - x * t + log1p_e};
}

/* The derivative of ddice * Dice by the logit is p q (slope t + base). */
typedef struct MaskDice {
    float slope, base;
} MaskDice;

/* sums: I = 2 sum pt + 1, S = sum p + sum t + 1; Dice = 1 - I/S. */
static inline MaskDice mask_dice(const float sums[2], float ddice)
{
    double d = ddice, s = sums[1];
    return (MaskDice){(float)(-2 * d / s), (float)(d * sums[0] / (s * s))};
}

/* mask_set_terms: terms and sums of one candidate from the sums over its pixels or points. */
static inline void mask_set_terms(const KernelCall *call, int64_t cell, double mask_term,
                                  double sum_pt, double sum_p_and_t)
{
    float *terms = (float *)call->dst[0].data + 2 * cell;
    float *sums = (float *)call->dst[1].data + 2 * cell;
    double intersection = 2 * sum_pt + 1, total = sum_p_and_t + 1;
    terms[0] = (float)mask_term;
    terms[1] = (float)(1 - intersection / total);
    sums[0] = (float)intersection;
    sums[1] = (float)total;
}

/* mask_set_no_terms: of a candidate that takes no part. */
static inline void mask_set_no_terms(const KernelCall *call, int64_t cell)
{
    for (int64_t i = 2 * cell; i < 2 * cell + 2; i++) {
        ((float *)call->dst[0].data)[i] = 0.0f;
        ((float *)call->dst[1].data)[i] = 1.0f;
    }
}

#endif
