/* RELPOS_ATTENTION: SAM's ViT attention with decomposed relative positions.
 *
 * The position terms q.rel_h and q.rel_w are made first, (N,heads,tokens,H+W) f32 in the scratch: a
 * query has one term per row and one per column of keys. Then a block walks through the keys of its
 * queries with a running softmax; products run on tensor cores, and the weights go through shared
 * memory from one product to the next.
 * source  Li et al., MViTv2 (decomposed positions); Dao et al., FlashAttention (2022)
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/relpos.cuh"

/* ---- forward ---- */

/* The dynamic shared memory of the forward kernel. */
template <typename T, int HD> struct ForwardTiles {
    T q[ROWS * Pitch<T, HD>::VALUE], k[ROWS * Pitch<T, HD>::VALUE];
    T v_turned[HD * Pitch<T, ROWS>::VALUE], weights[ROWS * Pitch<T, ROWS>::VALUE];
    int2 terms[ROWS];
    float bias[1]; /* (ROWS, n_bias) */
};

template <typename T, int HD> static size_t forward_bytes(const RelposDims &d)
{
    return sizeof(ForwardTiles<T, HD>) + (size_t)ROWS * d.n_bias * sizeof(float);
}

/* Scores of a tile of keys: scaled, with position terms; -infinity beyond the keys. */
template <typename Tiles>
static __device__ __forceinline__ void finish_scores(float (&s)[N_SCORES][4], const Tiles *tiles,
                                                     const RelposDims &d, int n_keys)
{
#pragma unroll
    for (int n = 0; n < N_SCORES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int column = own_column(n, e);
            const float *bias = tiles->bias + own_row(e) * d.n_bias;
            int2 terms = tiles->terms[column];
            s[n][e] = column < n_keys ? d.scale * s[n][e] + bias[terms.x] + bias[terms.y]
                                      : -INFINITY;
        }
}

/* One step of the running softmax for the rows of half `h` (0 upper, 1 lower): scores become
 * weights, the sums so far are shrunk. */
template <int HD>
static __device__ __forceinline__ void soften(float (&s)[N_SCORES][4], float (&sum)[HD / 8][4],
                                              int h, float *best, float *total)
{
    float top = *best;
#pragma unroll
    for (int n = 0; n < N_SCORES; n++) top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    top = quad_max(top);
    float shrink = __expf(*best - top);
    *best = top;
    *total *= shrink;
#pragma unroll
    for (int n = 0; n < N_SCORES; n++)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) *total += s[n][e] = __expf(s[n][e] - top);
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
        sum[n][2 * h] *= shrink;
        sum[n][2 * h + 1] *= shrink;
    }
}

/* Block (tile of queries, pair). */
template <typename T, int HD>
static __global__ void __launch_bounds__(THREADS)
    relpos_kernel(T *dst, float *lse, const T *qkv, const float *bias, RelposDims d)
{
    typedef ForwardTiles<T, HD> Tiles;
    SHARED_DYNAMIC(Tiles, tiles);
    int pair = (int)blockIdx.y, own = (int)blockIdx.x * ROWS, pitch = 3 * model_dim(d);
    const T *keys = qkv + qkv_offset(d, pair, PART_K), *values = qkv + qkv_offset(d, pair, PART_V);
    float sum[HD / 8][4] = {}, best[2] = {-INFINITY, -INFINITY}, total[2] = {};
    load_tile<HD, T>(tiles->q, NULL, qkv + qkv_offset(d, pair, PART_Q), pitch, own, d);
    for (int i = (int)threadIdx.x; i < min((int)ROWS, d.tokens - own) * d.n_bias; i += THREADS)
        tiles->bias[i] = bias[((size_t)pair * d.tokens + own) * d.n_bias + i];
    for (int i = (int)threadIdx.x + max(0, d.tokens - own) * d.n_bias; i < ROWS * d.n_bias;
         i += THREADS)
        tiles->bias[i] = 0.0f;
    for (int first = 0; first < d.tokens; first += ROWS) {
        float s[N_SCORES][4];
        __syncthreads(); /* the tile of before has been read */
        load_tile<HD, T>(tiles->k, NULL, keys, pitch, first, d);
        load_tile<HD, T>(NULL, tiles->v_turned, values, pitch, first, d);
        if (threadIdx.x < ROWS) tiles->terms[threadIdx.x] = key_terms(d, first + (int)threadIdx.x);
        __syncthreads();
        score_rows<HD, T>(s, tiles->q, tiles->k);
        finish_scores(s, tiles, d, min((int)ROWS, d.tokens - first));
        soften<HD>(s, sum, 0, &best[0], &total[0]);
        soften<HD>(s, sum, 1, &best[1], &total[1]);
        put_weights(tiles->weights, s);
        __syncwarp();
        add_weighted<HD>(sum, tiles->weights, tiles->v_turned);
    }
    float upper = quad_sum(total[0]), lower = quad_sum(total[1]);
    store_rows<HD>(dst + dst_offset(d, pair), model_dim(d), own, d, sum, 1.0f / upper,
                   1.0f / lower);
    int row = own + own_row(0);
    if (mma_column() > 0) return;
    float *lses = lse + (size_t)pair * d.tokens;
    if (row < d.tokens) lses[row] = best[0] + logf(upper);
    if (row + 8 < d.tokens) lses[row + 8] = best[1] + logf(lower);
}

template <typename T, int HD> static void relpos_forward(const KernelCall *call, RelposDims d)
{
    float *bias = (float *)call->scratch;
    d.packs = CUDA_PACKS(d.head_dim, &call->src[0]);
    make_position_terms<T>(call, d, bias);
    LAUNCH(call, (relpos_kernel<T, HD>), dim3((unsigned)d.tiles, (unsigned)(d.images * d.heads)),
           THREADS, (forward_bytes<T, HD>(d)), (T *)call->dst[0].data, (float *)call->dst[1].data,
           (const T *)call->src[0].data, (const float *)bias, d);
}

static void relpos_attention_run(const KernelCall *call)
{
    RelposDims d = relpos_dims(call, call->attr->relpos_attention.heads);
    if (d.images * d.tokens == 0) return;
    WITH_HEAD_DIM(d.head_dim, HD,
                  WITH_STORAGE(call->src[0].dtype, T, relpos_forward<T, HD>(call, d)));
}

template <typename T, int HD>
static Status allow_forward(const KernelCall *call, const RelposDims &d)
{
    TRY(check_shared(call, d, forward_bytes<T, HD>(d)));
    return cuda_allow_shared(relpos_kernel<T, HD>, forward_bytes<T, HD>(d));
}

extern "C" Status cuda_relpos_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    RelposDims d = relpos_dims(call, call->attr->relpos_attention.heads);
    TRY(check_relpos(call, d));
    WITH_HEAD_DIM(d.head_dim, HD,
                  WITH_STORAGE(call->src[0].dtype, T, TRY((allow_forward<T, HD>(call, d)))));
    call->run = relpos_attention_run;
    return OK;
}
