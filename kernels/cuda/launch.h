/* How kernels are written and launched here: what a .cu file may use, so that nvcc and the
 * simulator both compile it, unchanged. Included first by every .cu here.
 *
 * Two compilers
 *   nvcc     -arch sm_80, sm_90 and PTX: `make CUDA=1` -> libretort_cuda.so
 *   g++      as C++17, tests/cudasim/device.h included in front, which gives the words of CUDA C
 *            their meaning on fibers: `make cudasim` -> libretort_cudasim.so. Every load and store
 *            of a kernel is checked there.
 *
 * What a kernel may use
 *   threadIdx blockIdx blockDim gridDim, __shared__ arrays, SHARED_DYNAMIC, __launch_bounds__
 *   __syncthreads __syncthreads_or __syncthreads_and __syncthreads_count __syncwarp
 *   __shfl_sync __shfl_xor_sync __shfl_up_sync __shfl_down_sync (4 and 8 bytes)
 *   __ballot_sync __any_sync __all_sync   __popc __ffs __clz __ldg __umulhi
 *   atomicAdd atomicMax atomicMin atomicOr of int and unsigned (never of floats: their order would
 *   show in the bits)
 *   float2 float4 int2 int4 uint2 uint4 and their make_ functions; wide loads and stores are
 *   dereferences of aligned pointers to them
 *   C's math functions, rsqrtf, __expf __logf __fdividef __saturatef, min, max
 *   bf16 and f16: conversions only (storage.cuh); arithmetic is f32
 *   mma.h: the one wrapper of tensor cores
 * What it may not
 *   cooperative groups, CUB, Thrust, inline PTX, __constant__ and __device__ variables, textures,
 *   memcpy in kernels, printf, local arrays indexed at run time (they spill), kernels that talk
 *   between blocks (use two launches), kernels of kernels
 *
 * What must hold: all threads of a block reach the same __syncthreads; all threads named by a mask
 * reach the same shuffle; shuffles and votes do not order memory, __syncwarp and __syncthreads do;
 * two threads never write one element between two barriers, not even the same value; a kernel
 * touches the operands and the scratch of its call, nothing else.
 */
#ifndef RETORT_KERNELS_CUDA_LAUNCH_H
#define RETORT_KERNELS_CUDA_LAUNCH_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/cuda.h"
#include "kernels/plan/parts.h"

/* LAUNCH(call, kernel, grid, block, shared_bytes, arguments...): one kernel on the call's stream,
 * checked. `kernel` with template arguments stands in parentheses: LAUNCH(call, (add<float>), ...).
 * shared_bytes is the dynamic shared memory; above 48 KiB see cuda_allow_shared. A grid of 0 blocks
 * is an error: return before it if there is nothing to do. To be used in `run` functions only.
 *
 * SHARED_DYNAMIC(Type, name): `Type *name`, the dynamic shared memory, aligned to 16 bytes. */
#ifdef __CUDACC__
#define LAUNCH(call, kernel, grid, block, shared_bytes, ...)                         \
    do {                                                                             \
        if (!cuda_ready(call)) break;                                                \
        kernel<<<(grid), (block), (shared_bytes), cuda_stream(call)>>>(__VA_ARGS__); \
        cuda_launched((call), #kernel);                                              \
    } while (0)
#define SHARED_DYNAMIC(Type, name)                   \
    extern __shared__ float4 cuda_dynamic_shared_[]; \
    Type *name = reinterpret_cast<Type *>(cuda_dynamic_shared_)
#else
#define LAUNCH(call, kernel, grid, block, shared_bytes, ...)                                \
    do {                                                                                    \
        if (!cuda_ready(call)) break;                                                       \
        cudasim_launch(#kernel, (grid), (block), (shared_bytes), cuda_stream(call), kernel, \
                       __VA_ARGS__);                                                        \
        cuda_launched((call), #kernel);                                                     \
    } while (0)
#define SHARED_DYNAMIC(Type, name) Type *name = static_cast<Type *>(cudasim_dynamic_shared())
#endif

/* cuda_allow_shared: lets `kernel` use up to CUDA_SHARED_MAX_BYTES of dynamic shared memory; called
 * in bind, where more than 48 KiB are needed. errors  E_DEVICE */
template <typename... Args>
static inline Status cuda_allow_shared(void (*kernel)(Args...), size_t bytes)
{
    CUDA_TRY(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return OK;
}

enum { WARP = 32, FULL_WARP = -1 }; /* lanes; the mask of all of them */

/* ---- reductions of a block, in one order: equal bits every time ---- */

/* warp_sum: the sum over the warp, in all its lanes. All 32 lanes must call it. */
static __device__ __forceinline__ float warp_sum(float value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync((unsigned)FULL_WARP, value, lanes);
    return value;
}

static __device__ __forceinline__ float warp_max(float value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value = fmaxf(value, __shfl_xor_sync((unsigned)FULL_WARP, value, lanes));
    return value;
}

/* block_sum: the sum over a block of up to 1,024 threads (whole warps), in all its threads.
 * `partial` is shared memory of 32 floats, free for other use after the next barrier. */
static __device__ __forceinline__ float block_sum(float value, float *partial)
{
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_sum(value);
    __syncthreads(); /* whoever still reads the partial sums of before */
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? partial[lane] : 0);
}

#endif
