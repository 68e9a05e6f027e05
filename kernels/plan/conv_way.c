/* Which way a convolution runs on CUDA. See conv_way.h. */
#include "kernels/plan/conv_way.h"

static ConvDims dims_of(Shape src, Shape weight, Shape dst, ConvAttr attr)
{
    return (ConvDims){.n = (int)src.dim[0],
                      .h = (int)src.dim[1],
                      .w = (int)src.dim[2],
                      .c = (int)src.dim[3],
                      .out_h = (int)dst.dim[1],
                      .out_w = (int)dst.dim[2],
                      .k = (int)weight.dim[0],
                      .r = (int)weight.dim[1],
                      .s = (int)weight.dim[2],
                      .stride = (int)attr.stride,
                      .pad = (int)attr.pad,
                      .groups = (int)attr.groups};
}

ConvDims conv_dims(const KernelCall *call)
{
    Shape a = call->src[0].shape, b = call->src[1].shape, dst = call->dst[0].shape;
    const OpAttr *attr = call->attr;
    switch (call->op) {
    case OP_CONV2D_GRAD_DATA: return dims_of(dst, b, a, attr->conv2d_grad_data.conv);
    case OP_CONV2D_GRAD_WEIGHT: return dims_of(a, dst, b, attr->conv2d_grad_weight.conv);
    default: return dims_of(a, b, dst, attr->conv2d);
    }
}

const Tensor *conv_bias(const KernelCall *call)
{
    bool has = call->op == OP_CONV2D && call->n_src > 2 && call->src[2].dtype != DT_NONE;
    return has ? &call->src[2] : NULL;
}

static bool is_depthwise(const ConvDims *d)
{
    bool size = d->r == d->s && (d->r == 3 || d->r == 5);
    return d->groups == d->c && d->k == d->c && size && d->stride >= 1 && d->stride <= 2 &&
           d->pad < d->r;
}

/* The epilogue has one bias for all batches, so groups with a bias are left to cuDNN. */
static bool is_pointwise(const ConvDims *d, bool bias)
{
    bool one_pixel = d->r == 1 && d->s == 1 && d->stride == 1 && d->pad == 0;
    return one_pixel && (d->groups == 1 || !bias);
}

ConvWay conv_way(const KernelCall *call)
{
    ConvDims d = conv_dims(call);
    if (is_depthwise(&d)) return CONV_DEPTHWISE;
    return is_pointwise(&d, conv_bias(call) != NULL) ? CONV_POINTWISE : CONV_DENSE;
}
