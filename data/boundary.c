/* Boundaries of masks. See boundary.h.
 *
 * The erosion by a square is one by a row and one by a column, and along a line a pixel survives if
 * the run of set pixels that it lies in goes on for `distance` to either side.
 */
#include "data/boundary.h"

#include <math.h>

void boundary_scratch_free(BoundaryScratch *scratch)
{
    buffer_free(&scratch->rows);
    buffer_free(&scratch->columns);
    buffer_free(&scratch->first);
    buffer_free(&scratch->second);
}

int64_t boundary_distance(ImageSize size)
{
    double diagonal = hypot((double)size.height, (double)size.width);
    int64_t distance = (int64_t)rint(0.02 * diagonal);
    return distance > 1 ? distance : 1;
}

/* dst[i] = src[i-distance .. i+distance] are all set, none of them outside the line of n pixels. */
static void erode_line(const uint8_t *src, int64_t n, int64_t stride, int64_t distance,
                       uint8_t *dst)
{
    int64_t run = 0; /* set pixels up to i */
    for (int64_t i = 0; i < n; i++) {
        run = src[i * stride] ? run + 1 : 0;
        dst[i * stride] = 0;
        if (i >= 2 * distance && run > 2 * distance) dst[(i - distance) * stride] = 1;
    }
}

Status boundary_of(BoundaryScratch *scratch, const uint8_t *mask, ImageSize size, int64_t distance,
                   uint8_t *dst)
{
    int64_t n_px = size.height * size.width;
    TRY(buffer_reserve(&scratch->rows, (size_t)n_px));
    TRY(buffer_reserve(&scratch->columns, (size_t)n_px));
    uint8_t *rows = scratch->rows.data, *eroded = scratch->columns.data;
    for (int64_t y = 0; y < size.height; y++)
        erode_line(mask + y * size.width, size.width, 1, distance, rows + y * size.width);
    for (int64_t x = 0; x < size.width; x++)
        erode_line(rows + x, size.height, size.width, distance, eroded + x);
    for (int64_t i = 0; i < n_px; i++) dst[i] = mask[i] != 0 && !eroded[i];
    return OK;
}

Status boundary_iou(BoundaryScratch *scratch, const uint8_t *a, const uint8_t *b, ImageSize size,
                    int64_t distance, double *out)
{
    int64_t n_px = size.height * size.width, common = 0, either = 0;
    TRY(buffer_reserve(&scratch->first, (size_t)n_px));
    TRY(buffer_reserve(&scratch->second, (size_t)n_px));
    uint8_t *first = scratch->first.data, *second = scratch->second.data;
    TRY(boundary_of(scratch, a, size, distance, first));
    TRY(boundary_of(scratch, b, size, distance, second));
    for (int64_t i = 0; i < n_px; i++) {
        common += first[i] & second[i];
        either += first[i] | second[i];
    }
    *out = (double)common / ((double)either + 1e-7);
    return OK;
}
