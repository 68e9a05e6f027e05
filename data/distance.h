/* Exact Euclidean distance transform of a binary mask, in integers. Used by the clicker.
 *
 * source  A. Meijster, J. Roerdink, W. Hesselink, "A general algorithm for computing distance
 *         transforms in linear time" (2000)
 */
#ifndef RETORT_DATA_DISTANCE_H
#define RETORT_DATA_DISTANCE_H

#include <stdint.h>

#include "data/buffer.h"

typedef struct DistanceScratch { /* of one thread; zero-initialise before the first use */
    Buffer memory;
} DistanceScratch;

void distance_scratch_free(DistanceScratch *scratch);

/* distance_squared: for every pixel the squared distance to the nearest zero pixel. Everything
 * outside the mask counts as zero, so a pixel on the border has the distance 1.
 * shapes  mask (height, width), row-major with `stride` bytes from row to row, nonzero = foreground
 *         dst (height, width)
 * units   px^2; the smaller side is at most 65,535 px, so that they fit
 * errors  E_MEMORY */
Status distance_squared(DistanceScratch *scratch, const uint8_t *mask, int64_t height,
                        int64_t width, int64_t stride, int32_t *dst);

#endif
