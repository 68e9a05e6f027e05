/* Rows of results by tiles. See conv_tiles.h.
 *
 * A stretch of a row of results sees, for each row of the kernel, a stretch of a row of the map.
 * These are copied, CONV_TERMS channels at a time and with zeros beside the map, so that they lie
 * close together and every tap is a product of tiles: pixels (m,C), `stride` pixels apart, with the
 * tap's weights (C,K). The copy stays in the second cache level while the panels of weights pass, a
 * panel and its part of the copy in the first.
 */
#include "kernels/cpu/conv_tiles.h"

#include "kernels/cpu/conv_winograd.h"

#include <omp.h>
#include <string.h>

/* pixels of a stretch; floats of a copy, which a cache must hold */
enum { STRETCH = 64, MAX_COPY = 65536 };

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

/* Results [x, x + n) of row y of an image, in channels [k, end_k), from channels [c, end_c) of src.
 */
typedef struct Stretch {
    int64_t image, y, x, n, k, end_k, c, end_c;
} Stretch;

static int64_t stretch_pixels(const ConvShape *s)
{
    int64_t per_row = (s->out_w + STRETCH - 1) / STRETCH;
    return per_row > 0 ? (s->out_w + per_row - 1) / per_row : 1;
}

/* Pixels of the map under n results of a row. */
static int64_t columns_under(const ConvShape *s, int64_t n) { return (n - 1) * s->stride + s->s; }

/* Channels of src whose copy fits, in whole chains. (A phase of the data pass may have no taps.) */
static int64_t block_channels(const ConvShape *s)
{
    int64_t pixels = s->r * columns_under(s, stretch_pixels(s));
    int64_t n = pixels > 0 ? MAX_COPY / pixels / CONV_TERMS * CONV_TERMS : 0;
    return tile_min(n < CONV_TERMS ? CONV_TERMS : n, s->c);
}

/* The row of the map under row r of the kernel; negative beside it. */
static int64_t row_under(const ConvShape *s, const Stretch *t, int64_t r)
{
    int64_t row = t->y * s->stride + r - s->pad_h;
    return row < s->h ? row : -1;
}

/* copy (R, C/TERMS, columns, TERMS) = the pixels under a stretch. */
static void copy_rows(const ConvShape *s, const Stretch *t, const float *src, float *copy)
{
    int64_t first = t->x * s->stride - s->pad_w, columns = columns_under(s, t->n);
    for (int64_t r = 0; r < s->r; r++) {
        int64_t row = row_under(s, t, r);
        float *to = copy + r * columns * (t->end_c - t->c);
        for (int64_t c = t->c; row >= 0 && c < t->end_c;
             c += CONV_TERMS, to += columns * CONV_TERMS)
            conv_copy_pixels(src + (t->image * s->h + row) * s->w * s->c + c, s->c, s->w, first,
                             first + columns, tile_min(CONV_TERMS, t->end_c - c), to);
    }
}

/* sum (n,width) = what the copy gives to a panel of `width` channels, to whose weights of channel 0
 * `weights` points. */
static void sum_panel(const ConvShape *s, const Stretch *t, int64_t width, const float *copy,
                      const float *weights, float *sum)
{
    int64_t columns = columns_under(s, t->n);
    bool begun = false;
    for (int64_t r = 0; r < s->r; r++) {
        if (row_under(s, t, r) < 0) continue;
        const float *from = copy + r * columns * (t->end_c - t->c);
        for (int64_t c = t->c; c < t->end_c; c += CONV_TERMS, from += columns * CONV_TERMS) {
            int64_t terms = tile_min(CONV_TERMS, t->end_c - c);
            for (int64_t column = 0; column < s->s; column++, begun = true)
                tile_matmul(t->n, width, terms, from + column * terms, s->stride * terms,
                            weights + ((r * s->s + column) * s->c + c) * width, width, sum, width,
                            begun);
        }
    }
    if (!begun) memset(sum, 0, (size_t)(t->n * width) * sizeof(float));
}

/* dst (n,width) = sum (width/PANEL,n,PANEL), and the bias or what dst holds already. */
static void write_sums(int64_t n, int64_t width, const float *sum, const float *bias, bool add,
                       int64_t pixel, float *dst)
{
    for (int64_t i = 0; i < n; i++, dst += pixel) {
        for (int64_t k = 0; k < width; k += TILE_VEC) {
            int64_t panel = k / CONV_PANEL * CONV_PANEL, ld = tile_min(CONV_PANEL, width - panel);
            const TileVec *from = (const TileVec *)(sum + panel * n + i * ld + k - panel);
            TileVec *to = (TileVec *)(dst + k);
            *to = *from + (add ? *to : bias ? *(const TileVec *)(bias + k) : (TileVec){0});
        }
    }
}

/* Sums lie close together until they are whole: results are often a power of two apart, and would
 * drive each other out of the first cache level. */
static void run_stretch(const ConvShape *s, Stretch *t, const float *src, const float *packed,
                        const float *bias, int64_t pixel, float *dst, float *copy)
{
    float sum[STRETCH * CONV_SHARING * CONV_PANEL];
    int64_t channels = block_channels(s);
    for (t->c = 0; t->c < s->c; t->c += channels) {
        t->end_c = tile_min(t->c + channels, s->c);
        copy_rows(s, t, src, copy);
        for (int64_t k = t->k; k < t->end_k; k += CONV_PANEL) {
            int64_t width = tile_min(CONV_PANEL, s->k - k);
            sum_panel(s, t, width, copy, packed + k * s->r * s->s * s->c, sum + (k - t->k) * t->n);
        }
        write_sums(t->n, t->end_k - t->k, sum, bias ? bias + t->k : NULL, t->c > 0, pixel,
                   dst + t->k);
    }
}

static int64_t copy_floats(const ConvShape *s)
{
    return tile_round(s->r * columns_under(s, stretch_pixels(s)) * block_channels(s));
}

size_t conv_tiles_scratch(int n_threads, const ConvShape *s)
{
    if (conv_winograd_suits(s)) return conv_winograd_scratch(n_threads, s);
    return (size_t)(n_threads * copy_floats(s)) * sizeof(float);
}

void conv_tiles_run(int n_threads, const ConvShape *s, const float *src, const float *packed,
                    const float *bias, const ConvPlace *place, float *dst, float *scratch)
{
    if (conv_winograd_suits(s)) {
        conv_winograd_run(n_threads, s, src, packed, bias, place, dst, scratch);
        return;
    }
    int64_t pixels = stretch_pixels(s);
#pragma omp parallel for num_threads(n_threads) schedule(static) collapse(3)
    for (int64_t row = 0; row < s->n * s->out_h; row++) {
        for (int64_t x = 0; x < s->out_w; x += pixels) {
            for (int64_t k = 0; k < s->k; k += CONV_SHARING * CONV_PANEL) {
                Stretch t = {.image = row / s->out_h, .y = row % s->out_h, .x = x, .k = k};
                t.n = tile_min(pixels, s->out_w - x);
                t.end_k = tile_min(k + CONV_SHARING * CONV_PANEL, s->k);
                run_stretch(s, &t, src, packed, bias, place->pixel,
                            dst + place->offset + t.image * place->image + t.y * place->row +
                                x * place->pixel,
                            scratch + omp_get_thread_num() * copy_floats(s));
            }
        }
    }
}
