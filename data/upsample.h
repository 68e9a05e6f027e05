/* From the decoder's low-resolution logits to a mask of the image's size.
 *
 * SAM's way: bilinear to the prompt frame (a square), cut off the padding, bilinear again to the
 * image, foreground where the logit is > 0. Neither step antialiases. Both resizings are separable,
 * so all columns are done first, on the few low-resolution rows; no square of the frame is made.
 * Used by the predictor.
 *
 * source  SAM's postprocess_masks: torch's interpolate(mode="bilinear", align_corners=False) twice
 */
#ifndef RETORT_DATA_UPSAMPLE_H
#define RETORT_DATA_UPSAMPLE_H

#include <stdint.h>

#include "data/buffer.h"
#include "data/resize.h"

typedef struct UpsampleAxis { /* output i = (1 - weight) * source[first] + weight * source[second]
                               */
    int32_t *first, *second;
    float *weight;
} UpsampleAxis;

typedef struct Upsampler {   /* tables and scratch of one thread; zero-initialise before use */
    int64_t lowres, frame;   /* sides, px */
    ImageSize extent, image; /* of the image inside the frame, and itself, px */
    UpsampleAxis to_frame;   /* lowres -> frame, either axis */
    UpsampleAxis to_rows, to_columns; /* extent -> image */
    Buffer tables, scratch;
} Upsampler;

/* upsampler_prepare: the tables for images of a size.
 * units   px; lowres and frame are sides of squares
 * errors  E_MEMORY */
Status upsampler_prepare(Upsampler *upsampler, int64_t lowres, int64_t frame, ImageSize image);
void upsampler_free(Upsampler *upsampler);

/* upsample_logits: (lowres, lowres) -> (image.height, image.width), equal to torch's up to
 * rounding. */
void upsample_logits(Upsampler *upsampler, const float *lowres, float *dst);

/* upsample_mask: the same, thresholded: 1 where the logit is > 0, else 0. */
void upsample_mask(Upsampler *upsampler, const float *lowres, uint8_t *dst);

/* frame_coordinate: a coordinate of the image in the prompt frame, by the ratio of the rounded
 * sizes of its axis. source  SAM's ResizeLongestSide.apply_coords */
static inline double frame_coordinate(double px, int64_t extent_px, int64_t image_px)
{
    return px * ((double)extent_px / (double)image_px);
}

#endif
