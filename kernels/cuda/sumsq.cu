/* SUMSQ: acc += sum of src^2, in two launches: partial sums of blocks, then their sum in one block.
 * No atomics, so that the order of the sums, and with it every bit, is the same in each run.
 */
#include "kernels/cuda/launch.h"
#include "kernels/cuda/storage.h"

enum { THREADS = 256, PER_BLOCK = 16 * THREADS };
static const unsigned MAX_PARTIALS = 1024;

static unsigned n_partials(int64_t n)
{
    unsigned blocks = cuda_blocks(n, PER_BLOCK);
    return blocks < MAX_PARTIALS ? blocks : MAX_PARTIALS;
}

template <typename T>
static __global__ void sumsq_partial_kernel(float *partials, const T *src, int64_t n)
{
    __shared__ float warp_sums[WARP];
    float sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * THREADS) {
        float value = to_f32(src[i]);
        sum += value * value;
    }
    sum = block_sum(sum, warp_sums);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

static __global__ void sumsq_total_kernel(float *acc, const float *partials, int n)
{
    __shared__ float warp_sums[WARP];
    float sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) sum += partials[i];
    sum = block_sum(sum, warp_sums);
    if (threadIdx.x == 0) *acc += sum;
}

static void sumsq_run(const KernelCall *call)
{
    int64_t n = shape_elems(call->src[0].shape);
    if (n == 0) return;
    float *partials = (float *)call->scratch;
    unsigned blocks = n_partials(n);
    WITH_STORAGE(call->src[0].dtype, T,
                 LAUNCH(call, sumsq_partial_kernel<T>, blocks, THREADS, 0, partials,
                        (const T *)call->src[0].data, n));
    LAUNCH(call, sumsq_total_kernel, 1, THREADS, 0, (float *)call->dst[0].data, partials,
           (int)blocks);
}

extern "C" Status cuda_sumsq(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = sumsq_run;
    call->scratch_bytes = n_partials(shape_elems(call->src[0].shape)) * sizeof(float);
    return OK;
}
