/* The three ways a convolution runs here, chosen once in bind by conv.c: own kernels where every
 * channel is its own group (depthwise.cu), matrix products of cuBLASLt where the kernel is one
 * pixel (pointwise.c), cuDNN for all others (conv_cudnn.c). Each serves CONV2D and both gradients.
 */
#ifndef RETORT_KERNELS_CUDA_CONV_H
#define RETORT_KERNELS_CUDA_CONV_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sizes of a convolution src (n,h,w,c) * weight (k,r,s,c/groups) -> dst (n,out_h,out_w,k),
 * whichever of the three is the result of the call. */
typedef struct ConvDims {
    int n, h, w, c, out_h, out_w, k, r, s, stride, pad, groups;
} ConvDims;

/* conv_dims: of a CONV2D, CONV2D_GRAD_DATA or CONV2D_GRAD_WEIGHT. */
ConvDims conv_dims(const KernelCall *call);

/* conv_bias: the bias of a CONV2D, or NULL. */
const Tensor *conv_bias(const KernelCall *call);

/* Whether a way can do it, and the bind that takes it.
 * errors  E_UNSUPPORTED if the library has no plan for these shapes and dtypes */
bool depthwise_fits(const ConvDims *d);
Status depthwise_bind(KernelCall *call);
bool pointwise_fits(const ConvDims *d, bool bias);
Status pointwise_bind(Backend *backend, KernelCall *call);
Status conv_cudnn_bind(Backend *backend, KernelCall *call);

#ifdef __cplusplus
}
#endif
#endif
