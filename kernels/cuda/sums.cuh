/* Sums of values into single results, in two launches: parts of each sum by many blocks, then the
 * parts in order. What is summed is a functor. Included by reduce.cu and by the losses.
 * Deterministic: the parts follow from the sizes alone. A thread sums its values of a part in f32;
 * everything above is double.
 */
#ifndef RETORT_KERNELS_CUDA_SUMS_CUH
#define RETORT_KERNELS_CUDA_SUMS_CUH

#include "kernels/cuda/storage.cuh"

/* block_sum in double. */
static __device__ __forceinline__ double block_sum_double(double value, double *partial)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync((unsigned)FULL_WARP, value, lanes);
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    double sum = 0;
    for (unsigned i = 0; i < blockDim.x / WARP; i++) sum += partial[i];
    return sum;
}

/* Value: `__device__ float at(unsigned result, unsigned i) const`. Block (result, part): the sum of
 * every gridDim.y-th run of SUM_THREADS values. */
template <class Value>
static __global__ void __launch_bounds__(SUM_THREADS)
    sum_kernel(double *parts, Value value, unsigned n)
{
    __shared__ double partial[WARP];
    float sum = 0.0f;
    for (unsigned i = blockIdx.y * SUM_THREADS + threadIdx.x; i < n; i += gridDim.y * SUM_THREADS)
        sum += value.at(blockIdx.x, i);
    double total = block_sum_double((double)sum, partial);
    if (threadIdx.x == 0) parts[blockIdx.x * gridDim.y + blockIdx.y] = total;
}

#endif
