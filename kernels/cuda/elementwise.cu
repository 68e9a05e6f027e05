/* Elementwise ops on flat tensors: FILL, ACCUM.
 *
 * Bound by memory: each thread handles the elements that lie one grid apart, so neighbours read
 * neighbours.
 */
#include "kernels/cuda/launch.h"
#include "kernels/cuda/storage.h"

enum { THREADS = 256 };
static const unsigned MAX_BLOCKS = 1 << 16;

static unsigned blocks_for(int64_t n)
{
    unsigned blocks = cuda_blocks(n, THREADS);
    return blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS;
}

static __device__ __forceinline__ int64_t first_element(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ int64_t grid_threads(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* ---- fill ---- */

static __global__ void fill_kernel(float *dst, float value, int64_t n)
{
    for (int64_t i = first_element(); i < n; i += grid_threads()) dst[i] = value;
}

static void fill_run(const KernelCall *call)
{
    int64_t n = shape_elems(call->dst[0].shape);
    if (n == 0) return;
    LAUNCH(call, fill_kernel, blocks_for(n), THREADS, 0, (float *)call->dst[0].data,
           (float)call->attr->fill.value, n);
}

/* ---- accum ---- */

template <typename T> static __global__ void accum_kernel(float *acc, const T *src, int64_t n)
{
    for (int64_t i = first_element(); i < n; i += grid_threads()) acc[i] += to_f32(src[i]);
}

static void accum_run(const KernelCall *call)
{
    int64_t n = shape_elems(call->dst[0].shape);
    if (n == 0) return;
    WITH_STORAGE(call->src[0].dtype, T,
                 LAUNCH(call, accum_kernel<T>, blocks_for(n), THREADS, 0,
                        (float *)call->dst[0].data, (const T *)call->src[0].data, n));
}

CUDA_BIND(fill)
CUDA_BIND(accum)
