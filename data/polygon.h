/* Polygons to masks, pixel for pixel as the COCO API does it. Used by data/coco.c.
 *
 * source  the COCO API: the outline is walked on a grid five times as fine; where a step of it
 *         crosses the middle of a pixel column, the column's pixels from there on change sides
 */
#ifndef RETORT_DATA_POLYGON_H
#define RETORT_DATA_POLYGON_H

#include <stdint.h>

#include "data/buffer.h"
#include "data/rle.h"

typedef struct Polygon {
    const double *xy; /* (n,2) corners, x first, px; closed by itself */
    int64_t n;
} Polygon;

typedef struct PolygonScratch { /* of one thread; zero-initialise before the first use */
    Buffer crossings, spans, counts;
} PolygonScratch;

void polygon_scratch_free(PolygonScratch *scratch);

/* polygons_to_rle: the union of polygons.
 * units   coordinates up to 2^20 px in either direction; what lies outside the mask is cut off
 * out     runs in the scratch, valid until its next use; no run inside is 0
 * errors  E_FORMAT for a coordinate that is larger, or no number; E_MEMORY */
Status polygons_to_rle(PolygonScratch *scratch, const Polygon *polygons, int64_t n_polygons,
                       int64_t height, int64_t width, Rle *out);

/* polygons_area: the sum of what each encloses, by its corners, px: not the pixels of the mask.
 * polygons_extent: the smallest and the largest x, y of all corners: x0, y0, x1, y1; all 0 without
 * a corner. */
double polygons_area(const Polygon *polygons, int64_t n_polygons);
void polygons_extent(const Polygon *polygons, int64_t n_polygons, double extent[4]);

#endif
