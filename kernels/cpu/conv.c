/* CONV2D, CONV2D_GRAD_DATA, CONV2D_GRAD_WEIGHT: the choice of a way (see conv.h), and the matrix
 * product. Called through cpu.c's table.
 */
#include "kernels/cpu/conv.h"

#include "base/memory.h"
#include "kernels/cpu/product.h"

#include <stdlib.h>

static ConvPass pass_of(OpId op)
{
    return op == OP_CONV2D ? CONV_FORWARD : op == OP_CONV2D_GRAD_DATA ? CONV_DATA : CONV_WEIGHT;
}

ConvShape conv_shape(const KernelCall *call)
{
    ConvPass pass = pass_of(call->op);
    const ConvAttr *attr = pass == CONV_FORWARD ? &call->attr->conv2d
                           : pass == CONV_DATA  ? &call->attr->conv2d_grad_data.conv
                                                : &call->attr->conv2d_grad_weight.conv;
    const Tensor *src = pass == CONV_DATA ? &call->dst[0] : &call->src[0];
    const Tensor *w = pass == CONV_WEIGHT ? &call->dst[0] : &call->src[1];
    const Tensor *dst = pass == CONV_FORWARD ? &call->dst[0]
                        : pass == CONV_DATA  ? &call->src[0]
                                             : &call->src[1];
    return (ConvShape){
        .pass = pass,
        .n = src->shape.dim[0],
        .h = src->shape.dim[1],
        .w = src->shape.dim[2],
        .c = src->shape.dim[3],
        .k = w->shape.dim[0],
        .r = w->shape.dim[1],
        .s = w->shape.dim[2],
        .out_h = dst->shape.dim[1],
        .out_w = dst->shape.dim[2],
        .stride = attr->stride,
        .pad_h = attr->pad,
        .pad_w = attr->pad,
        .groups = attr->groups,
        .bias = pass == CONV_FORWARD && call->n_src > 2 && cpu_present(&call->src[2]),
    };
}

ConvShape conv_flat_shape(const KernelCall *call)
{
    ConvShape s = conv_shape(call);
    if (conv_is_pointwise(&s)) {
        s.w = s.out_w = s.n * s.h * s.w;
        s.n = s.h = s.out_h = 1;
    }
    return s;
}

void conv_dtypes(const KernelCall *call, DType *in, DType *out)
{
    bool bf16 = call->src[0].dtype == DT_BF16 && call->src[1].dtype == DT_BF16 && onednn_has_bf16();
    *in = bf16 ? DT_BF16 : DT_F32;
    *out = bf16 && call->dst[0].dtype == DT_BF16 ? DT_BF16 : DT_F32;
}

/* ---- 1x1 convolution as a product ---- */

typedef struct ProductState {
    OnednnPrimitive product;
    Stage a, b, dst;
    size_t scratchpad_offset;
    bool swapped; /* the product's a is source 1, its b source 0 */
} ProductState;

static void product_run(const KernelCall *call)
{
    const ProductState *state = call->state;
    const Tensor *a = &call->src[state->swapped], *b = &call->src[!state->swapped];
    const void *data[] = {
        stage_in(call, &state->a, a),
        stage_in(call, &state->b, b),
        stage_target(call, &state->dst, &call->dst[0]),
        call->src[2].data,
    };
    onednn_run(&state->product, data, (char *)call->scratch + state->scratchpad_offset);
    stage_out(call, &state->dst, &call->dst[0]);
}

static void product_release(void *pointer)
{
    ProductState *state = pointer;
    onednn_free(&state->product);
    free(state);
}

/* forward dst (P,K) = src (P,C) w(K,C)^T;  data dsrc (P,C) = ddst (P,K) w;  weight dw (K,C) =
 * ddst^T src */
static ProductSpec product_spec(const ConvShape *shape)
{
    int64_t pixels = shape->n * shape->h * shape->w, c = shape->c, k = shape->k;
    switch (shape->pass) {
    case CONV_FORWARD:
        return (ProductSpec){.m = pixels, .n = k, .k = c, .trans_b = true, .bias = shape->bias};
    case CONV_DATA: return (ProductSpec){.m = pixels, .n = c, .k = k};
    default: return (ProductSpec){.m = k, .n = c, .k = pixels, .trans_a = true};
    }
}

Status conv_product_bind(OnednnEngine *engine, KernelCall *call)
{
    ConvShape shape = conv_shape(call);
    ProductSpec spec = product_spec(&shape);
    spec.batch = 1;
    conv_dtypes(call, &spec.in, &spec.out);
    ProductState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = product_release;
    call->run = product_run;
    state->swapped = shape.pass == CONV_WEIGHT;
    state->a = stage_plan(call, &call->src[state->swapped], spec.in);
    state->b = stage_plan(call, &call->src[!state->swapped], spec.in);
    state->dst = stage_plan(call, &call->dst[0], spec.out);
    TRY(product_make(engine, call, &spec, &state->product));
    state->scratchpad_offset = stage_book(call, state->product.scratchpad_bytes);
    return OK;
}

/* ---- the choice ---- */

static Status conv_bind(Backend *backend, KernelCall *call)
{
    ConvShape shape = conv_shape(call);
    bool pointwise = conv_is_pointwise(&shape);
    DType in, out;
    conv_dtypes(call, &in, &out);
    if (shape.groups == shape.c && shape.k == shape.c && shape.groups > 1)
        return conv_depthwise_bind(call);
    if (conv_forward_usable(&shape, in)) return conv_forward_bind(call);
    if (conv_data_usable(&shape, in)) return conv_data_bind(call);
    if (conv_weight_usable(&shape, in)) return conv_weight_bind(call);
    if (pointwise && shape.groups == 1) return conv_product_bind(backend->context, call);
    if (pointwise) return conv_grouped_bind(call);
    return conv_dense_bind(backend->context, call);
}

Status cpu_conv2d(Backend *backend, KernelCall *call) { return conv_bind(backend, call); }
Status cpu_conv2d_grad_data(Backend *backend, KernelCall *call) { return conv_bind(backend, call); }
Status cpu_conv2d_grad_weight(Backend *backend, KernelCall *call)
{
    return conv_bind(backend, call);
}
