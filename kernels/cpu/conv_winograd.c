/* Convolutions by Winograd's F(2x2, 3x3). See conv_winograd.h.
 *
 * A block of tiles is transformed, CONV_TERMS channels at a time, and stays in the second cache
 * level while the panels of weights pass: 16 products of tiles each, and what they give is turned
 * into results while it is in the first.
 */
#include "kernels/cpu/conv_winograd.h"

#include <omp.h>

/* Floats of a transformed block; tiles of it, in steps that fill tile_matmul's blocks of rows on
 * either width of vectors; tiles below which the weights' transform is not worth it. */
enum { BLOCK_FLOATS = 98304, TILES_STEP = 24, MAX_TILES = 96, MIN_TILES = 16 };

static const float zeros[CONV_TERMS];

/* ---- tiles ---- */

static int64_t tiles_of(int64_t results) { return (results + WINO_STEP - 1) / WINO_STEP; }

int64_t conv_winograd_tiles(const ConvShape *s)
{
    return s->n * tiles_of(s->out_h) * tiles_of(s->out_w);
}

bool conv_winograd_suits(const ConvShape *s)
{
    return s->r == 3 && s->s == 3 && s->stride == 1 && s->groups == 1 && s->c % TILE_VEC == 0 &&
           s->k % TILE_VEC == 0 && conv_winograd_tiles(s) >= MIN_TILES;
}

/* The first result of a tile. */
typedef struct Corner {
    int64_t image, y, x;
} Corner;

static Corner corner_of(const ConvShape *s, int64_t tile)
{
    int64_t per_row = tiles_of(s->out_w), per_image = tiles_of(s->out_h) * per_row;
    return (Corner){.image = tile / per_image,
                    .y = tile % per_image / per_row * WINO_STEP,
                    .x = tile % per_row * WINO_STEP};
}

/* at (side,side): where channel c of the pixels from (y, x) on lies in a map (h,w,channels); zeros
 * beside it, for up to CONV_TERMS channels. */
static void locate(const float *map, int64_t h, int64_t w, int64_t channels, int64_t c, int64_t y,
                   int64_t x, int side, const float **at)
{
    for (int i = 0; i < side; i++) {
        for (int j = 0; j < side; j++) {
            bool inside = y + i >= 0 && y + i < h && x + j >= 0 && x + j < w;
            at[i * side + j] = inside ? map + ((y + i) * w + x + j) * channels + c : zeros;
        }
    }
}

/* ---- transforms of a vector of channels ---- */

/* t = B^T d, d and t a column with `step` from element to element. */
ALWAYS_INLINE void source_column(const TileVec *d, int step, TileVec *t)
{
    TileVec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    t[0] = d0 - d2;
    t[step] = d1 + d2;
    t[2 * step] = d2 - d1;
    t[3 * step] = d1 - d3;
}

/* t (4) = A y, y (2) */
ALWAYS_INLINE void results_column(const TileVec *y, int step_y, TileVec *t, int step)
{
    TileVec y0 = y[0], y1 = y[step_y];
    t[0] = y0;
    t[step] = y0 + y1;
    t[2 * step] = y0 - y1;
    t[3 * step] = -y1;
}

/* y (2) = A^T m, m (4) */
ALWAYS_INLINE void sum_column(const TileVec *m, int step, TileVec *y, int step_y)
{
    TileVec middle = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    y[0] = m[0] + middle;
    y[step_y] = difference - m[3 * step];
}

/* u (4) = G g, g (3) */
ALWAYS_INLINE void weights_column(const TileVec *g, int step_g, TileVec *u, int step)
{
    TileVec outer = 0.5f * (g[0] + g[2 * step_g]), inner = 0.5f * g[step_g];
    u[0] = g[0];
    u[step] = outer + inner;
    u[2 * step] = outer - inner;
    u[3 * step] = g[2 * step_g];
}

/* g (3) = G^T u, u (4) */
ALWAYS_INLINE void taps_column(const TileVec *u, int step, TileVec *g, int step_g)
{
    TileVec outer = 0.5f * (u[step] + u[2 * step]);
    g[0] = u[0] + outer;
    g[step_g] = 0.5f * (u[step] - u[2 * step]);
    g[2 * step_g] = outer + u[3 * step];
}

/* ---- transforms of many ---- */

/* v: element e of tile t and channel c at v[e*plane + t*n_c + c], c < n_c. */
static void transform_source(const ConvShape *s, const float *src, int64_t tile, int64_t c,
                             int64_t n_c, int64_t plane, float *v)
{
    Corner at = corner_of(s, tile);
    const float *pixel[WINO_ELEMS];
    locate(src + at.image * s->h * s->w * s->c, s->h, s->w, s->c, c, at.y - s->pad_h,
           at.x - s->pad_w, WINO_SIDE, pixel);
    for (int64_t i = 0; i < n_c; i += TILE_VEC) {
        TileVec d[WINO_ELEMS];
        for (int e = 0; e < WINO_ELEMS; e++) d[e] = *(const TileVec *)(pixel[e] + i);
        for (int j = 0; j < WINO_SIDE; j++) source_column(d + j, WINO_SIDE, d + j);
        for (int j = 0; j < WINO_SIDE; j++) source_column(d + j * WINO_SIDE, 1, d + j * WINO_SIDE);
        for (int e = 0; e < WINO_ELEMS; e++) *(TileVec *)(v + e * plane + i) = d[e];
    }
}

void conv_winograd_source(const ConvShape *s, const float *src, int64_t first_tile, int64_t n_tiles,
                          int64_t c, int64_t n_c, float *v)
{
    for (int64_t t = 0; t < n_tiles; t++)
        transform_source(s, src, first_tile + t, c, n_c, conv_winograd_plane(n_tiles * n_c),
                         v + t * n_c);
}

void conv_winograd_results(const ConvShape *s, const float *ddst, int64_t first_tile,
                           int64_t n_tiles, int64_t k, int64_t n_k, float *v)
{
    int64_t plane = conv_winograd_plane(n_tiles * n_k);
    for (int64_t t = 0; t < n_tiles; t++, v += n_k) {
        Corner at = corner_of(s, first_tile + t);
        const float *pixel[WINO_STEP * WINO_STEP];
        locate(ddst + at.image * s->out_h * s->out_w * s->k, s->out_h, s->out_w, s->k, k, at.y,
               at.x, WINO_STEP, pixel);
        for (int64_t i = 0; i < n_k; i += TILE_VEC) {
            TileVec y[4], half[2 * WINO_SIDE], m[WINO_ELEMS];
            for (int e = 0; e < 4; e++) y[e] = *(const TileVec *)(pixel[e] + i);
            for (int j = 0; j < 2; j++) results_column(y + j, 2, half + j, 2);
            for (int j = 0; j < WINO_SIDE; j++) results_column(half + 2 * j, 1, m + 4 * j, 1);
            for (int e = 0; e < WINO_ELEMS; e++) *(TileVec *)(v + e * plane + i) = m[e];
        }
    }
}

void conv_winograd_taps(const ConvShape *s, int64_t n_k, int64_t n_c, const float *v, float *dw)
{
    int64_t plane = conv_winograd_plane(n_k * n_c);
    for (int64_t k = 0; k < n_k; k++, v += n_c, dw += 9 * s->c) {
        for (int64_t c = 0; c < n_c; c += TILE_VEC) {
            TileVec u[WINO_ELEMS], half[3 * WINO_SIDE], g[9];
            for (int e = 0; e < WINO_ELEMS; e++) u[e] = *(const TileVec *)(v + e * plane + c);
            for (int j = 0; j < WINO_SIDE; j++) taps_column(u + j, 4, half + j, 4);
            for (int j = 0; j < 3; j++) taps_column(half + 4 * j, 1, g + 3 * j, 1);
            for (int tap = 0; tap < 9; tap++) *(TileVec *)(dw + tap * s->c + c) = g[tap];
        }
    }
}

/* u (K/PANEL,16,C,PANEL) = G g G^T of packed (K/PANEL,9,C,PANEL). */
static void transform_weights(int n_threads, const ConvShape *s, const float *packed, float *u)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t k = 0; k < s->k; k += CONV_PANEL) {
        int64_t plane = tile_min(CONV_PANEL, s->k - k) * s->c;
        const float *from = packed + k * 9 * s->c;
        float *to = u + k * WINO_ELEMS * s->c;
        for (int64_t i = 0; i < plane; i += TILE_VEC) {
            TileVec g[9], half[3 * WINO_SIDE], m[WINO_ELEMS];
            for (int tap = 0; tap < 9; tap++) g[tap] = *(const TileVec *)(from + tap * plane + i);
            for (int j = 0; j < 3; j++) weights_column(g + j, 3, half + j, 3);
            for (int j = 0; j < WINO_SIDE; j++) weights_column(half + 3 * j, 1, m + 4 * j, 1);
            for (int e = 0; e < WINO_ELEMS; e++) *(TileVec *)(to + e * plane + i) = m[e];
        }
    }
}

/* ---- the convolution ---- */

static int64_t block_tiles(const ConvShape *s)
{
    int64_t n = BLOCK_FLOATS / (WINO_ELEMS * s->c) / TILES_STEP * TILES_STEP;
    return n < TILES_STEP ? TILES_STEP : tile_min(n, MAX_TILES);
}

/* Floats of n transformed tiles in the first c channels. */
static int64_t source_floats(int64_t n, int64_t c)
{
    int64_t left = c % CONV_TERMS;
    return WINO_ELEMS * (c / CONV_TERMS * conv_winograd_plane(n * CONV_TERMS) +
                         (left ? conv_winograd_plane(n * left) : 0));
}

static int64_t block_floats(const ConvShape *s)
{
    int64_t n = block_tiles(s);
    return source_floats(n, s->c) + WINO_ELEMS * conv_winograd_plane(n * CONV_PANEL);
}

size_t conv_winograd_scratch(int n_threads, const ConvShape *s)
{
    int64_t weights = WINO_ELEMS * s->c * s->k;
    return (size_t)(weights + n_threads * block_floats(s)) * sizeof(float);
}

/* m (16,n,width) = for each element, v (n,C) times a panel of u; v as run_block lays it out. */
static void multiply_panel(const ConvShape *s, int64_t n, int64_t width, const float *v,
                           const float *u, float *m)
{
    for (int e = 0; e < WINO_ELEMS; e++, u += s->c * width, m += conv_winograd_plane(n * width)) {
        for (int64_t c = 0; c < s->c; c += CONV_TERMS) {
            int64_t terms = tile_min(CONV_TERMS, s->c - c);
            tile_matmul(n, width, terms,
                        v + source_floats(n, c) + e * conv_winograd_plane(n * terms), terms,
                        u + c * width, width, m, width, c > 0);
        }
    }
}

/* Results of a tile in `width` channels, which start at dst; m has `plane` from element to
 * element. */
static void write_results(const ConvShape *s, const Corner *at, int64_t width, int64_t plane,
                          const float *m, const float *bias, const ConvPlace *place, float *dst)
{
    int64_t rows = tile_min(WINO_STEP, s->out_h - at->y);
    int64_t columns = tile_min(WINO_STEP, s->out_w - at->x);
    dst += place->offset + at->image * place->image + at->y * place->row + at->x * place->pixel;
    for (int64_t k = 0; k < width; k += TILE_VEC) {
        TileVec e[WINO_ELEMS], half[2 * WINO_SIDE], y[WINO_STEP][WINO_STEP];
        for (int i = 0; i < WINO_ELEMS; i++) e[i] = *(const TileVec *)(m + i * plane + k);
        for (int j = 0; j < WINO_SIDE; j++) sum_column(e + j, 4, half + j, 4);
        for (int j = 0; j < WINO_STEP; j++) sum_column(half + 4 * j, 1, y[j], 1);
        TileVec plus = bias ? *(const TileVec *)(bias + k) : (TileVec){0};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                *(TileVec *)(dst + i * place->row + j * place->pixel + k) = y[i][j] + plus;
    }
}

/* Tiles [first, first + n) in channels [k, end) of the results. block: v (C/TERMS,16,n,TERMS), then
 * m */
static void run_block(const ConvShape *s, int64_t first, int64_t n, int64_t k, int64_t end,
                      const float *src, const float *u, const float *bias, const ConvPlace *place,
                      float *dst, float *v)
{
    float *m = v + source_floats(n, s->c);
    for (int64_t c = 0; c < s->c; c += CONV_TERMS)
        conv_winograd_source(s, src, first, n, c, tile_min(CONV_TERMS, s->c - c),
                             v + source_floats(n, c));
    for (; k < end; k += CONV_PANEL) {
        int64_t width = tile_min(CONV_PANEL, s->k - k);
        multiply_panel(s, n, width, v, u + k * WINO_ELEMS * s->c, m);
        for (int64_t t = 0; t < n; t++) {
            Corner at = corner_of(s, first + t);
            write_results(s, &at, width, conv_winograd_plane(n * width), m + t * width,
                          bias ? bias + k : NULL, place, dst + k);
        }
    }
}

void conv_winograd_run(int n_threads, const ConvShape *s, const float *src, const float *packed,
                       const float *bias, const ConvPlace *place, float *dst, float *scratch)
{
    int64_t n_tiles = conv_winograd_tiles(s), most = block_tiles(s);
    float *u = scratch, *blocks = scratch + WINO_ELEMS * s->c * s->k;
    transform_weights(n_threads, s, packed, u);
#pragma omp parallel for num_threads(n_threads) schedule(static) collapse(2)
    for (int64_t first = 0; first < n_tiles; first += most)
        for (int64_t k = 0; k < s->k; k += CONV_SHARING * CONV_PANEL)
            run_block(s, first, tile_min(most, n_tiles - first), k,
                      tile_min(k + CONV_SHARING * CONV_PANEL, s->k), src, u, bias, place, dst,
                      blocks + omp_get_thread_num() * block_floats(s));
}
