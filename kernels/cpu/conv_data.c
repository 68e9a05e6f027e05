/* The f32 data pass of dense convolutions, taken apart into stride-1 forward passes by tiles (see
 * conv_tiles.h).
 *
 * Called by conv.c for strides 1 and 2. The pixels of src whose row is py and whose column is px
 * modulo the stride form a phase. They meet only every stride-th tap, and dsrc of a phase is ddst
 * convolved with these taps, flipped and with their channels exchanged; its results go where the
 * phase's pixels lie.
 */
#include "kernels/cpu/conv_tiles.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_STRIDE = 2 };

/* One axis of a phase: its pixels are first + stride*i, i < n; its taps last - stride*j, j <
 * n_taps, meet ddst at i - pad + j. */
typedef struct PhaseAxis {
    int64_t first, n, last, n_taps, pad;
} PhaseAxis;

typedef struct Phase {
    PhaseAxis y, x;
} Phase;

typedef struct DataState {
    ConvShape shape;
    Stage src[2], dst;
    size_t packed_offset, tiles_offset; /* of one phase */
} DataState;

static PhaseAxis phase_axis(int64_t first, int64_t stride, int64_t size, int64_t kernel,
                            int64_t pad)
{
    /* taps are congruent to first + pad; the bias keeps the dividend of % positive */
    int64_t beyond = (kernel - 1 - first - pad + stride * (pad + 1)) % stride;
    PhaseAxis axis = {.first = first, .last = kernel - 1 - beyond};
    axis.n = first < size ? (size - first + stride - 1) / stride : 0;
    axis.n_taps = axis.last < 0 ? 0 : axis.last / stride + 1;
    axis.pad = (axis.last - first - pad) / stride;
    return axis;
}

/* Phase i of the stride^2. */
static Phase phase_at(const ConvShape *s, int64_t i)
{
    return (Phase){.y = phase_axis(i / s->stride, s->stride, s->h, s->r, s->pad_h),
                   .x = phase_axis(i % s->stride, s->stride, s->w, s->s, s->pad_w)};
}

/* 1x1 at stride 1 is a matrix product, and left to it. */
bool conv_data_usable(const ConvShape *shape, DType in)
{
    return shape->pass == CONV_DATA && in == DT_F32 && shape->groups == 1 &&
           shape->stride <= MAX_STRIDE && shape->c % TILE_VEC == 0 && !conv_is_pointwise(shape);
}

/* The convolution of one phase, from ddst to the phase's pixels. */
static ConvShape phase_shape(const ConvShape *whole, const Phase *phase)
{
    const PhaseAxis *y = &phase->y, *x = &phase->x;
    return (ConvShape){
        .pass = CONV_FORWARD,
        .n = whole->n,
        .h = whole->out_h,
        .w = whole->out_w,
        .c = whole->k,
        .k = whole->c,
        .r = y->n_taps,
        .s = x->n_taps,
        .out_h = y->n,
        .out_w = x->n,
        .stride = 1,
        .pad_h = y->pad,
        .pad_w = x->pad,
        .groups = 1,
    };
}

/* packed (C/PANEL, y*x, K, PANEL) = the phase's taps of weights (K,R,S,C), from the last on. */
static void pack_taps(const KernelCall *call, const ConvShape *s, const Phase *phase,
                      const float *weights, float *packed)
{
    const PhaseAxis *y = &phase->y, *x = &phase->x;
    int64_t n_taps = y->n_taps * x->n_taps;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t c = 0; c < s->c; c += CONV_PANEL) {
        for (int64_t tap = 0; tap < n_taps; tap++) {
            int64_t width = tile_min(CONV_PANEL, s->c - c);
            int64_t r = y->last - tap / x->n_taps * s->stride;
            int64_t column = x->last - tap % x->n_taps * s->stride;
            const float *from = weights + (r * s->s + column) * s->c + c;
            float *to = packed + (c * n_taps + tap * width) * s->k;
            for (int64_t k = 0; k < s->k; k++, from += s->r * s->s * s->c, to += width)
                memcpy(to, from, (size_t)width * sizeof(float));
        }
    }
}

static void run_phase(const KernelCall *call, const Phase *phase, const float *ddst,
                      const float *weights, float *dsrc)
{
    const DataState *state = call->state;
    const ConvShape *s = &state->shape;
    float *packed = (float *)((char *)call->scratch + state->packed_offset);
    ConvShape shape = phase_shape(s, phase);
    int64_t row = s->w * s->c;
    ConvPlace place = {.offset = phase->y.first * row + phase->x.first * s->c,
                       .image = s->h * row,
                       .row = s->stride * row,
                       .pixel = s->stride * s->c};
    pack_taps(call, s, phase, weights, packed);
    conv_tiles_run(call->n_threads, &shape, ddst, packed, NULL, &place, dsrc,
                   (float *)((char *)call->scratch + state->tiles_offset));
}

static void data_run(const KernelCall *call)
{
    const DataState *state = call->state;
    const ConvShape *s = &state->shape;
    const float *ddst = stage_in(call, &state->src[0], &call->src[0]);
    const float *weights = stage_in(call, &state->src[1], &call->src[1]);
    float *dsrc = stage_target(call, &state->dst, &call->dst[0]);
    for (int64_t i = 0; i < s->stride * s->stride; i++) {
        Phase phase = phase_at(s, i);
        run_phase(call, &phase, ddst, weights, dsrc);
    }
    stage_out(call, &state->dst, &call->dst[0]);
}

static void data_release(void *state) { free(state); }

Status conv_data_bind(KernelCall *call)
{
    DataState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = data_release;
    call->run = data_run;
    state->shape = conv_shape(call);
    const ConvShape *s = &state->shape;
    state->src[0] = stage_plan(call, &call->src[0], DT_F32);
    state->src[1] = stage_plan(call, &call->src[1], DT_F32);
    state->dst = stage_plan(call, &call->dst[0], DT_F32);
    state->packed_offset = stage_book(call, (size_t)(s->k * s->r * s->s * s->c) * sizeof(float));
    size_t most = 0;
    for (int64_t i = 0; i < s->stride * s->stride; i++) {
        Phase phase = phase_at(s, i);
        ConvShape shape = phase_shape(s, &phase);
        size_t bytes = conv_tiles_scratch(call->n_threads, &shape);
        if (bytes > most) most = bytes;
    }
    state->tiles_offset = stage_book(call, most);
    return OK;
}
