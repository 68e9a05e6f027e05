/* The three ways a convolution runs on CUDA: own kernels where every channel is its own group
 * (kernels/cuda/depthwise.cu), matrix products of cuBLASLt where the kernel is one pixel
 * (pointwise.c), cuDNN for all others (conv_cudnn.c). Chosen here from shapes alone, for the
 * plug-in and for plans without it.
 */
#ifndef RETORT_KERNELS_PLAN_CONV_WAY_H
#define RETORT_KERNELS_PLAN_CONV_WAY_H

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/backend.h"

typedef enum ConvWay { CONV_DEPTHWISE, CONV_POINTWISE, CONV_DENSE } ConvWay;

/* Sizes of a convolution src (n,h,w,c) * weight (k,r,s,c/groups) -> dst (n,out_h,out_w,k),
 * whichever of the three is the result of the call. */
typedef struct ConvDims {
    int n, h, w, c, out_h, out_w, k, r, s, stride, pad, groups;
} ConvDims;

/* conv_dims, conv_way: of a CONV2D, CONV2D_GRAD_DATA or CONV2D_GRAD_WEIGHT. */
ConvDims conv_dims(const KernelCall *call);
ConvWay conv_way(const KernelCall *call);

/* conv_bias: the bias of a CONV2D, or NULL. */
const Tensor *conv_bias(const KernelCall *call);

#ifdef __cplusplus
}
#endif
#endif
