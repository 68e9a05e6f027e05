/* Elementwise ops: ADD with broadcasting, EXPAND, ACT and its gradient, FILL, ACCUM, CAST.
 *
 * Bound by memory: neighbouring threads handle neighbouring packs, and each thread those that lie a
 * grid apart. Bound through backend.c's table. May run in place where the table says so: a thread
 * reads its own elements before it writes them.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/passes.h"
#include "kernels/cuda/storage.cuh"
#include "kernels/cuda/walk.cuh"

/* ---- add ---- */

/* A pack of an operand whose innermost stride is 1, or one element N times where it is 0. */
template <int N, typename T>
static __device__ __forceinline__ void load_stretched(const T *src, bool stretched,
                                                      float (&value)[N])
{
    if (!stretched) {
        load_pack<N>(src, value);
        return;
    }
    float one = to_f32(*src);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = one;
}

template <int N>
static __device__ __forceinline__ void load_stretched_any(AnyFloat src, unsigned at, bool stretched,
                                                          float (&value)[N])
{
    if (src.dtype == DT_F32)
        load_stretched<N>((const float *)src.data + at, stretched, value);
    else if (src.dtype == DT_BF16)
        load_stretched<N>((const __nv_bfloat16 *)src.data + at, stretched, value);
    else
        load_stretched<N>((const __half *)src.data + at, stretched, value);
}

template <typename T, int N>
static __global__ void add_kernel(T *dst, const T *a, AnyFloat b, const Walk walk)
{
    bool stretch_a = walk.stride[0][0] == 0, stretch_b = walk.stride[1][0] == 0;
    for (FLAT_LOOP(i, walk.n / N)) {
        float left[N], right[N];
        load_stretched<N>(a + walk_offset(walk, 0, i * N), stretch_a, left);
        load_stretched_any<N>(b, walk_offset(walk, 1, i * N), stretch_b, right);
#pragma unroll
        for (int j = 0; j < N; j++) left[j] += right[j];
        store_pack<N>(dst + i * N, left);
    }
}

/* Whether packs of 4 of the destination are packs of each operand, or one element of it. */
static int walk_packs(const Walk &walk, const Tensor *dst, const Tensor *const *src, int n_src)
{
    int packs = CUDA_PACKS(walk.dim[0], dst);
    for (int o = 0; o < n_src; o++) {
        if (walk.stride[o][0] == 0) continue;
        if (CUDA_PACKS(walk.dim[0], src[o]) == 1) packs = 1;
        for (int axis = 1; axis < walk.rank; axis++)
            if (walk.stride[o][axis] % 4 != 0) packs = 1;
    }
    return packs;
}

static void add_run(const KernelCall *call)
{
    const Tensor *src[] = {&call->src[0], &call->src[1]}, *dst = &call->dst[0];
    Walk walk = walk_make(dst->shape, src[0]->shape, src[1]->shape);
    if (walk.n == 0) return;
    WITH_PACKS(
        walk_packs(walk, dst, src, 2), N,
        WITH_STORAGE(dst->dtype, T,
                     LAUNCH(call, (add_kernel<T, N>), flat_blocks(walk.n / N), FLAT_THREADS, 0,
                            (T *)dst->data, (const T *)src[0]->data, any_float(src[1]), walk)));
}

CUDA_BIND(add)

/* ---- expand ---- */

template <typename T, int N>
static __global__ void expand_kernel(T *dst, const T *src, const Walk walk)
{
    bool stretched = walk.stride[0][0] == 0;
    for (FLAT_LOOP(i, walk.n / N)) {
        float value[N];
        load_stretched<N>(src + walk_offset(walk, 0, i * N), stretched, value);
        store_pack<N>(dst + i * N, value);
    }
}

static void expand_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    Walk walk = walk_make(dst->shape, src->shape, src->shape);
    if (walk.n == 0) return;
    WITH_PACKS(walk_packs(walk, dst, &src, 1), N,
               WITH_STORAGE(dst->dtype, T,
                            LAUNCH(call, (expand_kernel<T, N>), flat_blocks(walk.n / N),
                                   FLAT_THREADS, 0, (T *)dst->data, (const T *)src->data, walk)));
}

CUDA_BIND(expand)

/* ---- activations ---- */

template <typename T, int N>
static __global__ void act_kernel(T *dst, const T *src, Activation kind, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        float value[N];
        load_pack<N>(src + i * N, value);
#pragma unroll
        for (int j = 0; j < N; j++) value[j] = act_value(kind, value[j]);
        store_pack<N>(dst + i * N, value);
    }
}

static void act_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t n = shape_elems(dst->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, src, dst), N,
               WITH_STORAGE(dst->dtype, T,
                            LAUNCH(call, (act_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS, 0,
                                   (T *)dst->data, (const T *)src->data, call->attr->act.kind,
                                   (unsigned)(n / N))));
}

CUDA_BIND(act)

template <typename T, int N>
static __global__ void act_grad_kernel(T *dsrc, const T *src, AnyFloat ddst, Activation kind,
                                       unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        float x[N], gradient[N];
        load_pack<N>(src + i * N, x);
        load_any<N>(ddst, i * N, gradient);
#pragma unroll
        for (int j = 0; j < N; j++) gradient[j] *= act_slope(kind, x[j]);
        store_pack<N>(dsrc + i * N, gradient);
    }
}

static void act_grad_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *ddst = &call->src[1], *dsrc = &call->dst[0];
    int64_t n = shape_elems(dsrc->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, src, ddst, dsrc), N,
               WITH_STORAGE(dsrc->dtype, T,
                            LAUNCH(call, (act_grad_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS,
                                   0, (T *)dsrc->data, (const T *)src->data, any_float(ddst),
                                   call->attr->act_grad.kind, (unsigned)(n / N))));
}

CUDA_BIND(act_grad)

/* ---- fill and accum ---- */

template <int N> static __global__ void fill_kernel(float *dst, float value, unsigned n_packs)
{
    float values[N];
#pragma unroll
    for (int j = 0; j < N; j++) values[j] = value;
    for (FLAT_LOOP(i, n_packs)) store_pack<N>(dst + i * N, values);
}

static void fill_run(const KernelCall *call)
{
    const Tensor *dst = &call->dst[0];
    int64_t n = shape_elems(dst->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, dst), N,
               LAUNCH(call, fill_kernel<N>, flat_blocks(n / N), FLAT_THREADS, 0, (float *)dst->data,
                      (float)call->attr->fill.value, (unsigned)(n / N)));
}

CUDA_BIND(fill)

template <typename T, int N>
static __global__ void accum_kernel(float *acc, const T *src, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        float sum[N], value[N];
        load_pack<N>(acc + i * N, sum);
        load_pack<N>(src + i * N, value);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += value[j];
        store_pack<N>(acc + i * N, sum);
    }
}

static void accum_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *acc = &call->dst[0];
    int64_t n = shape_elems(acc->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, src, acc), N,
               WITH_STORAGE(src->dtype, T,
                            LAUNCH(call, (accum_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS, 0,
                                   (float *)acc->data, (const T *)src->data, (unsigned)(n / N))));
}

CUDA_BIND(accum)

/* ---- cast ---- */

template <typename T, int N>
static __global__ void cast_kernel(T *dst, AnyFloat src, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        float value[N];
        load_any<N>(src, i * N, value);
        store_pack<N>(dst + i * N, value);
    }
}

void cuda_convert(const KernelCall *call, const Tensor *dst, const Tensor *src)
{
    int64_t n = shape_elems(dst->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, src, dst), N,
               WITH_STORAGE(dst->dtype, T,
                            LAUNCH(call, (cast_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS, 0,
                                   (T *)dst->data, any_float(src), (unsigned)(n / N))));
}

static void cast_run(const KernelCall *call) { cuda_convert(call, &call->dst[0], &call->src[0]); }

CUDA_BIND(cast)

/* ---- a bias, after a library's convolution ---- */

template <typename T, int N>
static __global__ void add_bias_kernel(T *dst, AnyFloat src, const float *bias, unsigned channels,
                                       unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        float value[N], shift[N];
        load_any<N>(src, i * N, value);
        load_pack<N>(bias + i * N % channels, shift);
#pragma unroll
        for (int j = 0; j < N; j++) value[j] += shift[j];
        store_pack<N>(dst + i * N, value);
    }
}

void cuda_add_bias(const KernelCall *call, const Tensor *dst, const Tensor *src, const Tensor *bias)
{
    int64_t n = shape_elems(dst->shape), channels = shape_dim_from_end(dst->shape, 1);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(channels, bias, src, dst), N,
               WITH_STORAGE(dst->dtype, T,
                            LAUNCH(call, (add_bias_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS,
                                   0, (T *)dst->data, any_float(src), (const float *)bias->data,
                                   (unsigned)channels, (unsigned)(n / N))));
}
