/* The f32 forward pass of dense convolutions, by tiles (see conv_tiles.h). Called by conv.c. */
#include "kernels/cpu/conv_tiles.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

typedef struct ForwardState {
    ConvShape shape; /* of a 1x1 convolution: one row of all pixels */
    Stage src[2], dst;
    size_t packed_offset, tiles_offset;
} ForwardState;

bool conv_forward_usable(const ConvShape *shape, DType in)
{
    return shape->pass == CONV_FORWARD && in == DT_F32 && shape->groups == 1 &&
           shape->k % TILE_VEC == 0;
}

/* packed (K/PANEL, R*S, C, PANEL) = weights (K, R*S, C). */
static void pack_weights(const KernelCall *call, const ConvShape *s, const float *weights,
                         float *packed)
{
    int64_t taps = s->r * s->s, n_panels = (s->k + CONV_PANEL - 1) / CONV_PANEL;
#pragma omp parallel for num_threads(call->n_threads) schedule(static) collapse(2)
    for (int64_t p = 0; p < n_panels; p++) {
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t width = tile_min(CONV_PANEL, s->k - p * CONV_PANEL);
            const float *from = weights + (p * CONV_PANEL * taps + tap) * s->c;
            float *to = packed + (p * CONV_PANEL * taps + tap * width) * s->c;
            tile_transpose(width, s->c, from, taps * s->c, to, width);
        }
    }
}

static void forward_run(const KernelCall *call)
{
    const ForwardState *state = call->state;
    const ConvShape *s = &state->shape;
    float *packed = (float *)((char *)call->scratch + state->packed_offset);
    const float *src = stage_in(call, &state->src[0], &call->src[0]);
    const float *weights = stage_in(call, &state->src[1], &call->src[1]);
    float *dst = stage_target(call, &state->dst, &call->dst[0]);
    const float *bias = s->bias ? call->src[2].data : NULL;
    int64_t row = s->out_w * s->k;
    ConvPlace place = {.image = s->out_h * row, .row = row, .pixel = s->k};
    pack_weights(call, s, weights, packed);
    conv_tiles_run(call->n_threads, s, src, packed, bias, &place, dst,
                   (float *)((char *)call->scratch + state->tiles_offset));
    stage_out(call, &state->dst, &call->dst[0]);
}

static void forward_release(void *state) { free(state); }

Status conv_forward_bind(KernelCall *call)
{
    ForwardState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = forward_release;
    call->run = forward_run;
    state->shape = conv_flat_shape(call);
    const ConvShape *s = &state->shape;
    state->src[0] = stage_plan(call, &call->src[0], DT_F32);
    state->src[1] = stage_plan(call, &call->src[1], DT_F32);
    state->dst = stage_plan(call, &call->dst[0], DT_F32);
    state->packed_offset = stage_book(call, (size_t)(s->k * s->r * s->s * s->c) * sizeof(float));
    state->tiles_offset = stage_book(call, conv_tiles_scratch(call->n_threads, s));
    return OK;
}
