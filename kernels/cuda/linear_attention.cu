/* LINEAR_ATTENTION, the core of EfficientViT's multi-scale linear attention, and its gradient, in
 * f32.
 *
 * With q and k behind their ReLUs
 *   state[j][i] = sum_n v_nj k_ni for j < d,  state[d][i] = sum_n k_ni
 *   out_nj = state[j].q_n / (state[d].q_n + eps)
 * A head is one group of one image. Blocks sum parts of the tokens into states in the scratch,
 * which are added in order; then each thread makes one token's results with q in registers and the
 * state in shared memory, where all lanes read the same word. source  Cai et al., EfficientViT,
 * section 3.1
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/passes.h"
#include "kernels/cuda/storage.cuh"

typedef struct LinearDims {
    int images, tokens, groups, d, parts;
    float eps;
} LinearDims;

static LinearDims linear_dims(const KernelCall *call, const LinearAttentionAttr *attr)
{
    Shape src = call->src[0].shape;
    LinearDims dims = {(int)src.dim[0],
                       (int)(src.dim[1] * src.dim[2]),
                       (int)(src.dim[3] / (3 * attr->head_dim)),
                       (int)attr->head_dim,
                       (int)cuda_blocks(src.dim[1] * src.dim[2], STATE_PART_TOKENS),
                       (float)attr->eps};
    return dims;
}

static __host__ __device__ __forceinline__ int state_elems(int d) { return STATE_ELEMS(d); }

/* Where a token's q of a head begins; k and v follow, d apart. */
static __device__ __forceinline__ size_t token_offset(const LinearDims &dims, int head, int token)
{
    int image = head / dims.groups, group = head % dims.groups;
    size_t row = (size_t)image * dims.tokens + token;
    return (row * dims.groups + group) * 3 * dims.d;
}

/* Where its result begins. */
static __device__ __forceinline__ size_t result_offset(const LinearDims &dims, int head, int token)
{
    return token_offset(dims, head, token) / 3;
}

/* d <= D channels into registers, zeros behind. */
template <int D, typename T>
static __device__ __forceinline__ void load_channels(const T *src, int d, float (&value)[D])
{
#pragma unroll
    for (int i = 0; i < D; i++) value[i] = i < d ? to_f32(src[i]) : 0.0f;
}

template <int D> static __device__ __forceinline__ void relu_channels(float (&value)[D])
{
#pragma unroll
    for (int i = 0; i < D; i++) value[i] = value[i] < 0.0f ? 0.0f : value[i];
}

/* ---- states ---- */

/* Adds rows of STATE_TOKENS tokens in shared memory: sum[j][i] += left[token][j] * right[token][i].
 * Element e = j * d + i belongs to thread e % STATE_TOKENS; K elements each. */
template <int D, int K>
static __device__ __forceinline__ void add_outer(const float (*left)[D + 1],
                                                 const float (*right)[D + 1], int tokens, int d,
                                                 float (&sum)[K])
{
#pragma unroll
    for (int k = 0; k < K; k++) {
        int e = (int)threadIdx.x + k * STATE_TOKENS, j = e / d, i = e % d;
        if (e >= state_elems(d)) continue;
        for (int token = 0; token < tokens; token++) sum[k] += left[token][j] * right[token][i];
    }
}

template <int K>
static __device__ __forceinline__ void store_state(float *dst, int d, const float (&sum)[K])
{
#pragma unroll
    for (int k = 0; k < K; k++) {
        int e = (int)threadIdx.x + k * STATE_TOKENS;
        if (e < state_elems(d)) dst[e] = sum[k];
    }
}

/* Block (part, head): the part's sum of v k^T and of k. */
template <typename T, int D>
static __global__ void __launch_bounds__(STATE_TOKENS)
    linear_state_kernel(float *parts, const T *src, LinearDims dims)
{
    __shared__ float keys[STATE_TOKENS][D + 1], values[STATE_TOKENS][D + 1];
    const int K = ((D + 1) * D + STATE_TOKENS - 1) / STATE_TOKENS;
    int head = (int)blockIdx.y, first = (int)blockIdx.x * STATE_PART_TOKENS, lane = (int)threadIdx.x;
    int end = min(first + STATE_PART_TOKENS, dims.tokens), d = dims.d;
    float sum[K] = {};
    for (; first < end; first += STATE_TOKENS) {
        int token = first + lane;
        if (token < end) {
            const T *k = src + token_offset(dims, head, token) + d;
            for (int i = 0; i < d; i++) {
                float key = to_f32(k[i]);
                keys[lane][i] = key < 0.0f ? 0.0f : key;
                values[lane][i] = to_f32(k[d + i]);
            }
            values[lane][d] = 1.0f;
        }
        __syncthreads();
        add_outer<D, K>(values, keys, min((int)STATE_TOKENS, end - first), d, sum);
        __syncthreads();
    }
    store_state<K>(parts + ((size_t)head * dims.parts + blockIdx.x) * state_elems(d), d, sum);
}

/* The state of a head into shared memory, rows of D. A barrier must follow. */
template <int D>
static __device__ __forceinline__ void load_state(float (*shared)[D], const float *state, int d)
{
    for (int e = (int)threadIdx.x; e < (D + 1) * D; e += STATE_TOKENS) {
        int j = e / D, i = e % D;
        shared[j][i] = j <= d && i < d ? state[j * d + i] : 0.0f;
    }
}

template <int D>
static __device__ __forceinline__ float dot_row(const float (&row)[D], const float (&q)[D])
{
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < D; i++) sum += row[i] * q[i];
    return sum;
}

/* ---- forward ---- */

/* Block (tokens, head). */
template <typename T, int D>
static __global__ void __launch_bounds__(STATE_TOKENS)
    linear_out_kernel(T *dst, const T *src, const float *states, LinearDims dims)
{
    __shared__ float state[D + 1][D];
    int head = (int)blockIdx.y, token = (int)(blockIdx.x * STATE_TOKENS + threadIdx.x), d = dims.d;
    load_state<D>(state, states + (size_t)head * state_elems(d), d);
    __syncthreads();
    if (token >= dims.tokens) return;
    float q[D];
    load_channels<D>(src + token_offset(dims, head, token), d, q);
    relu_channels<D>(q);
    float denominator = dot_row<D>(state[d], q) + dims.eps;
    T *out = dst + result_offset(dims, head, token);
    for (int j = 0; j < d; j++) store(&out[j], dot_row<D>(state[j], q) / denominator);
}

/* Scratch: the states, then their parts. */
static float *state_parts(const LinearDims &dims, float *states)
{
    return states + (size_t)dims.images * dims.groups * state_elems(dims.d);
}

template <typename T, int D>
static void make_states(const KernelCall *call, const LinearDims &dims, float *states)
{
    int heads = dims.images * dims.groups;
    float *parts = state_parts(dims, states);
    LAUNCH(call, (linear_state_kernel<T, D>), dim3((unsigned)dims.parts, (unsigned)heads), STATE_TOKENS,
           0, parts, (const T *)call->src[0].data, dims);
    cuda_sum_parts(call, states, parts, heads, dims.parts, state_elems(dims.d));
}

static dim3 token_grid(const LinearDims &dims)
{
    return dim3(cuda_blocks(dims.tokens, STATE_TOKENS), (unsigned)(dims.images * dims.groups));
}

template <typename T, int D> static void linear_forward(const KernelCall *call)
{
    LinearDims dims = linear_dims(call, &call->attr->linear_attention);
    float *states = (float *)call->scratch;
    make_states<T, D>(call, dims, states);
    LAUNCH(call, (linear_out_kernel<T, D>), token_grid(dims), STATE_TOKENS, 0, (T *)call->dst[0].data,
           (const T *)call->src[0].data, (const float *)states, dims);
}

static Status check_head_dim(const KernelCall *call, int64_t d)
{
    if (d <= 32) return OK;
    return cuda_unsupported(call, "heads of %lld channels; at most 32 fit the registers",
                            (long long)d);
}

static void linear_attention_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    bool small = call->attr->linear_attention.head_dim <= 16;
    WITH_STORAGE(call->src[0].dtype, T,
                 small ? linear_forward<T, 16>(call) : linear_forward<T, 32>(call));
}

extern "C" Status cuda_linear_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    LinearDims dims = linear_dims(call, &call->attr->linear_attention);
    TRY(check_head_dim(call, dims.d));
    call->run = linear_attention_run;
    return OK;
}

/* ---- backward ---- */

/* One token's gradients at its products O_j = state[j].q: dO_j = ddst_j / D for j < d, and for the
 * denominator D = O_d + eps: dO_d = -sum_j dO_j out_j. Adds state^T dO to dq, writes dO to
 * `products`. */
template <int D>
static __device__ __forceinline__ void product_grads(const float (*state)[D], AnyFloat ddst,
                                                     size_t at, const LinearDims &dims,
                                                     const float (&q)[D], float *products,
                                                     float (&dq)[D])
{
    float denominator = dot_row<D>(state[dims.d], q) + dims.eps, last = 0.0f;
    for (int j = 0; j <= dims.d; j++) {
        float product = last, gradient[1];
        if (j < dims.d) {
            load_any<1>(ddst, (int64_t)(at + (size_t)j), gradient);
            product = gradient[0] / denominator;
            last -= product * (dot_row<D>(state[j], q) / denominator);
        }
        products[j] = product;
#pragma unroll
        for (int i = 0; i < D; i++) dq[i] += state[j][i] * product;
    }
}

/* Block (part, head): dq of the part's tokens, and its sum of dO q^T. */
template <typename T, int D>
static __global__ void __launch_bounds__(STATE_TOKENS)
    linear_query_grad_kernel(T *dsrc, float *parts, const T *src, AnyFloat ddst,
                             const float *states, LinearDims dims)
{
    __shared__ float state[D + 1][D], products[STATE_TOKENS][D + 1], queries[STATE_TOKENS][D + 1];
    const int K = ((D + 1) * D + STATE_TOKENS - 1) / STATE_TOKENS;
    int head = (int)blockIdx.y, first = (int)blockIdx.x * STATE_PART_TOKENS, lane = (int)threadIdx.x;
    int end = min(first + STATE_PART_TOKENS, dims.tokens), d = dims.d;
    float sum[K] = {};
    load_state<D>(state, states + (size_t)head * state_elems(d), d);
    __syncthreads();
    for (; first < end; first += STATE_TOKENS) {
        int token = first + lane;
        if (token < end) {
            size_t at = token_offset(dims, head, token);
            float q[D], dq[D] = {};
            load_channels<D>(src + at, d, q);
            relu_channels<D>(q);
            product_grads<D>(state, ddst, result_offset(dims, head, token), dims, q, products[lane],
                             dq);
#pragma unroll
            for (int i = 0; i < D; i++) {
                if (i >= d) continue;
                queries[lane][i] = q[i];
                store(&dsrc[at + i], q[i] > 0.0f ? dq[i] : 0.0f);
            }
        }
        __syncthreads();
        add_outer<D, K>(products, queries, min((int)STATE_TOKENS, end - first), d, sum);
        __syncthreads();
    }
    store_state<K>(parts + ((size_t)head * dims.parts + blockIdx.x) * state_elems(d), d, sum);
}

/* Block (tokens, head): dk and dv of a token from dstate. */
template <typename T, int D>
static __global__ void __launch_bounds__(STATE_TOKENS)
    linear_key_value_grad_kernel(T *dsrc, const T *src, const float *dstates, LinearDims dims)
{
    __shared__ float dstate[D + 1][D];
    int head = (int)blockIdx.y, token = (int)(blockIdx.x * STATE_TOKENS + threadIdx.x), d = dims.d;
    load_state<D>(dstate, dstates + (size_t)head * state_elems(d), d);
    __syncthreads();
    if (token >= dims.tokens) return;
    size_t at = token_offset(dims, head, token) + d;
    float k[D], dk[D];
    load_channels<D>(src + at, d, k);
    relu_channels<D>(k);
#pragma unroll
    for (int i = 0; i < D; i++) dk[i] = dstate[d][i];
    for (int j = 0; j < d; j++) {
        float v = to_f32(src[at + d + j]);
#pragma unroll
        for (int i = 0; i < D; i++) dk[i] += dstate[j][i] * v;
        store(&dsrc[at + d + j], dot_row<D>(dstate[j], k));
    }
#pragma unroll
    for (int i = 0; i < D; i++)
        if (i < d) store(&dsrc[at + i], k[i] > 0.0f ? dk[i] : 0.0f);
}

template <typename T, int D> static void linear_backward(const KernelCall *call)
{
    LinearDims dims = linear_dims(call, &call->attr->linear_attention_grad);
    float *states = (float *)call->scratch, *parts = state_parts(dims, states);
    const T *src = (const T *)call->src[0].data;
    T *dsrc = (T *)call->dst[0].data;
    int heads = dims.images * dims.groups;
    make_states<T, D>(call, dims, states);
    LAUNCH(call, (linear_query_grad_kernel<T, D>), dim3((unsigned)dims.parts, (unsigned)heads),
           STATE_TOKENS, 0, dsrc, parts, src, any_float(&call->src[1]), (const float *)states, dims);
    cuda_sum_parts(call, states, parts, heads, dims.parts, state_elems(dims.d));
    LAUNCH(call, (linear_key_value_grad_kernel<T, D>), token_grid(dims), STATE_TOKENS, 0, dsrc, src,
           (const float *)states, dims);
}

static void linear_attention_grad_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    bool small = call->attr->linear_attention_grad.head_dim <= 16;
    WITH_STORAGE(call->src[0].dtype, T,
                 small ? linear_backward<T, 16>(call) : linear_backward<T, 32>(call));
}

extern "C" Status cuda_linear_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    LinearDims dims = linear_dims(call, &call->attr->linear_attention_grad);
    TRY(check_head_dim(call, dims.d));
    call->run = linear_attention_grad_run;
    return OK;
}
