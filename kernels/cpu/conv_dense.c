/* Convolutions through oneDNN, in three passes, on plain NHWC maps.
 *
 * Called by conv.c. oneDNN chooses the layout of the weights; they are brought
 * into it (or, as a gradient, out of it) on each run, which costs little beside the maps.
 */
#include "kernels/cpu/conv.h"

#include "base/memory.h"

#include <stdlib.h>

typedef struct DenseState {
    OnednnPrimitive conv, reorder; /* reorder.primitive NULL: the plain layout was chosen */
    bool weights_are_result;
    size_t weights_offset, conv_pad_offset, reorder_pad_offset; /* in the call's scratch */
    Stage src[2], dst;
} DenseState;

/* ---- descriptors ---- */

static Status map_desc(const KernelCall *call, DType dtype, int64_t n, int64_t h, int64_t w,
                       int64_t c, dnnl_memory_desc_t *out)
{
    const int64_t dims[] = {n, c, h, w}, strides[] = {h * w * c, 1, w * c, c};
    return onednn_desc(call, dtype, 4, dims, strides, out);
}

/* Weights (K,R,S,C/G) as oneDNN's (G,K/G,C/G,R,S), without the first for one group; plain, or left
 * open. */
static Status weights_desc(const KernelCall *call, DType dtype, const ConvShape *shape, bool plain,
                           dnnl_memory_desc_t *out)
{
    int64_t groups = shape->groups, k = shape->k / groups, c = shape->c / groups, r = shape->r,
            s = shape->s;
    const int64_t dims[] = {groups, k, c, r, s};
    const int64_t strides[] = {k * r * s * c, r * s * c, 1, s * c, c};
    int skip = groups == 1;
    return onednn_desc(call, dtype, 5 - skip, dims + skip, plain ? strides + skip : NULL, out);
}

typedef struct Descs {
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_dims_t strides, pads, end_pads;
} Descs;

static Status make_descs(const KernelCall *call, const ConvShape *shape, DType in, DType out,
                         Descs *d)
{
    ConvPass pass = shape->pass;
    TRY(map_desc(call, pass == CONV_DATA ? out : in, shape->n, shape->h, shape->w, shape->c,
                 &d->src));
    TRY(map_desc(call, pass == CONV_FORWARD ? out : in, shape->n, shape->out_h, shape->out_w,
                 shape->k, &d->dst));
    TRY(weights_desc(call, pass == CONV_WEIGHT ? DT_F32 : in, shape, false, &d->weights));
    if (shape->bias) TRY(onednn_desc(call, DT_F32, 1, &shape->k, (const int64_t[]){1}, &d->bias));
    d->strides[0] = d->strides[1] = shape->stride;
    d->pads[0] = shape->pad_h;
    d->pads[1] = shape->pad_w;
    d->end_pads[0] = (shape->out_h - 1) * shape->stride + shape->r - shape->h - shape->pad_h;
    d->end_pads[1] = (shape->out_w - 1) * shape->stride + shape->s - shape->w - shape->pad_w;
    return OK;
}

/* ---- primitives ---- */

static Status make_forward(OnednnEngine *engine, const KernelCall *call, const ConvShape *shape,
                           const Descs *d, OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_forward_desc_init(
                       &desc, dnnl_forward_training, dnnl_convolution_direct, &d->src, &d->weights,
                       shape->bias ? &d->bias : NULL, &d->dst, d->strides, d->pads, d->end_pads));
    return onednn_make(engine, call, &desc, NULL, shape->bias ? 4 : 3, args, out);
}

/* The forward descriptor by which oneDNN finds the matching backward implementation. Its dtypes are
 * those of a forward pass: all maps in the input dtype. */
static Status make_hint(const KernelCall *call, const ConvShape *shape, DType in,
                        dnnl_convolution_desc_t *hint)
{
    ConvShape forward = *shape;
    forward.pass = CONV_FORWARD;
    Descs d;
    TRY(make_descs(call, &forward, in, in, &d));
    DNNL_TRY(call, dnnl_convolution_forward_desc_init(hint, dnnl_forward_training,
                                                      dnnl_convolution_direct, &d.src, &d.weights,
                                                      NULL, &d.dst, d.strides, d.pads, d.end_pads));
    return OK;
}

static Status make_data(OnednnEngine *engine, const KernelCall *call, const Descs *d,
                        const dnnl_convolution_desc_t *hint, OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &d->src,
                                                            &d->weights, &d->dst, d->strides,
                                                            d->pads, d->end_pads));
    return onednn_make(engine, call, &desc, hint, 3, args, out);
}

static Status make_weight(OnednnEngine *engine, const KernelCall *call, const Descs *d,
                          const dnnl_convolution_desc_t *hint, OnednnPrimitive *out)
{
    const int args[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS};
    dnnl_convolution_desc_t desc;
    DNNL_TRY(call, dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct,
                                                               &d->src, &d->weights, NULL, &d->dst,
                                                               d->strides, d->pads, d->end_pads));
    return onednn_make(engine, call, &desc, hint, 3, args, out);
}

static Status make_conv(OnednnEngine *engine, const KernelCall *call, const ConvShape *shape,
                        DType in, DType out, OnednnPrimitive *conv)
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
static Status make_reorder(OnednnEngine *engine, KernelCall *call, const ConvShape *shape, DType in,
                           DenseState *dense)
{
    bool result = dense->weights_are_result;
    const dnnl_memory_desc_t *chosen = &dense->conv.descs[result ? 2 : 1];
    dnnl_memory_desc_t plain;
    TRY(weights_desc(call, result ? DT_F32 : in, shape, true, &plain));
    if (dnnl_memory_desc_equal(&plain, chosen)) return OK;
    TRY(onednn_make_reorder(engine, call, result ? chosen : &plain, result ? &plain : chosen,
                            &dense->reorder));
    dense->weights_offset = stage_book(call, dnnl_memory_desc_get_size(chosen));
    dense->reorder_pad_offset = stage_book(call, dense->reorder.scratchpad_bytes);
    return OK;
}

/* ---- running ---- */

static void convolve(const KernelCall *call, const DenseState *dense, const void *first,
                     const void *second, void *result)
{
    char *scratch = call->scratch;
    void *chosen = scratch + dense->weights_offset, *pad = scratch + dense->reorder_pad_offset;
    bool reorders = dense->reorder.primitive != NULL;
    if (reorders && !dense->weights_are_result) {
        onednn_run(&dense->reorder, (const void *[]){second, chosen}, pad);
        second = chosen;
    }
    void *target = reorders && dense->weights_are_result ? chosen : result;
    const void *data[] = {first, second, target, call->src[2].data};
    onednn_run(&dense->conv, data, scratch + dense->conv_pad_offset);
    if (target != result) onednn_run(&dense->reorder, (const void *[]){chosen, result}, pad);
}

static void dense_run(const KernelCall *call)
{
    const DenseState *dense = call->state;
    const void *first = stage_in(call, &dense->src[0], &call->src[0]);
    const void *second = stage_in(call, &dense->src[1], &call->src[1]);
    convolve(call, dense, first, second, stage_target(call, &dense->dst, &call->dst[0]));
    stage_out(call, &dense->dst, &call->dst[0]);
}

static void dense_release(void *pointer)
{
    DenseState *dense = pointer;
    onednn_free(&dense->conv);
    onednn_free(&dense->reorder);
    free(dense);
}

Status conv_dense_bind(OnednnEngine *engine, KernelCall *call)
{
    DType in, out;
    conv_dtypes(call, &in, &out);
    ConvShape shape = conv_shape(call);
    DenseState *dense = mem_alloc(sizeof *dense);
    *dense = (DenseState){.weights_are_result = shape.pass == CONV_WEIGHT};
    call->state = dense;
    call->release = dense_release;
    call->run = dense_run;
    dense->src[0] = stage_plan(call, &call->src[0], in);
    dense->src[1] = stage_plan(call, &call->src[1], in);
    dense->dst = stage_plan(call, &call->dst[0], out);
    TRY(make_conv(engine, call, &shape, in, out, &dense->conv));
    dense->conv_pad_offset = stage_book(call, dense->conv.scratchpad_bytes);
    return make_reorder(engine, call, &shape, in, dense);
}
