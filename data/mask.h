/* Training masks: run-length codes resampled straight to soft runs at the training size.
 *
 * The antialiased triangle filter of data/resize.h is separable, and along a column a mask only
 * changes at the ends of its runs. So every end adds a short list of differences (two to three rows
 * times two to three columns of the small image); a running sum down the rows then gives the
 * filtered mask. No image of the full size ever exists, and the work is proportional to the runs,
 * not to the pixels.
 *
 * Weights are fixed-point numbers that sum to exactly one, and sums are integers: the interior
 * comes out as exactly 1, the outside as exactly 0, and a pixel is > 0 if and only if some
 * foreground pixel has weight in it.
 *
 * Image tensors come from the same filter (data/resize.c); losses read the soft runs
 * (base/soft_runs.h).
 */
#ifndef RETORT_DATA_MASK_H
#define RETORT_DATA_MASK_H

#include <stdbool.h>
#include <stdint.h>

#include "data/resize.h"
#include "data/rle.h"

/* For each source position, what a step there adds along the output axis. */
typedef struct MaskSteps {
    int32_t *first;  /* (in + 1) first output it touches */
    int32_t *offset; /* (in + 2) its values are value[offset[p] .. offset[p + 1]) */
    int32_t *value;  /* fixed point */
    Buffer memory;
} MaskSteps;

/* Tables and scratch of one thread; zero-initialise before the first use. */
typedef struct MaskResampler {
    ImageSize in, out;
    bool flip;
    ResizeAxis axis;   /* scratch while the tables are made */
    Buffer cumulative; /* scratch while the tables are made */
    MaskSteps rows;    /* differences that a mask edge above source row p makes */
    MaskSteps columns; /* weights of source column p */
    Buffer field;      /* the differences inside the mask's box, small image */
} MaskResampler;

/* mask_resampler_prepare: the tables for masks of size `in`, shared by all masks of an image.
 * flip    mirrors left and right, before resizing
 * errors  E_MEMORY */
Status mask_resampler_prepare(MaskResampler *resampler, ImageSize in, ImageSize out, bool flip);
void mask_resampler_free(MaskResampler *resampler);

/* mask_to_soft_runs: appends the words of one mask to an image's words.
 * mask    checked (rle_check), of the resampler's `in` size
 * side    rows of the padded target, px: rows (side + 1) receives the offsets of each row and the
 *         end
 * used    in: words already taken; out: the same and this mask's
 * errors  E_CONFIG if `capacity` words do not suffice; E_MEMORY */
Status mask_to_soft_runs(MaskResampler *resampler, const Rle *mask, int64_t side, uint32_t *words,
                         int64_t *used, int64_t capacity, int32_t *rows);

/* mask_count_above: number of pixels > threshold (0 <= threshold < 1) of `side` rows. */
int64_t mask_count_above(const uint32_t *words, const int32_t *rows, int64_t side, float threshold);

/* mask_pixels_above: where the pixels with the given numbers are, among those > threshold in
 * row-major order, in one walk.
 * numbers  (n) ascending, each below mask_count_above
 * xy       (n,2) px, x first */
void mask_pixels_above(const uint32_t *words, const int32_t *rows, int64_t side, float threshold,
                       const int64_t *numbers, int64_t n, int32_t *xy);

#endif
