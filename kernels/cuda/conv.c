/* CONV2D and its gradients: chooses the way, see conv.h. */
#include "kernels/cuda/conv.h"

#include "kernels/cuda/checks.h"

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
    bool has = call->op == OP_CONV2D && call->n_src > 2 && cuda_present(&call->src[2]);
    return has ? &call->src[2] : NULL;
}

static Status bind_conv(Backend *backend, KernelCall *call)
{
    ConvDims d = conv_dims(call);
    TRY(cuda_check_low(call));
    if (depthwise_fits(&d)) return depthwise_bind(call);
    if (pointwise_fits(&d, conv_bias(call) != NULL)) return pointwise_bind(backend, call);
    return conv_cudnn_bind(backend, call);
}

Status cuda_conv2d(Backend *backend, KernelCall *call) { return bind_conv(backend, call); }

Status cuda_conv2d_grad_data(Backend *backend, KernelCall *call)
{
    return bind_conv(backend, call);
}

Status cuda_conv2d_grad_weight(Backend *backend, KernelCall *call)
{
    return bind_conv(backend, call);
}
