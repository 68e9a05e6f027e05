/* The f32 weight pass of dense convolutions, by tiles: dw (K,R,S,C) is, tap by tap, the sum of ddst
 * (pixels,K)^T src (pixels under the tap,C).
 *
 * Called by conv.c. A block of dw stays in the second cache level while the pixels pass, a stretch
 * of a row of results at a time: what the block needs of it is copied close together, in rows of
 * channels, so that the first level holds it for all taps.
 *
 * The stretches are dealt to slabs, and a slab has a sum of its own, so that there is work for many
 * cores where dw is small; the slabs' sums are then added in order. Their number is the shape's,
 * not the threads': any number of threads gives the same bits.
 */
#include "kernels/cpu/conv_tiles.h"

#include "base/memory.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* pixels of one chain of sums; channels of a block of dw: for kernels of one pixel it is larger, as
 * without other taps the copies are used less often; blocks times slabs: at least */
enum { STRETCH = 64, BLOCK_K = 64, BLOCK_C = 32, POINT_K = 256, POINT_C = 64, MIN_UNITS = 64 };

typedef struct WeightState {
    ConvShape shape; /* of a 1x1 convolution: one row of all pixels */
    int64_t block_k, block_c, n_blocks_k, n_blocks_c;
    int64_t stretch, per_row; /* pixels, at most; stretches of a row */
    int64_t n_slabs;
    Stage src, ddst;
    size_t slabs_offset;  /* (n_slabs - 1) sums like dw; the first slab's is dw itself */
    size_t copies_offset; /* per thread: ddst (stretch, block_k), src (columns, block_c) */
    int64_t n_ddst_copy, n_src_copy; /* floats of the two */
} WeightState;

bool conv_weight_usable(const ConvShape *shape, DType in)
{
    return shape->pass == CONV_WEIGHT && in == DT_F32 && shape->groups == 1 &&
           shape->c % TILE_VEC == 0;
}

/* One block of dw, and the sum it is added to. */
typedef struct Block {
    int64_t k, n_k, c, n_c; /* first channels and their numbers */
    float *sum;             /* of element (k, 0, 0, c) */
} Block;

/* Results [x, x + n) of row y of an image. */
typedef struct Stretch {
    int64_t image, y, x, n;
} Stretch;

/* Adds what a stretch gives to a block. */
static void add_stretch(const WeightState *state, const Block *block, const Stretch *t,
                        const float *src, const float *ddst, float *copies)
{
    const ConvShape *s = &state->shape;
    float *ddst_copy = copies, *src_copy = copies + state->n_ddst_copy;
    const float *ddst_row = ddst + (t->image * s->out_h + t->y) * s->out_w * s->k + block->k;
    conv_copy_pixels(ddst_row, s->k, s->out_w, t->x, t->x + t->n, block->n_k, ddst_copy);
    int64_t first = t->x * s->stride - s->pad_w, end = first + (t->n - 1) * s->stride + s->s;
    for (int64_t r = 0; r < s->r; r++) {
        int64_t row = t->y * s->stride + r - s->pad_h;
        if (row < 0 || row >= s->h) continue;
        const float *src_row = src + (t->image * s->h + row) * s->w * s->c + block->c;
        conv_copy_pixels(src_row, s->c, s->w, first, end, block->n_c, src_copy);
        for (int64_t column = 0; column < s->s; column++)
            tile_matmul_ta(block->n_k, block->n_c, t->n, ddst_copy, block->n_k,
                           src_copy + column * block->n_c, s->stride * block->n_c,
                           block->sum + (r * s->s + column) * s->c, s->r * s->s * s->c, true);
    }
}

static void clear_block(const ConvShape *s, const Block *block)
{
    for (int64_t k = 0; k < block->n_k; k++)
        for (int64_t tap = 0; tap < s->r * s->s; tap++)
            memset(block->sum + (k * s->r * s->s + tap) * s->c, 0,
                   (size_t)block->n_c * sizeof(float));
}

/* All stretches of a slab, for one block. */
static void run_unit(const WeightState *state, const float *src, const float *ddst, int64_t slab,
                     const Block *block, float *copies)
{
    const ConvShape *s = &state->shape;
    int64_t n_stretches = s->n * s->out_h * state->per_row;
    int64_t end = n_stretches * (slab + 1) / state->n_slabs;
    clear_block(s, block);
    for (int64_t i = n_stretches * slab / state->n_slabs; i < end; i++) {
        int64_t row = i / state->per_row, x = i % state->per_row * state->stretch;
        Stretch t = {.image = row / s->out_h, .y = row % s->out_h, .x = x};
        t.n = tile_min(state->stretch, s->out_w - x);
        add_stretch(state, block, &t, src, ddst, copies);
    }
}

static int64_t n_weights(const ConvShape *s) { return s->k * s->r * s->s * s->c; }

static Block block_at(const WeightState *state, int64_t index, float *sum)
{
    const ConvShape *s = &state->shape;
    Block block = {.k = index / state->n_blocks_c * state->block_k,
                   .c = index % state->n_blocks_c * state->block_c};
    block.n_k = tile_min(state->block_k, s->k - block.k);
    block.n_c = tile_min(state->block_c, s->c - block.c);
    block.sum = sum + block.k * s->r * s->s * s->c + block.c;
    return block;
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
    float *copies = (float *)((char *)call->scratch + state->copies_offset);
    int64_t n_blocks = state->n_blocks_k * state->n_blocks_c;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t slab = 0; slab < state->n_slabs; slab++) {
        for (int64_t index = 0; index < n_blocks; index++) {
            float *sum = slab == 0 ? dw : slabs + (slab - 1) * n_weights(&state->shape);
            Block block = block_at(state, index, sum);
            run_unit(state, src, ddst, slab, &block,
                     copies + omp_get_thread_num() * (state->n_ddst_copy + state->n_src_copy));
        }
    }
    add_slabs(call, state, slabs, dw);
}

static void weight_release(void *state) { free(state); }

/* As many pieces of n, of at most `most`, as alike as whole vectors allow. */
static int64_t even_piece(int64_t n, int64_t most)
{
    int64_t pieces = (n + most - 1) / most, piece = (n + pieces - 1) / pieces;
    return tile_min(most, (piece + TILE_LANES - 1) / TILE_LANES * TILE_LANES);
}

static void divide(WeightState *state)
{
    const ConvShape *s = &state->shape;
    bool point = conv_is_pointwise(s);
    state->block_k = even_piece(s->k, point ? POINT_K : BLOCK_K);
    state->block_c = even_piece(s->c, point ? POINT_C : BLOCK_C);
    state->n_blocks_k = (s->k + state->block_k - 1) / state->block_k;
    state->n_blocks_c = (s->c + state->block_c - 1) / state->block_c;
    state->per_row = (s->out_w + STRETCH - 1) / STRETCH;
    state->stretch = (s->out_w + state->per_row - 1) / state->per_row;
    int64_t n_blocks = state->n_blocks_k * state->n_blocks_c;
    state->n_slabs = tile_min(s->n * s->out_h * state->per_row,
                              (MIN_UNITS + n_blocks - 1) / n_blocks);
    state->n_ddst_copy = tile_round(state->stretch * state->block_k);
    state->n_src_copy = tile_round(((state->stretch - 1) * s->stride + s->s) * state->block_c);
}

Status conv_weight_bind(KernelCall *call)
{
    WeightState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = weight_release;
    call->run = weight_run;
    state->shape = conv_flat_shape(call);
    divide(state);
    state->src = stage_plan(call, &call->src[0], DT_F32);
    state->ddst = stage_plan(call, &call->src[1], DT_F32);
    size_t slabs = (size_t)((state->n_slabs - 1) * n_weights(&state->shape));
    size_t copies = (size_t)(call->n_threads * (state->n_ddst_copy + state->n_src_copy));
    state->slabs_offset = stage_book(call, slabs * sizeof(float));
    state->copies_offset = stage_book(call, copies * sizeof(float));
    return OK;
}
