/* Exact Euclidean distance transform. See distance.h.
 *
 * Two passes. Down and up the columns: the distance to the nearest zero of the same column. Along
 * the rows: the minimum over columns i of (x - i)^2 + column(i)^2, the lower envelope of parabolas.
 * Zeros of a row part it: no parabola beyond a zero is below that zero's own, so each run of
 * foreground between two zeros is solved alone.
 */
#include "data/distance.h"

#include <assert.h>

/* Column i is nearest at the positions from `from` on, up to the next entry's. */
typedef struct Piece {
    int64_t column, from;
} Piece;

void distance_scratch_free(DistanceScratch *scratch) { buffer_free(&scratch->memory); }

static void column_pass(const uint8_t *mask, int64_t height, int64_t width, int64_t stride,
                        int32_t *dst)
{
    for (int64_t y = 0; y < height; y++) {
        const int32_t *above = dst + (y - 1) * width;
        for (int64_t x = 0; x < width; x++)
            dst[y * width + x] = mask[y * stride + x] ? (y > 0 ? above[x] : 0) + 1 : 0;
    }
    for (int64_t y = height - 1; y >= 0; y--) {
        int32_t *row = dst + y * width;
        for (int64_t x = 0; x < width; x++) {
            int32_t from_below = (y + 1 < height ? row[width + x] : 0) + 1;
            row[x] = row[x] < from_below ? row[x] : from_below;
        }
    }
}

static int64_t parabola(const int64_t *height, int64_t column, int64_t x)
{
    return (x - column) * (x - column) + height[column];
}

/* The last position where column i is not worse than column u > i. */
static int64_t last_of(const int64_t *height, int64_t i, int64_t u)
{
    return (u * u - i * i + height[u] - height[i]) / (2 * (u - i));
}

/* The lower envelope of n parabolas with the given heights; returns its number of pieces. */
static int64_t envelope(const int64_t *height, int64_t n, Piece *pieces)
{
    int64_t last = 0;
    pieces[0] = (Piece){0, 0};
    for (int64_t u = 1; u < n; u++) {
        while (last >= 0 && parabola(height, pieces[last].column, pieces[last].from) >
                                parabola(height, u, pieces[last].from))
            last--;
        int64_t from = last < 0 ? 0 : 1 + last_of(height, pieces[last].column, u);
        if (from < n) pieces[++last] = (Piece){u, from};
    }
    return last + 1;
}

/* A run of n foreground pixels with a zero on either side: column distances in, squared out. */
static void solve_run(int32_t *run, int64_t n, int64_t *height, Piece *pieces)
{
    height[0] = height[n + 1] = 0;
    for (int64_t i = 0; i < n; i++) height[i + 1] = (int64_t)run[i] * run[i];
    int64_t piece = envelope(height, n + 2, pieces) - 1;
    for (int64_t x = n; x > 0; x--) {
        while (pieces[piece].from > x) piece--;
        run[x - 1] = (int32_t)parabola(height, pieces[piece].column, x);
    }
}

Status distance_squared(DistanceScratch *scratch, const uint8_t *mask, int64_t height,
                        int64_t width, int64_t stride, int32_t *dst)
{
    assert(height <= UINT16_MAX || width <= UINT16_MAX);
    size_t n = (size_t)width + 2;
    TRY(buffer_reserve(&scratch->memory, n * (sizeof(Piece) + sizeof(int64_t))));
    Piece *pieces = scratch->memory.data;
    int64_t *heights = (int64_t *)(pieces + n);
    column_pass(mask, height, width, stride, dst);
    for (int64_t y = 0; y < height; y++) {
        int32_t *row = dst + y * width;
        for (int64_t x = 0, end; x < width; x = end + 1) {
            for (end = x; end < width && row[end] > 0;) end++;
            if (end > x) solve_run(row + x, end - x, heights, pieces);
        }
    }
    return OK;
}
