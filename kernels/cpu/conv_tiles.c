/* Rows of results by tiles. See conv_tiles.h.
 *
 * A stretch of a row of results sees, for each row of the kernel, a stretch of a row of the map. It
 * is copied, CONV_TERMS channels at a time and with zeros beside the map, so that it lies close
 * together and every tap is a product of tiles: pixels (m,C), `stride` pixels apart, with the tap's
 * weights (C,K). The copy stays in the second cache level while the panels of weights pass, a panel
 * and its part of the copy in the first.
 */
#include "kernels/cpu/conv_tiles.h"

#include <omp.h>
#include <string.h>

/* pixels of a stretch, unless their copy would exceed a cache; panels that share a copy */
enum { STRETCH = 64, MAX_COPY = 65536, SHARING = 16 };

void conv_copy_pixels(const float *from, int64_t channels, int64_t n_pixels, int64_t begin,
                      int64_t end, int64_t width, float *rows)
{
    size_t bytes = (size_t)width * sizeof(float);
    for (int64_t x = begin; x < end; x++, rows += width) {
        if (x >= 0 && x < n_pixels)
            memcpy(rows, from + x * channels, bytes);
        else
            memset(rows, 0, bytes);
    }
}

/* Results [x, x + n) of row y of an image, in channels [k, end). */
typedef struct Stretch {
    int64_t image, y, x, n, k, end;
} Stretch;

static int64_t stretch_pixels(const ConvShape *s)
{
    int64_t most = MAX_COPY / (s->stride * s->c);
    most = most < 16 ? 16 : tile_min(most, STRETCH);
    int64_t per_row = (s->out_w + most - 1) / most;
    return per_row > 1 ? (s->out_w + per_row - 1) / per_row : most;
}

/* Pixels of the map under n results of a row. */
static int64_t columns_under(const ConvShape *s, int64_t n) { return (n - 1) * s->stride + s->s; }

static void start(const Stretch *t, const float *bias, int64_t pixel, float *dst)
{
    size_t bytes = (size_t)(t->end - t->k) * sizeof(float);
    for (int64_t i = 0; i < t->n; i++) {
        if (bias)
            memcpy(dst + i * pixel, bias + t->k, bytes);
        else
            memset(dst + i * pixel, 0, bytes);
    }
}

/* copy (C/TERMS, columns, TERMS) = the pixels under a stretch in a row of the map. */
static void copy_row(const ConvShape *s, const Stretch *t, const float *src_row, float *copy)
{
    int64_t first = t->x * s->stride - s->pad_w, columns = columns_under(s, t->n);
    for (int64_t c = 0; c < s->c; c += CONV_TERMS)
        conv_copy_pixels(src_row + c, s->c, s->w, first, first + columns,
                         tile_min(CONV_TERMS, s->c - c), copy + c * columns);
}

/* Adds what row r of the kernel gives to a panel of `width` channels. */
static void add_row(const ConvShape *s, const Stretch *t, int64_t width, const float *copy,
                    const float *weights, int64_t pixel, float *dst)
{
    int64_t columns = columns_under(s, t->n);
    for (int64_t c = 0; c < s->c; c += CONV_TERMS) {
        int64_t terms = tile_min(CONV_TERMS, s->c - c);
        for (int64_t column = 0; column < s->s; column++)
            tile_matmul(t->n, width, terms, copy + c * columns + column * terms, s->stride * terms,
                        weights + (column * s->c + c) * width, width, dst, pixel, true);
    }
}

static void run_stretch(const ConvShape *s, const Stretch *t, const float *src, const float *packed,
                        const float *bias, int64_t pixel, float *dst, float *copy)
{
    start(t, bias, pixel, dst + t->k);
    for (int64_t r = 0; r < s->r; r++) {
        int64_t row = t->y * s->stride + r - s->pad_h;
        if (row < 0 || row >= s->h) continue;
        copy_row(s, t, src + (t->image * s->h + row) * s->w * s->c, copy);
        for (int64_t k = t->k; k < t->end; k += CONV_PANEL) {
            int64_t width = tile_min(CONV_PANEL, s->k - k);
            add_row(s, t, width, copy, packed + (k * s->r + r * width) * s->s * s->c, pixel,
                    dst + k);
        }
    }
}

static int64_t copy_floats(const ConvShape *s)
{
    return tile_round(columns_under(s, stretch_pixels(s)) * s->c);
}

size_t conv_tiles_scratch(int n_threads, const ConvShape *s)
{
    return (size_t)(n_threads * copy_floats(s)) * sizeof(float);
}

void conv_tiles_run(int n_threads, const ConvShape *s, const float *src, const float *packed,
                    const float *bias, const ConvPlace *place, float *dst, float *scratch)
{
    int64_t pixels = stretch_pixels(s);
#pragma omp parallel for num_threads(n_threads) schedule(static) collapse(3)
    for (int64_t row = 0; row < s->n * s->out_h; row++) {
        for (int64_t x = 0; x < s->out_w; x += pixels) {
            for (int64_t k = 0; k < s->k; k += SHARING * CONV_PANEL) {
                Stretch t = {.image = row / s->out_h, .y = row % s->out_h, .x = x, .k = k};
                t.n = tile_min(pixels, s->out_w - x);
                t.end = tile_min(k + SHARING * CONV_PANEL, s->k);
                run_stretch(s, &t, src, packed, bias, place->pixel,
                            dst + place->offset + t.image * place->image + t.y * place->row +
                                x * place->pixel,
                            scratch + omp_get_thread_num() * copy_floats(s));
            }
        }
    }
}
