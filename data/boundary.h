/* The boundary of a mask, for the boundary IoU: its pixels within a distance of its edge.
 *
 * Used by validation. Distances are those of a square window (chessboard): the boundary is the mask
 * without its erosion by a square of 2*distance + 1 px, and what lies outside the image is
 * background, so that the border of the image is an edge too.
 *
 * source  Cheng et al., "Boundary IoU" (2021)
 */
#ifndef RETORT_DATA_BOUNDARY_H
#define RETORT_DATA_BOUNDARY_H

#include <stdint.h>

#include "data/buffer.h"
#include "data/resize.h"

typedef struct BoundaryScratch { /* of one thread; zero-initialise before the first use */
    Buffer rows, columns;        /* of boundary_of */
    Buffer first, second;        /* of boundary_iou: the boundaries */
} BoundaryScratch;

void boundary_scratch_free(BoundaryScratch *scratch);

/* boundary_distance: 2 % of the image's diagonal, as published. Units: px, at least 1 */
int64_t boundary_distance(ImageSize size);

/* boundary_of: dst = 1 where mask is set within `distance` px of a pixel where it is not, else 0.
 * shapes  mask, dst (size.height, size.width)
 * errors  E_MEMORY */
Status boundary_of(BoundaryScratch *scratch, const uint8_t *mask, ImageSize size, int64_t distance,
                   uint8_t *dst);

/* boundary_iou: the IoU of the boundaries of two masks; 0 if both have none.
 * errors  E_MEMORY */
Status boundary_iou(BoundaryScratch *scratch, const uint8_t *a, const uint8_t *b, ImageSize size,
                    int64_t distance, double *out);

#endif
