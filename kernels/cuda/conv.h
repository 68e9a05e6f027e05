/* The binds of the three ways a convolution runs here (kernels/plan/conv_way.h). Each serves CONV2D
 * and both gradients.
 */
#ifndef RETORT_KERNELS_CUDA_CONV_H
#define RETORT_KERNELS_CUDA_CONV_H

#include "kernels/cuda/cuda.h"
#include "kernels/plan/conv_way.h"

#ifdef __cplusplus
extern "C" {
#endif

/* errors  E_UNSUPPORTED if the library has no plan for these shapes and dtypes */
Status depthwise_bind(KernelCall *call);
Status pointwise_bind(Backend *backend, KernelCall *call);
Status conv_cudnn_bind(Backend *backend, KernelCall *call);

#ifdef __cplusplus
}
#endif
#endif
