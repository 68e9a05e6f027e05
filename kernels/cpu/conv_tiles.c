/* The f32 forward pass of dense convolutions, by tiles, with short sums.
 *
 * Called by conv.c. oneDNN adds all R*S*C products of an output in one chain of roundings, whose
 * error grows with the square root of its length; the batch norms behind linear attention magnify
 * it tenfold (see README, "What f32 costs"). Here a chain is at most TERMS products of one tap, and
 * the chains are added up: a quarter of the error for the same number of operations.
 *
 * A tap (r,s) over a row of outputs is a product of tiles: pixels (m,C), `stride` pixels apart,
 * with the tap's weights (C,K). The weights are packed so that a panel of them stays in the first
 * cache level while the pixels pass.
 */
#include "kernels/cpu/conv.h"

#include "base/memory.h"
#include "kernels/cpu/tile.h"

#include <stdlib.h>
#include <string.h>

/* terms of one chain; outputs of a panel: what tile_matmul holds in registers */
enum { TERMS = 32, PANEL = 2 * TILE_VEC };
/* of a 1x1 convolution: pixels of a block (a multiple of tile_matmul's rows), and panels that meet
 * a block together */
enum { BLOCK_PIXELS = 48, BLOCK_PANELS = 16 };

typedef struct TilesState {
    ConvShape shape;
    Stage src[2], dst;
    size_t packed_offset;
} TilesState;

bool conv_tiles_usable(const ConvShape *shape, DType in)
{
    return shape->pass == CONV_FORWARD && in == DT_F32 && shape->groups == 1 &&
           shape->k % TILE_VEC == 0;
}

/* ---- rows of outputs ---- */

/* packed (K/PANEL, R*S, C, PANEL) = weights (K, R*S, C); the last panel may be narrower. */
static void pack_weights(const KernelCall *call, const ConvShape *s, const float *weights,
                         float *packed)
{
    int64_t taps = s->r * s->s, n_panels = (s->k + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t p = 0; p < n_panels; p++) {
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t width = tile_min(PANEL, s->k - p * PANEL);
            const float *from = weights + (p * PANEL * taps + tap) * s->c;
            float *to = packed + (p * PANEL * taps + tap * width) * s->c;
            tile_transpose(width, s->c, from, taps * s->c, to, width);
        }
    }
}

/* One tap of a row of outputs: those whose source pixel lies inside the map. */
static void add_tap(const ConvShape *s, int64_t column, const float *src_row, const float *weights,
                    int64_t width, float *dst_row)
{
    int64_t shift = column - s->pad_w; /* source of output x: x * stride + shift */
    int64_t first = shift < 0 ? (-shift + s->stride - 1) / s->stride : 0;
    int64_t end = tile_min(s->out_w, (s->w - shift + s->stride - 1) / s->stride);
    if (first >= end) return;
    for (int64_t c = 0; c < s->c; c += TERMS)
        tile_matmul(end - first, width, tile_min(TERMS, s->c - c),
                    src_row + (first * s->stride + shift) * s->c + c, s->stride * s->c,
                    weights + c * width, width, dst_row + first * s->k, s->k, true);
}

/* n pixels of a result begin as the bias, or as zeros. */
static void start(int64_t n, int64_t width, int64_t ld, const float *bias, float *dst)
{
    for (int64_t i = 0; i < n; i++) {
        if (bias)
            memcpy(dst + i * ld, bias, (size_t)width * sizeof(float));
        else
            memset(dst + i * ld, 0, (size_t)width * sizeof(float));
    }
}

/* Outputs of one panel in row y of image n. */
static void panel_row(const ConvShape *s, int64_t n, int64_t y, int64_t panel, const float *src,
                      const float *packed, const float *bias, float *dst)
{
    int64_t k = panel * PANEL, width = tile_min(PANEL, s->k - k);
    float *dst_row = dst + (n * s->out_h + y) * s->out_w * s->k + k;
    start(s->out_w, width, s->k, bias ? bias + k : NULL, dst_row);
    for (int64_t r = 0; r < s->r; r++) {
        int64_t row = y * s->stride + r - s->pad_h;
        if (row < 0 || row >= s->h) continue;
        for (int64_t column = 0; column < s->s; column++)
            add_tap(s, column, src + (n * s->h + row) * s->w * s->c,
                    packed + (k * s->r * s->s + (r * s->s + column) * width) * s->c, width,
                    dst_row);
    }
}

static void run_rows(const KernelCall *call, const ConvShape *s, const float *src,
                     const float *packed, const float *bias, float *dst)
{
    int64_t n_panels = (s->k + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(3)
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t y = 0; y < s->out_h; y++)
            for (int64_t panel = 0; panel < n_panels; panel++)
                panel_row(s, n, y, panel, src, packed, bias, dst);
}

/* ---- 1x1: rows do not matter ---- */

/* Outputs of panels [begin, end) for n pixels. Their channels are walked over once, TERMS at a
 * time, in a copy that lies close together: in the map they are C apart. */
static void block_panels(const ConvShape *s, int64_t n, int64_t begin, int64_t end,
                         const float *src, const float *packed, const float *bias, float *dst)
{
    float pixels[BLOCK_PIXELS * TERMS];
    int64_t first = begin * PANEL;
    start(n, tile_min(end * PANEL, s->k) - first, s->k, bias ? bias + first : NULL, dst + first);
    for (int64_t c = 0; c < s->c; c += TERMS) {
        int64_t terms = tile_min(TERMS, s->c - c);
        for (int64_t i = 0; i < n; i++)
            memcpy(pixels + i * terms, src + i * s->c + c, (size_t)terms * sizeof(float));
        for (int64_t panel = begin; panel < end; panel++) {
            int64_t k = panel * PANEL, width = tile_min(PANEL, s->k - k);
            tile_matmul(n, width, terms, pixels, terms, packed + k * s->c + c * width, width,
                        dst + k, s->k, true);
        }
    }
}

static void run_pointwise(const KernelCall *call, const ConvShape *s, const float *src,
                          const float *packed, const float *bias, float *dst)
{
    int64_t n = s->n * s->h * s->w, n_blocks = (n + BLOCK_PIXELS - 1) / BLOCK_PIXELS;
    int64_t n_panels = (s->k + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t block = 0; block < n_blocks; block++)
        for (int64_t panel = 0; panel < n_panels; panel += BLOCK_PANELS)
            block_panels(s, tile_min(BLOCK_PIXELS, n - block * BLOCK_PIXELS), panel,
                         tile_min(panel + BLOCK_PANELS, n_panels),
                         src + block * BLOCK_PIXELS * s->c, packed, bias,
                         dst + block * BLOCK_PIXELS * s->k);
}

/* ---- binding ---- */

static void tiles_run(const KernelCall *call)
{
    const TilesState *state = call->state;
    const ConvShape *s = &state->shape;
    float *packed = (float *)((char *)call->scratch + state->packed_offset);
    const float *src = stage_in(call, &state->src[0], &call->src[0]);
    const float *weights = stage_in(call, &state->src[1], &call->src[1]);
    float *dst = stage_target(call, &state->dst, &call->dst[0]);
    const float *bias = s->bias ? call->src[2].data : NULL;
    pack_weights(call, s, weights, packed);
    (conv_is_pointwise(s) ? run_pointwise : run_rows)(call, s, src, packed, bias, dst);
    stage_out(call, &state->dst, &call->dst[0]);
}

static void tiles_release(void *state) { free(state); }

Status conv_tiles_bind(KernelCall *call)
{
    TilesState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = tiles_release;
    call->run = tiles_run;
    state->shape = conv_shape(call);
    const ConvShape *s = &state->shape;
    state->src[0] = stage_plan(call, &call->src[0], DT_F32);
    state->src[1] = stage_plan(call, &call->src[1], DT_F32);
    state->dst = stage_plan(call, &call->dst[0], DT_F32);
    state->packed_offset = stage_book(call, (size_t)(s->k * s->r * s->s * s->c) * sizeof(float));
    return OK;
}
