/* Dtypes as types: how the elements of a tensor are stored, and the one switch that picks a
 * kernel's template by a dtype. Included by kernels whose operands may be f32, bf16 or f16 (kinds
 * 'a' and 'l'). Arithmetic is f32 throughout.
 *
 * Packs are 4 neighbours that move in one instruction (16 bytes of f32, 8 of the others). A kernel
 * with a template parameter N works on packs of N: 4 where rows and addresses allow it
 * (cuda_packs_of), else 1.
 */
#ifndef RETORT_KERNELS_CUDA_STORAGE_CUH
#define RETORT_KERNELS_CUDA_STORAGE_CUH

#include "kernels/cuda/launch.h"

/* ---- single elements ---- */

static __device__ __forceinline__ float to_f32(float value) { return value; }
static __device__ __forceinline__ float to_f32(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}
static __device__ __forceinline__ float to_f32(__half value) { return __half2float(value); }

/* store(&dst[i], value): rounds to nearest even. The rounded value is named, because the simulator
 * sees assignments and not where a call puts its result. */
static __device__ __forceinline__ void store(float *dst, float value) { *dst = value; }
static __device__ __forceinline__ void store(__nv_bfloat16 *dst, float value)
{
    __nv_bfloat16 rounded = __float2bfloat16_rn(value);
    *dst = rounded;
}
static __device__ __forceinline__ void store(__half *dst, float value)
{
    __half rounded = __float2half_rn(value);
    *dst = rounded;
}

/* ---- packs ---- */

template <typename T, int N> struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

template <int N, typename T>
static __device__ __forceinline__ void load_pack(const T *src, float (&value)[N])
{
    Pack<T, N> pack = *reinterpret_cast<const Pack<T, N> *>(src);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = to_f32(pack.at[i]);
}

template <int N, typename T>
static __device__ __forceinline__ void store_pack(T *dst, const float (&value)[N])
{
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) store(&pack.at[i], value[i]);
    *reinterpret_cast<Pack<T, N> *>(dst) = pack;
}

/* An operand whose dtype may differ from the one that the kernel is made for; the branch is uniform
 * over the launch. */
typedef struct AnyFloat {
    const void *data;
    DType dtype;
} AnyFloat;

static inline AnyFloat any_float(const Tensor *tensor)
{
    AnyFloat any = {tensor->data, tensor->dtype};
    return any;
}

template <int N>
static __device__ __forceinline__ void load_any(AnyFloat src, int64_t at, float (&value)[N])
{
    if (src.dtype == DT_F32)
        load_pack<N>((const float *)src.data + at, value);
    else if (src.dtype == DT_BF16)
        load_pack<N>((const __nv_bfloat16 *)src.data + at, value);
    else
        load_pack<N>((const __half *)src.data + at, value);
}

/* ---- on the host ---- */

/* cuda_packs_of: 4 if rows of `row` elements of all these tensors can be read in packs of 4,
 * else 1. An address may be that of a slice, so it is looked at in run, not in bind. */
static inline int cuda_packs_of(int64_t row, const Tensor *const *tensors, int n)
{
    if (row % 4 != 0) return 1;
    for (int i = 0; i < n; i++)
        if ((uintptr_t)tensors[i]->data % (4 * dtype_size(tensors[i]->dtype)) != 0) return 1;
    return 4;
}

/* CUDA_PACKS(row, &call->src[0], ...): cuda_packs_of these tensors. */
template <typename... Tensors> static inline int CUDA_PACKS(int64_t row, const Tensors *...tensor)
{
    const Tensor *all[] = {tensor...};
    return cuda_packs_of(row, all, (int)sizeof...(tensor));
}

/* WITH_STORAGE(dtype, T, statements): the statements with T the element type of a float dtype.
 * bind has checked the dtype against the op table. */
#define WITH_STORAGE(dtype, T, ...)  \
    do {                             \
        switch (dtype) {             \
        case DT_F32: {               \
            typedef float T;         \
            __VA_ARGS__;             \
        } break;                     \
        case DT_BF16: {              \
            typedef __nv_bfloat16 T; \
            __VA_ARGS__;             \
        } break;                     \
        case DT_F16: {               \
            typedef __half T;        \
            __VA_ARGS__;             \
        } break;                     \
        default: break;              \
        }                            \
    } while (0)

/* WITH_PACKS(packs, N, statements): the statements with N a constant, 4 or 1. */
#define WITH_PACKS(packs, N, ...) \
    do {                          \
        if ((packs) == 4) {       \
            enum { N = 4 };       \
            __VA_ARGS__;          \
        } else {                  \
            enum { N = 1 };       \
            __VA_ARGS__;          \
        }                         \
    } while (0)

/* ---- flat loops ---- */

enum { FLAT_THREADS = 256, FLAT_MAX_BLOCKS = 4096 };

/* Blocks of FLAT_THREADS that share n items; each thread takes those that lie a grid apart. */
static inline unsigned flat_blocks(int64_t n)
{
    unsigned blocks = cuda_blocks(n, FLAT_THREADS);
    return blocks < FLAT_MAX_BLOCKS ? blocks : (unsigned)FLAT_MAX_BLOCKS;
}

/* for (FLAT_LOOP(i, n)): the items of this thread. Tensors have fewer than 2^31 elements (backend.c
 * checks it), so 32-bit indices suffice and divisions of them are cheap. */
#define FLAT_LOOP(i, n)                                   \
    unsigned i = blockIdx.x * FLAT_THREADS + threadIdx.x; \
    i < (unsigned)(n);                                    \
    i += gridDim.x * FLAT_THREADS

#endif
