/* The words of CUDA C for g++, on the simulator's fibers. Put in front of every .cu of kernels/cuda
 * by the compiler's -include; kernels/cuda/launch.h says what of CUDA C there is.
 *
 * A kernel is a plain function that is called once for each thread, on a fiber of its own. What
 * waits for other threads (barriers, shuffles, votes) calls the simulator, which runs the others
 * meanwhile. Shared arrays are static and thread-local: not for the threads, all fibers are on one
 * thread of the system, but because that puts them into one range of addresses, which the simulator
 * knows.
 *
 * The functions of this file are not instrumented (SIM_PLAIN): they touch what kernels must not.
 */
#ifndef RETORT_TESTS_CUDASIM_DEVICE_H
#define RETORT_TESTS_CUDASIM_DEVICE_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <tuple>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SIM_PLAIN __attribute__((no_sanitize("thread")))

#undef __shared__
#define __shared__ static __thread
#undef __launch_bounds__
#define __launch_bounds__(...)

/* ---- what the simulator gives ---- */

extern "C" {
/* The same for the whole life of a fiber, so the compiler may keep them. */
uint3 cudasim_thread_idx(void) __attribute__((const));
uint3 cudasim_block_idx(void) __attribute__((const));
uint3 cudasim_block_dim(void) __attribute__((const));
uint3 cudasim_grid_dim(void) __attribute__((const));
void *cudasim_dynamic_shared(void) __attribute__((const));

/* Barriers return what the votes of all threads give: how many were not 0. */
int cudasim_barrier(int vote);
void cudasim_warp_barrier(unsigned mask);
uint64_t cudasim_shuffle(unsigned mask, uint64_t bits, int source_lane);
unsigned cudasim_ballot(unsigned mask, int vote);
int cudasim_lane(void);
void cudasim_atomic(void *address, size_t bytes);

/* Copies of the arguments lie in `args`, which `run` unpacks once per thread. */
void cudasim_enqueue_kernel(const char *name, const void *kernel, dim3 grid, dim3 block,
                            size_t shared_bytes, cudaStream_t stream, void *args, size_t args_bytes,
                            void (*run)(const void *kernel, const void *args));
}

#define threadIdx cudasim_thread_idx()
#define blockIdx cudasim_block_idx()
#define blockDim cudasim_block_dim()
#define gridDim cudasim_grid_dim()
#define warpSize 32

/* ---- launches ---- */

template <typename... Params> SIM_PLAIN void cudasim_run(const void *kernel, const void *args)
{
    void (*typed)(Params...) = reinterpret_cast<void (*)(Params...)>(kernel);
    std::apply(typed, *static_cast<const std::tuple<Params...> *>(args));
}

/* Arguments are converted to the kernel's parameters and copied now, as a real launch does. */
template <typename... Params, typename... Args>
SIM_PLAIN void cudasim_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                              cudaStream_t stream, void (*kernel)(Params...), Args... args)
{
    typedef std::tuple<Params...> Packed;
    static_assert(std::is_trivially_destructible<Packed>::value, "kernels take plain values");
    void *memory = malloc(sizeof(Packed));
    new (memory) Packed(args...);
    cudasim_enqueue_kernel(name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes,
                           stream, memory, sizeof(Packed), cudasim_run<Params...>);
}

/* ---- barriers, votes, shuffles ---- */

static inline void __syncthreads(void) { cudasim_barrier(0); }
static inline int __syncthreads_count(int vote) { return cudasim_barrier(vote != 0); }
static inline int __syncthreads_or(int vote) { return cudasim_barrier(vote != 0) > 0; }
static inline int __syncthreads_and(int vote) { return cudasim_barrier(vote == 0) == 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { cudasim_warp_barrier(mask); }

static inline unsigned __ballot_sync(unsigned mask, int vote) { return cudasim_ballot(mask, vote); }
static inline int __any_sync(unsigned mask, int vote) { return cudasim_ballot(mask, vote) != 0; }
static inline int __all_sync(unsigned mask, int vote)
{
    return cudasim_ballot(mask, vote == 0) == 0;
}

template <typename T> SIM_PLAIN T cudasim_shuffle_value(unsigned mask, T value, int source_lane)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = cudasim_shuffle(mask, bits, source_lane);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A lane outside of the own segment of `width` lanes gives the own value. */
template <typename T> SIM_PLAIN T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int first = cudasim_lane() & ~(width - 1);
    return cudasim_shuffle_value(mask, value, first + (source & (width - 1)));
}
template <typename T> SIM_PLAIN T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    int lane = cudasim_lane(), source = lane ^ lanes;
    return cudasim_shuffle_value(mask, value,
                                 source >= (lane & ~(width - 1)) + width ? lane : source);
}
template <typename T>
SIM_PLAIN T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = cudasim_lane(), source = lane - (int)delta;
    return cudasim_shuffle_value(mask, value, source < (lane & ~(width - 1)) ? lane : source);
}
template <typename T>
SIM_PLAIN T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = cudasim_lane(), source = lane + (int)delta;
    return cudasim_shuffle_value(mask, value,
                                 source >= (lane & ~(width - 1)) + width ? lane : source);
}

/* ---- atomics, of integers only ---- */

#define SIM_ATOMIC(name, expression)                                                 \
    template <typename T> SIM_PLAIN T name(T *address, T value)                      \
    {                                                                                \
        static_assert(std::is_integral<T>::value, "the order of floats would show"); \
        cudasim_atomic(address, sizeof(T));                                          \
        T old = *address;                                                            \
        *address = (expression);                                                     \
        return old;                                                                  \
    }
SIM_ATOMIC(atomicAdd, old + value)
SIM_ATOMIC(atomicMax, old > value ? old : value)
SIM_ATOMIC(atomicMin, old < value ? old : value)
SIM_ATOMIC(atomicOr, old | value)
#undef SIM_ATOMIC

/* ---- arithmetic ---- */

static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
#define __expf(x) expf(x) /* the C library has inner functions of these names */
#define __logf(x) logf(x)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
template <typename T> static inline T __ldg(const T *address) { return *address; }

#define SIM_BITS(name, To, From) \
    static inline To name(From value) { return __builtin_bit_cast(To, value); }
SIM_BITS(__int_as_float, float, int)
SIM_BITS(__uint_as_float, float, unsigned)
SIM_BITS(__float_as_int, int, float)
SIM_BITS(__float_as_uint, unsigned, float)
#undef SIM_BITS

/* As nvcc's: of two values of one type. */
#define SIM_MIN_MAX(T)                                      \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
SIM_MIN_MAX(int)
SIM_MIN_MAX(unsigned)
SIM_MIN_MAX(long)
SIM_MIN_MAX(unsigned long)
SIM_MIN_MAX(long long)
SIM_MIN_MAX(unsigned long long)
#undef SIM_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

#endif
