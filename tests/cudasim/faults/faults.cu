/* The kernels of faults.h. Each wrong one is a right one with one mistake that is made in earnest.
 */
#include "tests/cudasim/faults/faults.h"

#define SIM_LAUNCH(name, blocks, threads, shared, ...) \
    cudasim_launch(#name, blocks, threads, shared, stream, name, __VA_ARGS__)
#define LAUNCHER(name, blocks, threads, shared)                                \
    extern "C" void launch_##name(cudaStream_t stream, float *data, int n)     \
    {                                                                          \
        SIM_LAUNCH(name, blocks, threads, shared, data, n);                    \
    }

enum { N = 64 }; /* threads of a block, and elements that it works on */

/* ---- right ---- */

static __global__ void scale(float *data, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) data[i] = 2 * data[i];
}
LAUNCHER(scale, (n + N - 1) / N, N, 0)

static __global__ void reverse(float *data, int n)
{
    __shared__ float tile[N];
    int i = (int)threadIdx.x;
    if (i < n) tile[i] = data[i];
    __syncthreads();
    if (i < n) data[i] = tile[n - 1 - i];
}
LAUNCHER(reverse, 1, N, 0)

/* Each warp its 32 elements, ordered by __syncwarp alone. */
static __global__ void warp_reverse(float *data, int n)
{
    __shared__ float tile[N];
    int i = (int)threadIdx.x, lane = i % 32;
    tile[i] = i < n ? data[i] : 0;
    __syncwarp();
    float other = tile[i - lane + 31 - lane];
    if (i < n) data[i] = other;
}
LAUNCHER(warp_reverse, 1, N, 0)

static __global__ void sum_rows(float *data, int n)
{
    float value = (int)threadIdx.x < n ? data[threadIdx.x] : 0;
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    unsigned even = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 0);
    if (threadIdx.x == 0) data[0] = value + (float)__popc(even);
}
LAUNCHER(sum_rows, 1, 32, 0)

static __global__ void count(float *data, int n)
{
    int *counter = reinterpret_cast<int *>(data);
    if ((int)(blockIdx.x * blockDim.x + threadIdx.x) < n) atomicAdd(counter, 1);
}
LAUNCHER(count, 4, N, 0)

/* ---- wrong ---- */

static __global__ void past_the_end(float *data, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i <= n) data[i] = 1;
}
LAUNCHER(past_the_end, n / N + 1, N, 0)

float table_of_the_host[N]; /* a kernel on a GPU could not even name it */
static __global__ void host_table(float *data, int n)
{
    if ((int)threadIdx.x < n) data[threadIdx.x] = table_of_the_host[threadIdx.x];
}
LAUNCHER(host_table, 1, N, 0)

static __global__ void misaligned(float *data, int n)
{
    if ((int)threadIdx.x < n / 4 - 1)
        reinterpret_cast<float4 *>(data + 1)[threadIdx.x] = make_float4(1, 2, 3, 4);
}
LAUNCHER(misaligned, 1, N, 0)

static __global__ void blank_shared(float *data, int n)
{
    __shared__ float tile[N];
    int i = (int)threadIdx.x;
    if (i < n - 1) tile[i] = data[i];
    __syncthreads();
    if (i < n) data[i] = tile[i];
}
LAUNCHER(blank_shared, 1, N, 0)

static __global__ void read_before_barrier(float *data, int n)
{
    __shared__ float tile[N];
    int i = (int)threadIdx.x;
    if (i < n) tile[i] = data[i];
    if (i < n) data[i] = tile[n - 1 - i];
}
LAUNCHER(read_before_barrier, 1, N, 0)

static __global__ void write_before_barrier(float *data, int n)
{
    __shared__ float tile[N];
    int i = (int)threadIdx.x;
    for (int turn = 0; turn < 2; turn++) {
        tile[i] = i < n ? data[i] : 0;
        __syncthreads();
        float other = tile[N - 1 - i];
        if (i < n) data[i] = other; /* the next turn overwrites what others still read */
    }
}
LAUNCHER(write_before_barrier, 1, N, 0)

static __global__ void same_element(float *data, int n)
{
    if ((int)threadIdx.x < n) data[0] = 1;
}
LAUNCHER(same_element, 1, N, 0)

static __global__ void between_blocks(float *data, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 1 < n) data[i] = data[i + 1];
}
LAUNCHER(between_blocks, n, 1, 0)

static __global__ void divergent_barrier(float *data, int n)
{
    if ((int)threadIdx.x < N / 2) __syncthreads();
    if ((int)threadIdx.x < n) data[threadIdx.x] = 1;
    if ((int)threadIdx.x < N / 2 - 1) __syncthreads();
}
LAUNCHER(divergent_barrier, 1, N, 0)

static __global__ void returned_early(float *data, int n)
{
    if ((int)threadIdx.x >= n - 1) return;
    __syncthreads();
    data[threadIdx.x] = 1;
}
LAUNCHER(returned_early, 1, N, 0)

static __global__ void missing_lane(float *data, int n)
{
    float value = data[threadIdx.x];
    if ((int)threadIdx.x < n / 2 - 1) value = __shfl_xor_sync(0xffffffffu, value, 1);
    data[threadIdx.x] = value;
}
LAUNCHER(missing_lane, 1, 32, 0)

static __global__ void lane_not_in_mask(float *data, int n)
{
    float value = data[threadIdx.x];
    if (threadIdx.x < 16 && n > 0) value = __shfl_sync(0x0000ffffu, value, 16);
    data[threadIdx.x] = value;
}
LAUNCHER(lane_not_in_mask, 1, 32, 0)

static __global__ void missing_warp_barrier(float *data, int n)
{
    __shared__ float tile[32];
    tile[threadIdx.x] = data[threadIdx.x];
    float all = __shfl_xor_sync(0xffffffffu, tile[threadIdx.x], 1); /* orders no memory */
    if ((int)threadIdx.x < n) data[threadIdx.x] = tile[31 - threadIdx.x] + all;
}
LAUNCHER(missing_warp_barrier, 1, 32, 0)

static __global__ void local_of_another(float *data, int n)
{
    __shared__ float *address[N];
    float own[2] = {1, 2};
    address[threadIdx.x] = own + n % 2;
    __syncthreads();
    data[threadIdx.x] = *address[N - 1 - threadIdx.x];
    __syncthreads();
}
LAUNCHER(local_of_another, 1, N, 0)

static __global__ void past_dynamic_shared(float *data, int n)
{
    float *tile = static_cast<float *>(cudasim_dynamic_shared());
    tile[threadIdx.x] = (int)threadIdx.x < n ? data[threadIdx.x] : 0;
}
LAUNCHER(past_dynamic_shared, 1, N, N * sizeof(float) - 4)

static __global__ void too_much_shared(float *data, int n)
{
    if (n > 0) data[threadIdx.x] = 1;
}
LAUNCHER(too_much_shared, 1, N, 48 * 1024 + 1)

static __global__ void no_blocks(float *data, int n)
{
    if (n > 0) data[threadIdx.x] = 1;
}
LAUNCHER(no_blocks, 0, N, 0)
