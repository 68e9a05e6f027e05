/* Convolutions through oneDNN, in three passes, on plain NHWC maps.
 *
 * Called by conv.c. oneDNN chooses the layout of the weights; they are brought into it (or, as a gradient,
 * out of it) on each run, which costs little beside the maps.
 *
 * Stride-1 backward-data runs as a forward convolution with the kernel flipped and its channels exchanged:
 * measured 390 against 256 GFLOP/s for oneDNN 2.6's own (3x3 256->256 at 64x64, f32, 2 cores).
 */
#include "kernels/cpu/conv.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

typedef struct DenseState {
    ConvShape shape;
    OnednnPrimitive conv, reorder;    /* reorder.primitive NULL: the plain layout was chosen */
    bool flipped;                     /* data pass as a forward convolution */
    DType dtype;                      /* of the weights as oneDNN gets them */
    Stage src[2], dst;
    size_t flip_offset, weights_offset, conv_pad_offset, reorder_pad_offset;
} DenseState;

/* ---- descriptors ---- */

static Status map_desc(const KernelCall *call, DType dtype, int64_t n, int64_t h, int64_t w, int64_t c,
                       dnnl_memory_desc_t *out)
{
    const int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
    return onednn_desc(call, dtype, 4, dims, strides, out);
}

/* Weights (K,R,S,C/G) as oneDNN's (G,K/G,C/G,R,S), without the first for one group; plain, or left open. */
static Status weights_desc(const KernelCall *call, DType dtype, const ConvShape *shape, bool plain,
                           dnnl_memory_desc_t *out)
{
    int64_t groups = shape->groups, k = shape->k / groups, c = shape->c / groups, r = shape->r, s = shape->s;
    const int64_t dims[] = {groups, k, c, r, s};
    const int64_t strides[] = {k * r * s * c, r * s * c, 1, s * c, c};
    int skip = groups == 1;
    return onednn_desc(call, dtype, 5 - skip, dims + skip, plain ? strides + skip : NULL, out);
}

/* The convolution that is run: for a flipped data pass one from dst to src. */
static ConvShape exchanged(const ConvShape *shape)
{
    ConvShape out = *shape;
    out.h = shape->out_h, out.w = shape->out_w, out.c = shape->k;
    out.out_h = shape->h, out.out_w = shape->w, out.k = shape->c;
    out.pad_h = shape->r - 1 - shape->pad_h;
    out.pad_w = shape->s - 1 - shape->pad_w;
    out.pass = CONV_FORWARD;
    return out;
}

typedef struct Descs {
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_dims_t strides, pads;
} Descs;

static Status make_descs(const KernelCall *call, const ConvShape *shape, DType in, DType out, Descs *d)
{
    ConvPass pass = shape->pass;
    TRY(map_desc(call, pass == CONV_DATA ? out : in, shape->n, shape->h, shape->w, shape->c, &d->src));
    TRY(map_desc(call, pass == CONV_FORWARD ? out : in, shape->n, shape->out_h, shape->out_w, shape->k, &d->dst));
    TRY(weights_desc(call, pass == CONV_WEIGHT ? DT_F32 : in, shape, false, &d->weights));
    if (shape->bias) TRY(onednn_desc(call, DT_F32, 1, &shape->k, (const int64_t[]){1}, &d->bias));
    d->strides[0] = d->strides[1] = shape->stride;
    d->pads[0] = shape->pad_h;
    d->pads[1] = shape->pad_w;
    return OK;
}

/* ---- primitives ---- */

static Status make_forward(OnednnEngine *engine, const KernelCall *call, const ConvShape *shape, const Descs *d,
                           OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_forward_desc_init(&desc, dnnl_forward_training, dnnl_convolution_direct, &d->src,
                                                      &d->weights, shape->bias ? &d->bias : NULL, &d->dst,
                                                      d->strides, d->pads, d->pads));
    return onednn_make(engine, call, &desc, NULL, shape->bias ? 4 : 3, args, out);
}

/* The forward descriptor by which oneDNN finds the matching backward implementation. Its dtypes are those
 * of a forward pass: all maps in the input dtype. */
static Status make_hint(const KernelCall *call, const ConvShape *shape, DType in, dnnl_convolution_desc_t *hint)
{
    ConvShape forward = *shape;
    forward.pass = CONV_FORWARD;
    Descs d;
    TRY(make_descs(call, &forward, in, in, &d));
    DNNL_TRY(call, dnnl_convolution_forward_desc_init(hint, dnnl_forward_training, dnnl_convolution_direct, &d.src,
                                                      &d.weights, NULL, &d.dst, d.strides, d.pads, d.pads));
    return OK;
}

static Status make_data(OnednnEngine *engine, const KernelCall *call, const Descs *d,
                        const dnnl_convolution_desc_t *hint, OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &d->src, &d->weights,
                                                            &d->dst, d->strides, d->pads, d->pads));
    return onednn_make(engine, call, &desc, hint, 3, args, out);
}

static Status make_weight(OnednnEngine *engine, const KernelCall *call, const Descs *d,
                          const dnnl_convolution_desc_t *hint, OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &d->src, &d->weights,
                                                               NULL, &d->dst, d->strides, d->pads, d->pads));
    return onednn_make(engine, call, &desc, hint, 3, args, out);
}

static Status make_conv(OnednnEngine *engine, const KernelCall *call, const ConvShape *shape, DType in, DType out,
                        OnednnPrimitive *conv)
{
    Descs d;
    dnnl_convolution_desc_t hint;
    TRY(make_descs(call, shape, in, out, &d));
    if (shape->pass == CONV_FORWARD) return make_forward(engine, call, shape, &d, conv);
    TRY(make_hint(call, shape, in, &hint));
    if (shape->pass == CONV_DATA) return make_data(engine, call, &d, &hint, conv);
    return make_weight(engine, call, &d, &hint, conv);
}

/* The weights' way between the plain layout and the chosen one, if these differ. */
static Status make_reorder(OnednnEngine *engine, KernelCall *call, const ConvShape *shape, DenseState *state)
{
    bool gradient = shape->pass == CONV_WEIGHT;
    const dnnl_memory_desc_t *chosen = &state->conv.descs[gradient ? 2 : 1];
    dnnl_memory_desc_t plain;
    TRY(weights_desc(call, state->dtype, shape, true, &plain));
    if (dnnl_memory_desc_equal(&plain, chosen)) return OK;
    TRY(onednn_make_reorder(engine, call, gradient ? chosen : &plain, gradient ? &plain : chosen, &state->reorder));
    state->weights_offset = stage_book(call, dnnl_memory_desc_get_size(chosen));
    state->reorder_pad_offset = stage_book(call, state->reorder.scratchpad_bytes);
    return OK;
}

/* ---- running ---- */

/* to (C,R,S,K) = from (K,R,S,C) flipped in both directions; size: bytes of an element. */
static void flip_weights(const KernelCall *call, const ConvShape *shape, size_t size, const void *from, void *to)
{
    int64_t taps = shape->r * shape->s, c = shape->c, k = shape->k;
    #pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t row = 0; row < c * taps; row++) {
        int64_t channel = row / taps, tap = taps - 1 - row % taps;
        if (size == 4)
            for (int64_t i = 0; i < k; i++)
                ((uint32_t *)to)[row * k + i] = ((const uint32_t *)from)[(i * taps + tap) * c + channel];
        else
            for (int64_t i = 0; i < k; i++)
                ((uint16_t *)to)[row * k + i] = ((const uint16_t *)from)[(i * taps + tap) * c + channel];
    }
}

static void dense_run(const KernelCall *call)
{
    const DenseState *state = call->state;
    char *scratch = call->scratch;
    const void *first = stage_in(call, &state->src[0], &call->src[0]);
    const void *second = stage_in(call, &state->src[1], &call->src[1]);
    if (state->flipped) {
        flip_weights(call, &state->shape, dtype_size(state->dtype), second, scratch + state->flip_offset);
        second = scratch + state->flip_offset;
    }
    if (state->reorder.primitive) {
        void *chosen = scratch + state->weights_offset;
        onednn_run(&state->reorder, (const void *[]){second, chosen}, scratch + state->reorder_pad_offset);
        second = chosen;
    }
    const void *data[] = {first, second, stage_target(call, &state->dst, &call->dst[0]), call->src[2].data};
    onednn_run(&state->conv, data, scratch + state->conv_pad_offset);
    stage_out(call, &state->dst, &call->dst[0]);
}

static void weight_run(const KernelCall *call)
{
    const DenseState *state = call->state;
    char *scratch = call->scratch;
    void *dw = call->dst[0].data, *chosen = state->reorder.primitive ? scratch + state->weights_offset : dw;
    const void *data[] = {
        stage_in(call, &state->src[0], &call->src[0]),
        stage_in(call, &state->src[1], &call->src[1]),
        chosen,
    };
    onednn_run(&state->conv, data, scratch + state->conv_pad_offset);
    if (state->reorder.primitive)
        onednn_run(&state->reorder, (const void *[]){chosen, dw}, scratch + state->reorder_pad_offset);
}

static void dense_release(void *pointer)
{
    DenseState *state = pointer;
    onednn_free(&state->conv);
    onednn_free(&state->reorder);
    free(state);
}

Status conv_dense_bind(OnednnEngine *engine, KernelCall *call)
{
    DType in, out;
    TRY(conv_dtypes(call, &in, &out));
    DenseState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = dense_release;
    ConvShape shape = state->shape = conv_shape(call);
    call->run = shape.pass == CONV_WEIGHT ? weight_run : dense_run;
    state->dtype = shape.pass == CONV_WEIGHT ? DT_F32 : in;
    state->src[0] = stage_plan(call, &call->src[0], in);
    state->src[1] = stage_plan(call, &call->src[1], in);
    state->dst = stage_plan(call, &call->dst[0], out);
    state->flipped = shape.pass == CONV_DATA && shape.stride == 1 && shape.groups == 1 &&
                     shape.pad_h < shape.r && shape.pad_w < shape.s;
    if (state->flipped) {
        state->flip_offset = stage_book(call, (size_t)(shape.c * shape.r * shape.s * shape.k) * dtype_size(in));
        shape = exchanged(&shape);
    }
    TRY(make_conv(engine, call, &shape, in, out, &state->conv));
    state->conv_pad_offset = stage_book(call, state->conv.scratchpad_bytes);
    return make_reorder(engine, call, &shape, state);
}
