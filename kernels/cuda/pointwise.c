/* Convolutions whose kernel is one pixel, stride 1: matrix products of (pixels, channels), one per
 * group. Groups lie side by side in a pixel's channels, so they are batches with the whole pixel as
 * pitch and no data moves. See conv.h.
 */
#include "base/memory.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/cublaslt.h"

#include <stdlib.h>

static void pointwise_run(const KernelCall *call)
{
    const LtProduct *product = call->state;
    const void *a = call->src[0].data, *b = call->src[1].data;
    bool weights = call->op == OP_CONV2D_GRAD_WEIGHT; /* ddst is the first factor there */
    lt_run(call, product, weights ? b : a, weights ? a : b, conv_bias(call), call->dst[0].data,
           call->scratch);
}

static void pointwise_release(void *pointer)
{
    lt_free(pointer);
    free(pointer);
}

/* dst (pixels,K) = src (pixels,C) w^T;  dsrc = ddst w;  dw (K,C) = ddst^T src; of each group. */
static LtSpec pointwise_spec(const KernelCall *call)
{
    ConvDims d = conv_dims(call);
    int64_t pixels = (int64_t)d.n * d.h * d.w, in = d.c / d.groups, out = d.k / d.groups;
    LtMatrix src = {d.c, in}, dst = {d.k, out}, weight = {in, out * in};
    LtSpec spec = {.in = call->src[0].dtype, .out = call->dst[0].dtype, .batches = d.groups};
    if (call->op == OP_CONV2D) {
        spec.m = pixels, spec.n = out, spec.k = in;
        spec.trans_b = true;
        spec.a = src, spec.b = weight, spec.dst = dst;
    } else if (call->op == OP_CONV2D_GRAD_DATA) {
        spec.m = pixels, spec.n = in, spec.k = out;
        spec.a = dst, spec.b = weight, spec.dst = src;
    } else {
        spec.m = out, spec.n = in, spec.k = pixels;
        spec.trans_a = true;
        spec.a = dst, spec.b = src, spec.dst = weight;
    }
    return spec;
}

Status pointwise_bind(Backend *backend, KernelCall *call)
{
    LtSpec spec = pointwise_spec(call);
    spec.tf32 = backend->tf32;
    spec.bias = conv_bias(call) != NULL;
    LtProduct *product = mem_alloc(sizeof *product);
    call->state = product;
    call->release = pointwise_release;
    call->run = pointwise_run;
    TRY(lt_make(call, &spec, product));
    call->scratch_bytes += product->workspace_bytes;
    return OK;
}
