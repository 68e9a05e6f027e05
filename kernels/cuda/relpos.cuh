/* What the forward and the backward of RELPOS_ATTENTION share: sizes, addresses, tiles in shared
 * memory and their products, the position terms. Included by relpos.cu and relpos_grad.cu.
 *
 * A block of four warps owns 64 rows of a pair (an image and a head), each warp 16 of them, and
 * walks through the other side in tiles of 64. Scores exist in such tiles only, in registers, laid
 * out as mma.cuh tells, so that sums of a row stay in four lanes.
 */
#ifndef RETORT_KERNELS_CUDA_RELPOS_CUH
#define RETORT_KERNELS_CUDA_RELPOS_CUH

#include "kernels/cuda/checks.h"
#include "kernels/cuda/mma.cuh"

enum { THREADS = 128, ROWS = 64, WARP_ROWS = 16, MAX_HEAD_DIM = 80 };
enum { N_SCORES = ROWS / 8 }; /* of a warp's 16 rows against a tile, in eights of columns */

typedef struct RelposDims {
    int images, height, width, tokens, heads, head_dim, n_bias; /* n_bias: height + width */
    int tiles, packs;
    float scale;
} RelposDims;

static inline RelposDims relpos_dims(const KernelCall *call, int64_t heads)
{
    Shape qkv = call->src[0].shape;
    RelposDims d = {};
    d.images = (int)qkv.dim[0];
    d.height = (int)qkv.dim[1];
    d.width = (int)qkv.dim[2];
    d.tokens = d.height * d.width;
    d.heads = (int)heads;
    d.head_dim = (int)(qkv.dim[3] / (3 * heads));
    d.n_bias = d.height + d.width;
    d.tiles = (int)cuda_blocks(d.tokens, ROWS);
    d.scale = 1.0f / sqrtf((float)d.head_dim);
    return d;
}

/* ---- addresses; a pair is an image and a head ---- */

enum { PART_Q, PART_K, PART_V };

static __device__ __forceinline__ int model_dim(const RelposDims &d)
{
    return d.heads * d.head_dim;
}

/* First channel of the pair in token 0 of a part of qkv; tokens lie 3 model_dim apart. */
static __device__ __forceinline__ size_t qkv_offset(const RelposDims &d, int pair, int part)
{
    size_t image = (size_t)(pair / d.heads) * d.tokens;
    return (image * 3 + part) * model_dim(d) + pair % d.heads * d.head_dim;
}

/* The same in dst; tokens lie model_dim apart. */
static __device__ __forceinline__ size_t dst_offset(const RelposDims &d, int pair)
{
    return (size_t)(pair / d.heads) * d.tokens * model_dim(d) + pair % d.heads * d.head_dim;
}

/* Rows of rel_h and rel_w that belong to a query and term j of its H + W. */
static __device__ __forceinline__ int table_row(const RelposDims &d, int query, int j)
{
    return j < d.height ? query / d.width - j + d.height - 1
                        : query % d.width - (j - d.height) + d.width - 1;
}

/* The terms of a key: its row, and H + its column. */
static __device__ __forceinline__ int2 key_terms(const RelposDims &d, int key)
{
    return make_int2(key / d.width, d.height + key % d.width);
}

/* ---- tiles in shared memory ---- */

/* Elements from row to row: a pad of 16 bytes keeps the rows that neighbouring lanes read in
 * different banks. */
template <typename T, int N> struct Pitch {
    enum { VALUE = N + 16 / (int)sizeof(T) };
};

/* Element (r, c) of a tile, straight or transposed. */
template <int PITCH, bool TRANSPOSED> static __device__ __forceinline__ int tile_at(int r, int c)
{
    return TRANSPOSED ? c * PITCH + r : r * PITCH + c;
}

/* Rows [first, first + ROWS) of a pair into a tile, straight (ROWS, HD) and, where `turned` is
 * given, transposed (HD, ROWS). Zeros beyond the tokens and beyond head_dim. Barriers are the
 * caller's. */
template <int HD, typename T>
static __device__ __forceinline__ void load_tile(T *tile, T *turned, const T *rows, int pitch,
                                                 int first, const RelposDims &d)
{
    for (int i = (int)threadIdx.x; i < ROWS * HD / 4; i += THREADS) {
        int r = i / (HD / 4), c = i % (HD / 4) * 4;
        const T *at = rows + (size_t)(first + r) * pitch + c;
        bool exists = first + r < d.tokens;
        Pack<T, 4> four;
        if (d.packs == 4 && exists && c < d.head_dim) {
            four = *reinterpret_cast<const Pack<T, 4> *>(at);
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                store(&four.at[j], exists && c + j < d.head_dim ? to_f32(at[j]) : 0.0f);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (tile) tile[tile_at<Pitch<T, HD>::VALUE, false>(r, c + j)] = four.at[j];
            if (turned) turned[tile_at<Pitch<T, ROWS>::VALUE, true>(r, c + j)] = four.at[j];
        }
    }
}

/* scores (16, ROWS) = own rows . rows of the other tile. */
template <int HD, typename T>
static __device__ __forceinline__ void score_rows(float (&scores)[N_SCORES][4], const T *own,
                                                  const T *other)
{
    enum { PITCH = Pitch<T, HD>::VALUE };
    const T *mine = own + threadIdx.x / WARP * WARP_ROWS * PITCH;
#pragma unroll
    for (int n = 0; n < N_SCORES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) scores[n][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < HD; k += 16) mma_step<N_SCORES>(scores, mine + k, PITCH, other + k, PITCH);
}

/* sum (16, HD) += weights (16, ROWS) of the own rows . the other tile's rows, given transposed. */
template <int HD, typename A, typename T>
static __device__ __forceinline__ void add_weighted(float (&sum)[HD / 8][4], const A *weights,
                                                    const T *turned)
{
    enum { PITCH_A = Pitch<A, ROWS>::VALUE, PITCH = Pitch<T, ROWS>::VALUE };
    const A *mine = weights + threadIdx.x / WARP * WARP_ROWS * PITCH_A;
#pragma unroll 1 /* the sums fill most registers */
    for (int k = 0; k < ROWS; k += 16) mma_step<HD / 8>(sum, mine + k, PITCH_A, turned + k, PITCH);
}

/* The block's row and column that element (n, e) of a lane stands for. */
static __device__ __forceinline__ int own_row(int e)
{
    return (int)threadIdx.x / WARP * WARP_ROWS + mma_row() + e / 2 * 8;
}
static __device__ __forceinline__ int own_column(int n, int e)
{
    return n * 8 + mma_column() + e % 2;
}

/* Writes the elements of the own rows, times `factor` of each row half, where others read them. */
template <typename A>
static __device__ __forceinline__ void put_weights(A *weights, const float (&value)[N_SCORES][4])
{
#pragma unroll
    for (int n = 0; n < N_SCORES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            store(&weights[own_row(e) * Pitch<A, ROWS>::VALUE + own_column(n, e)], value[n][e]);
}

/* Stores (16, HD) sums of the own rows, times a factor for the upper and the lower half. */
template <int HD, typename T>
static __device__ __forceinline__ void store_rows(T *rows, int pitch, int first,
                                                  const RelposDims &d,
                                                  const float (&sum)[HD / 8][4], float upper,
                                                  float lower)
{
#pragma unroll
    for (int n = 0; n < HD / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = first + own_row(e), c = own_column(n, e);
            if (row < d.tokens && c < d.head_dim)
                store(&rows[(size_t)row * pitch + c], sum[n][e] * (e < 2 ? upper : lower));
        }
}

/* Sum or maximum over the four lanes that share a row. */
static __device__ __forceinline__ float quad_sum(float value)
{
    value += __shfl_xor_sync((unsigned)FULL_WARP, value, 1);
    return value + __shfl_xor_sync((unsigned)FULL_WARP, value, 2);
}
static __device__ __forceinline__ float quad_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync((unsigned)FULL_WARP, value, 1));
    return fmaxf(value, __shfl_xor_sync((unsigned)FULL_WARP, value, 2));
}

/* ---- position terms ---- */

/* Block (16 queries, pair): bias (pair, query, H + W). */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    position_terms_kernel(float *bias, const T *qkv, const float *rel_h, const float *rel_w,
                          RelposDims d)
{
    __shared__ float queries[WARP_ROWS][MAX_HEAD_DIM + 1];
    int first = (int)blockIdx.x * WARP_ROWS, pair = (int)blockIdx.y;
    int n = min((int)WARP_ROWS, d.tokens - first);
    const T *q = qkv + qkv_offset(d, pair, PART_Q);
    for (int i = (int)threadIdx.x; i < n * d.head_dim; i += THREADS) {
        int r = i / d.head_dim, c = i % d.head_dim;
        queries[r][c] = to_f32(q[(size_t)(first + r) * 3 * model_dim(d) + c]);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n * d.n_bias; i += THREADS) {
        int r = i / d.n_bias, j = i % d.n_bias;
        const float *table = j < d.height ? rel_h : rel_w;
        const float *row = table + (size_t)table_row(d, first + r, j) * d.head_dim;
        float sum = 0.0f;
        for (int c = 0; c < d.head_dim; c++) sum += queries[r][c] * row[c];
        bias[((size_t)pair * d.tokens + first) * d.n_bias + i] = sum;
    }
}

template <typename T>
static void make_position_terms(const KernelCall *call, const RelposDims &d, float *bias)
{
    LAUNCH(call, position_terms_kernel<T>,
           dim3(cuda_blocks(d.tokens, WARP_ROWS), (unsigned)(d.images * d.heads)), THREADS, 0, bias,
           (const T *)call->src[0].data, (const float *)call->src[1].data,
           (const float *)call->src[2].data, d);
}

static inline size_t bias_elems(const RelposDims &d)
{
    return (size_t)d.images * d.heads * d.tokens * d.n_bias;
}

/* ---- in bind ---- */

/* WITH_HEAD_DIM(head_dim, HD, statements): the statements with HD the tiles' constant that fits. */
#define WITH_HEAD_DIM(head_dim, HD, ...) \
    do {                                 \
        if ((head_dim) <= 16) {          \
            enum { HD = 16 };            \
            __VA_ARGS__;                 \
        } else if ((head_dim) <= 32) {   \
            enum { HD = 32 };            \
            __VA_ARGS__;                 \
        } else if ((head_dim) <= 64) {   \
            enum { HD = 64 };            \
            __VA_ARGS__;                 \
        } else {                         \
            enum { HD = MAX_HEAD_DIM };  \
            __VA_ARGS__;                 \
        }                                \
    } while (0)

static inline Status check_relpos(const KernelCall *call, const RelposDims &d)
{
    TRY(cuda_check_low(call));
    if (d.head_dim <= MAX_HEAD_DIM) return OK;
    return cuda_unsupported(call, "heads of %d channels; at most %d fit the registers", d.head_dim,
                            MAX_HEAD_DIM);
}

static inline Status check_shared(const KernelCall *call, const RelposDims &d, size_t bytes)
{
    if (bytes <= CUDA_SHARED_MAX_BYTES) return OK;
    return cuda_unsupported(call, "maps of %d x %d tokens need %zu bytes of shared memory, of %d",
                            d.height, d.width, bytes, CUDA_SHARED_MAX_BYTES);
}

#endif
