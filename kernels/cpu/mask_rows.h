/* Logits of masks up-sampled row by row, for the kernels that visit all S x S pixels and never hold
 * such a map: focal_dice.c, mask_errors.c.
 *
 * Low-resolution rows are up-sampled horizontally once and kept while they are one of the two
 * neighbours of the current row.
 */
#ifndef RETORT_KERNELS_CPU_MASK_ROWS_H
#define RETORT_KERNELS_CPU_MASK_ROWS_H

#include "kernels/cpu/mask_loss.h"
#include "kernels/cpu/tile.h"

/* The horizontal map from width to size, made once per run: x lies between left[x] and the next
 * pixel; start[i] is the first x with left[x] >= i. */
typedef struct MaskColumns {
    int32_t *left, *start;
    float *weight; /* of the right pixel */
} MaskColumns;

static inline size_t mask_columns_bytes(const MaskLoss *loss)
{
    return (size_t)tile_round(2 * loss->size + loss->width + 1) * sizeof(float);
}

static inline MaskColumns mask_columns_make(const MaskLoss *loss, void *memory)
{
    MaskColumns c = {.left = memory, .weight = (float *)memory + loss->size};
    c.start = (int32_t *)(c.weight + loss->size);
    int64_t next = 0;
    for (int64_t x = 0; x < loss->size; x++) {
        MaskTaps taps = mask_taps(x, loss->width, loss->size);
        c.left[x] = (int32_t)taps.first;
        c.weight[x] = (float)taps.weight;
        while (next <= taps.first) c.start[next++] = (int32_t)x;
    }
    while (next <= loss->width) c.start[next++] = (int32_t)loss->size;
    return c;
}

/* dst (size) = row (width) up-sampled; each source pixel spreads over a run of x. */
static inline void mask_upsample_row(const MaskLoss *loss, const MaskColumns *c, const float *row,
                                     float *dst)
{
    for (int64_t x = 0; x < loss->size; x++) {
        int32_t left = c->left[x], right = left + 1 < loss->width ? left + 1 : left;
        dst[x] = (1.0f - c->weight[x]) * row[left] + c->weight[x] * row[right];
    }
}

/* Up-sampled rows of one candidate, kept by the parity of their index: neighbours never collide.
 * index -1: none yet. */
typedef struct MaskRowPair {
    float *row[2]; /* (size) each */
    int64_t index[2];
} MaskRowPair;

static inline const float *mask_pair_row(const MaskLoss *loss, const MaskColumns *c,
                                         const float *logits, int64_t row, MaskRowPair *pair)
{
    int slot = (int)(row & 1);
    if (pair->index[slot] != row)
        mask_upsample_row(loss, c, logits + row * loss->width, pair->row[slot]);
    pair->index[slot] = row;
    return pair->row[slot];
}

/* Up-sampled logits x = (1-weight) above + weight below of one row, and its target. */
typedef struct MaskRow {
    const float *above, *below, *target;
    float weight;
    int64_t n;
} MaskRow;

/* mask_row_make: the row with these vertical taps, of the map (height,width) at `logits`. */
static inline MaskRow mask_row_make(const MaskLoss *loss, const MaskColumns *c, const float *logits,
                                    const MaskTaps *taps, const float *target, MaskRowPair *pair)
{
    return (MaskRow){.above = mask_pair_row(loss, c, logits, taps->first, pair),
                     .below = mask_pair_row(loss, c, logits, taps->second, pair),
                     .target = target,
                     .weight = (float)taps->weight,
                     .n = loss->size};
}

#endif
