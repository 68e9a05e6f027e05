/* Antialiased bilinear resampling of images: in float for training, Pillow's 8-bit form for
 * inference.
 *
 * Both use the triangle filter that widens with the scale: output i of an axis in -> out has its
 * centre at c = (i + 1/2) in/out, and source j the weight max(0, 1 - |(j + 1/2 - c) / s|), s =
 * max(in/out, 1), divided by their sum. data/mask.c takes the same weights for masks, so image and
 * mask stay aligned.
 *
 * source  Pillow's resize with BILINEAR; torch's interpolate(mode="bilinear", antialias=True)
 */
#ifndef RETORT_DATA_RESIZE_H
#define RETORT_DATA_RESIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "data/buffer.h"

typedef struct ImageSize {
    int64_t height, width; /* px */
} ImageSize;

/* resize_fit: the size whose longer side is `side`: each side is floor(length * side/longer + 1/2).
 * At least 1 px. source  SAM's ResizeLongestSide.get_preprocess_shape */
ImageSize resize_fit(ImageSize size, int64_t side);

typedef struct Pixels {
    const uint8_t *rgb;   /* (size.height, size.width, 3) */
    ImageSize size;       /* px */
    double height, width; /* of the image in it, px; see `length` of resize_axis_prepare */
} Pixels;

typedef struct ResizeAxis { /* the weights of one axis; zero-initialise before the first use */
    int64_t in, out;        /* px */
    double length;          /* px, see resize_axis_prepare */
    int64_t stride;         /* weights stored per output */
    int32_t *first;         /* (out) first source of the output */
    int32_t *n_taps;        /* (out) sources of the output */
    double *weight;         /* (out, stride); 0 beyond n_taps */
    Buffer memory;
} ResizeAxis;

/* resize_axis_prepare: computes the table, in the memory of an earlier one where it fits.
 * length  sources that the outputs span, px, in - 1 < length <= in: less than `in` where the last
 *         source is only partly image (a JPEG decoded at a reduced scale)
 * errors  E_MEMORY */
Status resize_axis_prepare(ResizeAxis *axis, int64_t in, double length, int64_t out);
void resize_axis_free(ResizeAxis *axis);

/* Tables and scratch of one thread; zero-initialise before the first use. */
typedef struct Resizer {
    ResizeAxis rows, columns;
    Buffer scratch;
} Resizer;

void resizer_free(Resizer *resizer);

/* resize_to_tensor: resamples, subtracts the mean, divides by the standard deviation (ImageNet's,
 * on the 0..255 scale) and pads with zeros at the right and bottom.
 * shapes  dst (side, side, 3)
 * units   out <= side, px; flip mirrors left and right (before resizing; the filter is symmetric)
 * errors  E_MEMORY
 * source  the training transforms of EfficientViT-SAM, in their order */
Status resize_to_tensor(Resizer *resizer, const Pixels *pixels, ImageSize out, bool flip,
                        int64_t side, float *dst);

/* resize_bytes: Pillow's result to the last bit: horizontal pass, then vertical pass on its rounded
 * bytes, weights of 22 bits; a pass that changes nothing is skipped.
 * shapes  dst (out.height, out.width, 3)
 * errors  E_MEMORY */
Status resize_bytes(Resizer *resizer, const Pixels *pixels, ImageSize out, uint8_t *dst);

/* bytes_to_tensor: normalises and pads as resize_to_tensor does, without resizing.
 * shapes  pixels (size.height, size.width, 3)   dst (side, side, 3) */
void bytes_to_tensor(const uint8_t *pixels, ImageSize size, int64_t side, float *dst);

#endif
