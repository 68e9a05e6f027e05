/* What binds of several ops check. Called in bind functions only. */
#ifndef RETORT_KERNELS_CUDA_CHECKS_H
#define RETORT_KERNELS_CUDA_CHECKS_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* cuda_check_low: all operands of kind 'l' have the dtype of source 0, which kernels and libraries
 * are made for; the precision policy gives nothing else. errors  E_UNSUPPORTED naming both dtypes
 */
Status cuda_check_low(const KernelCall *call);

#ifdef __cplusplus
}
#endif
#endif
