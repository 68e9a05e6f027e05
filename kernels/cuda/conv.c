/* CONV2D and its gradients: takes the way that kernels/plan/conv_way.h names. See conv.h. */
#include "kernels/cuda/conv.h"

#include "kernels/cuda/checks.h"

static Status bind_conv(Backend *backend, KernelCall *call)
{
    TRY(cuda_check_low(call));
    switch (conv_way(call)) {
    case CONV_DEPTHWISE: return depthwise_bind(call);
    case CONV_POINTWISE: return pointwise_bind(backend, call);
    default: return conv_cudnn_bind(backend, call);
    }
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
