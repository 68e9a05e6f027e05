/* The data pass of dense convolutions, taken apart into stride-1 forward passes, which oneDNN runs
 * fastest.
 *
 * Called by conv.c for strides 1 and 2. The pixels of src whose row is py and whose column is px
 * modulo the stride form a phase. They meet only every stride-th tap, and dsrc of a phase is ddst
 * convolved with these taps, flipped and with their channels exchanged; the phases are then
 * interleaved.
 *
 * Measured per core, f32, against oneDNN 2.6's own: 3x3 32->512 stride 2 at 256x256, 218 : 148
 * GFLOP/s; 64->1024 stride 2 at 128x128, 235 : 157; in bf16 420 : 399 and 460 : 447.
 */
#include "kernels/cpu/conv_dense.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* With a handful of channels (a stem on RGB) oneDNN's own passes are better. */
enum { MAX_STRIDE = 2, MAX_PHASES = MAX_STRIDE * MAX_STRIDE, MIN_CHANNELS = 16 };

/* One axis of a phase: its pixels are first + stride*i, i < n; its taps last - stride*j, j <
 * n_taps, meet ddst at i - pad + j. */
typedef struct PhaseAxis {
    int64_t first, n, last, n_taps, pad;
} PhaseAxis;

typedef struct Phase {
    PhaseAxis y, x;
    DenseConv dense;
} Phase;

typedef struct PhasesState {
    ConvShape shape;
    int n_phases;
    size_t map_size, tap_size; /* bytes of an element of a phase's map and taps */
    Phase phases[MAX_PHASES];
    Stage src[2], dst;
    size_t map_offset, taps_offset; /* of a phase's map and of its taps, plain */
} PhasesState;

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

static int make_phases(const ConvShape *s, Phase phases[MAX_PHASES])
{
    int n = 0;
    for (int64_t y = 0; y < s->stride; y++)
        for (int64_t x = 0; x < s->stride; x++)
            phases[n++] = (Phase){.y = phase_axis(y, s->stride, s->h, s->r, s->pad_h),
                                  .x = phase_axis(x, s->stride, s->w, s->s, s->pad_w)};
    return n;
}

/* The convolution of one phase, from ddst to the phase's pixels. */
static ConvShape phase_shape(const ConvShape *whole, const Phase *phase)
{
    ConvShape shape = *whole;
    shape.pass = CONV_FORWARD;
    shape.stride = 1;
    shape.h = whole->out_h, shape.w = whole->out_w, shape.c = whole->k;
    shape.out_h = phase->y.n, shape.out_w = phase->x.n, shape.k = whole->c;
    shape.r = phase->y.n_taps, shape.s = phase->x.n_taps;
    shape.pad_h = phase->y.pad, shape.pad_w = phase->x.pad;
    return shape;
}

/* oneDNN pads with zeros or not at all: a phase must neither be empty nor leave pixels unread. */
static bool axis_usable(const PhaseAxis *axis, int64_t out)
{
    int64_t after = axis->n - 1 + axis->n_taps - out - axis->pad;
    return axis->n > 0 && axis->n_taps > 0 && axis->pad >= 0 && after >= 0;
}

bool conv_phases_usable(const ConvShape *shape)
{
    Phase phases[MAX_PHASES];
    if (shape->pass != CONV_DATA || shape->stride > MAX_STRIDE || shape->groups > 1 ||
        shape->c < MIN_CHANNELS)
        return false;
    int n = make_phases(shape, phases);
    for (int i = 0; i < n; i++)
        if (!axis_usable(&phases[i].y, shape->out_h) || !axis_usable(&phases[i].x, shape->out_w))
            return false;
    return true;
}

/* ---- moving pixels and taps ---- */

/* dsrc (N,H,W,C) at the phase's pixels = map (N,y.n,x.n,C). */
static void scatter_map(const KernelCall *call, const PhasesState *state, const Phase *phase,
                        const char *map, char *dsrc)
{
    const ConvShape *s = &state->shape;
    size_t pixel_bytes = (size_t)s->c * state->map_size;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t row = 0; row < s->n * phase->y.n; row++) {
        int64_t y = phase->y.first + row % phase->y.n * s->stride;
        int64_t at = (row / phase->y.n * s->h + y) * s->w + phase->x.first;
        const char *from = map + (size_t)(row * phase->x.n) * pixel_bytes;
        char *to = dsrc + (size_t)at * pixel_bytes;
        for (int64_t i = 0; i < phase->x.n; i++, from += pixel_bytes) {
            memcpy(to, from, pixel_bytes);
            to += (size_t)s->stride * pixel_bytes;
        }
    }
}

/* Element (k, r, s, c) of the whole kernel for tap (y, x) of the phase, counted from its last tap.
 */
static int64_t weight_index(const ConvShape *s, const Phase *phase, int64_t k, int64_t y, int64_t x)
{
    int64_t r = phase->y.last - y * s->stride, column = phase->x.last - x * s->stride;
    return ((k * s->r + r) * s->s + column) * s->c;
}

/* taps (C,y,x,K) = the phase's part of weights (K,R,S,C), flipped. */
static void gather_taps(const KernelCall *call, const PhasesState *state, const Phase *phase,
                        const void *weights, void *taps)
{
    const ConvShape *s = &state->shape;
    int64_t n_x = phase->x.n_taps, n = phase->y.n_taps * n_x;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t row = 0; row < s->c * n; row++) {
        int64_t c = row / n, y = row % n / n_x, x = row % n_x;
        for (int64_t k = 0; k < s->k; k++) {
            int64_t from = weight_index(s, phase, k, y, x) + c;
            if (state->tap_size == sizeof(float))
                ((uint32_t *)taps)[row * s->k + k] = ((const uint32_t *)weights)[from];
            else
                ((uint16_t *)taps)[row * s->k + k] = ((const uint16_t *)weights)[from];
        }
    }
}

/* ---- running ---- */

static void data_run(const KernelCall *call)
{
    const PhasesState *state = call->state;
    char *map = (char *)call->scratch + state->map_offset;
    char *taps = (char *)call->scratch + state->taps_offset;
    const void *ddst = stage_in(call, &state->src[0], &call->src[0]);
    const void *weights = stage_in(call, &state->src[1], &call->src[1]);
    char *dsrc = stage_target(call, &state->dst, &call->dst[0]);
    for (int i = 0; i < state->n_phases; i++) {
        const Phase *phase = &state->phases[i];
        bool whole = state->n_phases == 1;
        gather_taps(call, state, phase, weights, taps);
        dense_run(call, &phase->dense, ddst, taps, whole ? dsrc : map, NULL);
        if (!whole) scatter_map(call, state, phase, map, dsrc);
    }
    stage_out(call, &state->dst, &call->dst[0]);
}

static void phases_release(void *pointer)
{
    PhasesState *state = pointer;
    for (int i = 0; i < state->n_phases; i++) dense_free(&state->phases[i].dense);
    free(state);
}

Status conv_phases_bind(OnednnEngine *engine, KernelCall *call)
{
    DType in, out;
    conv_dtypes(call, &in, &out);
    PhasesState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = phases_release;
    ConvShape shape = state->shape = conv_shape(call);
    call->run = data_run;
    state->src[0] = stage_plan(call, &call->src[0], in);
    state->src[1] = stage_plan(call, &call->src[1], in);
    state->dst = stage_plan(call, &call->dst[0], out);
    state->map_size = dtype_size(out);
    state->tap_size = dtype_size(in);
    state->n_phases = make_phases(&shape, state->phases);
    const Phase *largest = &state->phases[0];
    int64_t map_elems = shape.n * largest->y.n * largest->x.n * shape.c;
    if (state->n_phases > 1)
        state->map_offset = stage_book(call, (size_t)map_elems * state->map_size);
    state->taps_offset = stage_book(call, (size_t)(shape.k * shape.r * shape.s * shape.c) *
                                              state->tap_size);
    for (int i = 0; i < state->n_phases; i++) {
        ConvShape part = phase_shape(&shape, &state->phases[i]);
        TRY(dense_make(engine, call, &part, in, out, &state->phases[i].dense));
    }
    return OK;
}
