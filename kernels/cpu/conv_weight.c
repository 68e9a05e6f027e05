/* The f32 weight pass of dense convolutions, by tiles: dw (K,R,S,C) is, tap by tap, the sum of ddst
 * (pixels,K)^T src (pixels under the tap,C).
 *
 * Called by conv.c. The sum of a block of dw stays in the second cache level while the pixels pass,
 * a stretch of a row of results at a time: what the block needs of it is copied close together, in
 * rows of channels, so that the first level holds it for all taps. By Winograd (conv_winograd.h)
 * the stretches are of tiles, and a block has 16 elements a pair of channels until all of them have
 * passed.
 *
 * The stretches are dealt to slabs, and a slab has a sum of its own, so that there is work for many
 * cores where dw is small; the slabs' sums are then added in order. Their number is the shape's,
 * not the threads': any number of threads gives the same bits.
 */
#include "kernels/cpu/conv_tiles.h"
#include "kernels/cpu/conv_winograd.h"

#include "base/memory.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* pixels of one chain of sums; channels of a block of dw: for kernels of one pixel it is larger, as
 * without other taps the copies are used less often; blocks times slabs: at least */
enum { STRETCH = 64, BLOCK_K = 64, BLOCK_C = 32, POINT_K = 256, POINT_C = 64, MIN_UNITS = 64 };
/* by Winograd: tiles of one chain of sums; channels of either side of a block */
enum { WINO_TILES = 48, WINO_BLOCK = CONV_TERMS };

typedef struct WeightState {
    ConvShape shape; /* of a 1x1 convolution: one row of all pixels */
    int64_t block_k, block_c, n_blocks_k, n_blocks_c;
    bool winograd;            /* stretches are of tiles, of all images one after the other */
    int64_t stretch, per_row; /* pixels, at most; stretches of a row */
    int64_t n_stretches;
    int64_t n_slabs;
    Stage src, ddst;
    size_t slabs_offset; /* (n_slabs - 1) sums like dw; the first slab's is dw itself */
    /* of a thread: ddst (stretch, block_k), src (columns, block_c), sum (R*S, block_k, block_c); by
     * Winograd, with 16 elements of each */
    size_t desks_offset;
    int64_t n_ddst_copy, n_src_copy, n_sum; /* floats of each */
} WeightState;

bool conv_weight_usable(const ConvShape *shape, DType in)
{
    return shape->pass == CONV_WEIGHT && in == DT_F32 && shape->groups == 1 &&
           shape->c % TILE_VEC == 0;
}

/* One block of dw: its first channels and their numbers. */
typedef struct Block {
    int64_t k, n_k, c, n_c;
} Block;

/* Where a thread works: copies of ddst and src, and the block's sum. */
typedef struct Desk {
    float *ddst, *src, *sum;
} Desk;

/* Results [x, x + n) of row y of an image. */
typedef struct Stretch {
    int64_t image, y, x, n;
} Stretch;

/* Adds what a stretch gives to a block. */
static void add_stretch(const WeightState *state, const Block *block, const Stretch *t,
                        const float *src, const float *ddst, const Desk *desk)
{
    const ConvShape *s = &state->shape;
    const float *ddst_row = ddst + (t->image * s->out_h + t->y) * s->out_w * s->k + block->k;
    conv_copy_pixels(ddst_row, s->k, s->out_w, t->x, t->x + t->n, block->n_k, desk->ddst);
    int64_t first = t->x * s->stride - s->pad_w, end = first + (t->n - 1) * s->stride + s->s;
    for (int64_t r = 0; r < s->r; r++) {
        int64_t row = t->y * s->stride + r - s->pad_h;
        if (row < 0 || row >= s->h) continue;
        const float *src_row = src + (t->image * s->h + row) * s->w * s->c + block->c;
        conv_copy_pixels(src_row, s->c, s->w, first, end, block->n_c, desk->src);
        for (int64_t column = 0; column < s->s; column++)
            tile_matmul_ta(block->n_k, block->n_c, t->n, desk->ddst, block->n_k,
                           desk->src + column * block->n_c, s->stride * block->n_c,
                           desk->sum + (r * s->s + column) * block->n_k * block->n_c, block->n_c,
                           true);
    }
}

/* dw (n_k,R*S,n_c), a part of the whole, = sum (R*S,n_k,n_c). */
static void write_block(const ConvShape *s, const Block *block, const float *sum, float *dw)
{
    int64_t taps = s->r * s->s;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t k = 0; k < block->n_k; k++, sum += block->n_c)
            memcpy(dw + (k * taps + tap) * s->c, sum, (size_t)block->n_c * sizeof(float));
}

/* dw = what stretches [i, end) give to a block of it. */
static void run_pixels(const WeightState *state, const float *src, const float *ddst, int64_t i,
                       int64_t end, const Block *block, const Desk *desk, float *dw)
{
    const ConvShape *s = &state->shape;
    memset(desk->sum, 0, (size_t)state->n_sum * sizeof(float));
    for (; i < end; i++) {
        int64_t row = i / state->per_row, x = i % state->per_row * state->stretch;
        Stretch t = {.image = row / s->out_h, .y = row % s->out_h, .x = x};
        t.n = tile_min(state->stretch, s->out_w - x);
        add_stretch(state, block, &t, src, ddst, desk);
    }
    write_block(s, block, desk->sum, dw);
}

/* The same where stretches are of tiles. */
static void run_tiles(const WeightState *state, const float *src, const float *ddst, int64_t i,
                      int64_t end, const Block *block, const Desk *desk, float *dw)
{
    const ConvShape *s = &state->shape;
    int64_t plane = conv_winograd_plane(block->n_k * block->n_c), n_tiles = conv_winograd_tiles(s);
    memset(desk->sum, 0, (size_t)state->n_sum * sizeof(float));
    for (; i < end; i++) {
        int64_t first = i * state->stretch, n = tile_min(state->stretch, n_tiles - first);
        conv_winograd_results(s, ddst, first, n, block->k, block->n_k, desk->ddst);
        conv_winograd_source(s, src, first, n, block->c, block->n_c, desk->src);
        for (int e = 0; e < WINO_ELEMS; e++)
            tile_matmul_ta(block->n_k, block->n_c, n,
                           desk->ddst + e * conv_winograd_plane(n * block->n_k), block->n_k,
                           desk->src + e * conv_winograd_plane(n * block->n_c), block->n_c,
                           desk->sum + e * plane, block->n_c, true);
    }
    conv_winograd_taps(s, block->n_k, block->n_c, desk->sum, dw);
}

/* A thread's desk at `floats`, or at NULL only what it takes, in floats. */
static int64_t lay_out_desk(const WeightState *state, float *floats, Desk *desk)
{
    const TilePart parts[] = {{&desk->ddst, state->n_ddst_copy},
                              {&desk->src, state->n_src_copy},
                              {&desk->sum, state->n_sum}};
    return tile_lay_out(floats, parts, 3);
}

static int64_t n_weights(const ConvShape *s) { return s->k * s->r * s->s * s->c; }

static Block block_at(const WeightState *state, int64_t index)
{
    const ConvShape *s = &state->shape;
    Block block = {.k = index / state->n_blocks_c * state->block_k,
                   .c = index % state->n_blocks_c * state->block_c};
    block.n_k = tile_min(state->block_k, s->k - block.k);
    block.n_c = tile_min(state->block_c, s->c - block.c);
    return block;
}

/* dw = what slab gives to block `index` of it; dw is the slab's. */
static void run_unit(const WeightState *state, const float *src, const float *ddst, int64_t slab,
                     int64_t index, float *dw, float *desks)
{
    const ConvShape *s = &state->shape;
    Desk desk;
    int64_t floats = lay_out_desk(state, NULL, &desk);
    lay_out_desk(state, desks + omp_get_thread_num() * floats, &desk);
    Block block = block_at(state, index);
    int64_t begin = state->n_stretches * slab / state->n_slabs;
    int64_t end = state->n_stretches * (slab + 1) / state->n_slabs;
    dw += block.k * s->r * s->s * s->c + block.c;
    if (state->winograd)
        run_tiles(state, src, ddst, begin, end, &block, &desk, dw);
    else
        run_pixels(state, src, ddst, begin, end, &block, &desk, dw);
}

/* dw = the slabs' sums, added in order. */
static void add_slabs(const KernelCall *call, const WeightState *state, const float *slabs,
                      float *dw)
{
    int64_t n = n_weights(&state->shape);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t begin = 0; begin < n; begin += CPU_BLOCK) {
        int64_t end = tile_min(begin + CPU_BLOCK, n);
        for (int64_t slab = 0; slab + 1 < state->n_slabs; slab++)
            for (int64_t i = begin; i < end; i++) dw[i] += slabs[slab * n + i];
    }
}

static void weight_run(const KernelCall *call)
{
    const WeightState *state = call->state;
    const float *src = stage_in(call, &state->src, &call->src[0]);
    const float *ddst = stage_in(call, &state->ddst, &call->src[1]);
    float *dw = call->dst[0].data;
    float *slabs = (float *)((char *)call->scratch + state->slabs_offset);
    float *desks = (float *)((char *)call->scratch + state->desks_offset);
    int64_t n_blocks = state->n_blocks_k * state->n_blocks_c;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t slab = 0; slab < state->n_slabs; slab++)
        for (int64_t index = 0; index < n_blocks; index++)
            run_unit(state, src, ddst, slab, index,
                     slab == 0 ? dw : slabs + (slab - 1) * n_weights(&state->shape), desks);
    add_slabs(call, state, slabs, dw);
}

static void weight_release(void *state) { free(state); }

/* As many pieces of n, of at most `most`, as alike as whole vectors allow. */
static int64_t even_piece(int64_t n, int64_t most)
{
    int64_t pieces = (n + most - 1) / most, piece = (n + pieces - 1) / pieces;
    return tile_min(most, (piece + TILE_LANES - 1) / TILE_LANES * TILE_LANES);
}

static void divide_pixels(WeightState *state)
{
    const ConvShape *s = &state->shape;
    state->per_row = (s->out_w + STRETCH - 1) / STRETCH;
    state->stretch = (s->out_w + state->per_row - 1) / state->per_row;
    state->n_stretches = s->n * s->out_h * state->per_row;
    state->n_ddst_copy = tile_round(state->stretch * state->block_k);
    state->n_src_copy = tile_round(((state->stretch - 1) * s->stride + s->s) * state->block_c);
    state->n_sum = s->r * s->s * state->block_k * state->block_c;
}

static void divide_tiles(WeightState *state)
{
    int64_t n_tiles = conv_winograd_tiles(&state->shape);
    state->stretch = tile_min(WINO_TILES, n_tiles);
    state->n_stretches = (n_tiles + state->stretch - 1) / state->stretch;
    state->n_ddst_copy = WINO_ELEMS * conv_winograd_plane(state->stretch * state->block_k);
    state->n_src_copy = WINO_ELEMS * conv_winograd_plane(state->stretch * state->block_c);
    state->n_sum = WINO_ELEMS * conv_winograd_plane(state->block_k * state->block_c);
}

static void divide(WeightState *state)
{
    const ConvShape *s = &state->shape;
    bool point = conv_is_pointwise(s);
    state->block_k = even_piece(s->k, state->winograd ? WINO_BLOCK : point ? POINT_K : BLOCK_K);
    state->block_c = even_piece(s->c, state->winograd ? WINO_BLOCK : point ? POINT_C : BLOCK_C);
    state->n_blocks_k = (s->k + state->block_k - 1) / state->block_k;
    state->n_blocks_c = (s->c + state->block_c - 1) / state->block_c;
    if (state->winograd)
        divide_tiles(state);
    else
        divide_pixels(state);
    int64_t n_blocks = state->n_blocks_k * state->n_blocks_c;
    state->n_slabs = tile_min(state->n_stretches, (MIN_UNITS + n_blocks - 1) / n_blocks);
}

Status conv_weight_bind(KernelCall *call)
{
    WeightState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = weight_release;
    call->run = weight_run;
    state->shape = conv_flat_shape(call);
    state->winograd = conv_winograd_suits(&state->shape);
    divide(state);
    state->src = stage_plan(call, &call->src[0], DT_F32);
    state->ddst = stage_plan(call, &call->src[1], DT_F32);
    size_t slabs = (size_t)((state->n_slabs - 1) * n_weights(&state->shape));
    Desk desk;
    size_t desks = (size_t)(call->n_threads * lay_out_desk(state, NULL, &desk));
    state->slabs_offset = stage_book(call, slabs * sizeof(float));
    state->desks_offset = stage_book(call, desks * sizeof(float));
    return OK;
}
