/* Running sums of integers over a block, in the order of its threads. Included by what keeps or
 * finds elements by rank: points.cu, mask_errors.cu.
 */
#ifndef RETORT_KERNELS_CUDA_SCAN_CUH
#define RETORT_KERNELS_CUDA_SCAN_CUH

#include "kernels/cuda/launch.h"

/* block_scan: the sum of `value` over the threads in front of this one; *total: over all. `shared`
 * is memory of 33 ints, free for other use after the next barrier. Whole warps only. */
static __device__ __forceinline__ int block_scan(int value, int *shared, int *total)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    int sum = value;
#pragma unroll
    for (unsigned delta = 1; delta < WARP; delta *= 2) {
        int below = __shfl_up_sync((unsigned)FULL_WARP, sum, delta);
        if (lane >= delta) sum += below;
    }
    __syncthreads(); /* whoever still reads the sums of before */
    if (lane == WARP - 1) shared[warp] = sum;
    __syncthreads();
    int before = 0, all = 0;
    for (unsigned i = 0; i < warps; i++) {
        if (i < warp) before += shared[i];
        all += shared[i];
    }
    *total = all;
    return before + sum - value;
}

#endif
