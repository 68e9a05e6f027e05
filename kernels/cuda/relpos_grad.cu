/* The gradient of RELPOS_ATTENTION. See relpos.cuh.
 *
 * Scores are made again from the stored lse. One kernel owns queries: dq, and the gradient of their
 * position terms, summed along the keys in shared memory by one thread per query and axis. One owns
 * keys: dk and dv. The tables' gradients are sums over the queries, a part per pair, added in
 * order. Weights of scores stay f32 in shared memory and are split where a product takes them:
 * rounded to 16 bits, the sums over all queries would show it. source  Dao et al., FlashAttention
 * (2022), algorithm 4
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/passes.h"
#include "kernels/cuda/relpos.cuh"

enum { WEIGHT_PITCH = Pitch<float, ROWS>::VALUE };

/* Operands of the kernels. bias, delta, lse: by pair and query. */
template <typename T> struct RelposSources {
    const T *qkv, *ddst;
    const float *rel_h, *rel_w, *bias, *delta, *lse;
};

/* delta = ddst . dst of every query of every pair: what the softmax takes off. */
template <typename T>
static __global__ void __launch_bounds__(FLAT_THREADS)
    delta_kernel(float *delta, const T *dst, const T *ddst, RelposDims d, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        int pair = (int)(i / (unsigned)d.tokens), token = (int)(i % (unsigned)d.tokens);
        size_t at = dst_offset(d, pair) + (size_t)token * model_dim(d);
        float sum = 0.0f;
        for (int c = 0; c < d.head_dim; c++) sum += to_f32(dst[at + c]) * to_f32(ddst[at + c]);
        delta[i] = sum;
    }
}

/* lse and delta of queries [first, first + ROWS), zeros beyond the tokens. */
template <typename T>
static __device__ __forceinline__ void load_query_sums(const RelposSources<T> &s,
                                                       const RelposDims &d, int pair, int first,
                                                       float *lse, float *delta)
{
    int query = first + (int)threadIdx.x;
    if (threadIdx.x >= ROWS) return;
    size_t at = (size_t)pair * d.tokens + query;
    lse[threadIdx.x] = query < d.tokens ? s.lse[at] : 0.0f;
    delta[threadIdx.x] = query < d.tokens ? s.delta[at] : 0.0f;
}

/* ---- dq and the gradient of the position terms ---- */

template <typename T, int HD> struct QueryTiles {
    T q[ROWS * Pitch<T, HD>::VALUE], ddst[ROWS * Pitch<T, HD>::VALUE];
    T k[ROWS * Pitch<T, HD>::VALUE], v[ROWS * Pitch<T, HD>::VALUE];
    T k_turned[HD * Pitch<T, ROWS>::VALUE];
    float weights[ROWS * WEIGHT_PITCH], lse[ROWS], delta[ROWS];
    int2 terms[ROWS];
    float dbias[2]; /* (ROWS, n_bias) */
};

template <typename T, int HD> static size_t query_bytes(const RelposDims &d)
{
    return sizeof(QueryTiles<T, HD>) + (size_t)ROWS * d.n_bias * sizeof(float);
}

/* dscore of a tile of keys, in place of the scores. */
template <typename T, int HD>
static __device__ __forceinline__ void query_dscores(float (&s)[N_SCORES][4],
                                                     const float (&dp)[N_SCORES][4],
                                                     const QueryTiles<T, HD> *tiles,
                                                     const float *bias, const RelposDims &d,
                                                     int n_queries, int n_keys)
{
#pragma unroll
    for (int n = 0; n < N_SCORES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = own_row(e), column = own_column(n, e);
            float weight = 0.0f;
            if (row < n_queries && column < n_keys) {
                const float *own = bias + row * d.n_bias;
                int2 terms = tiles->terms[column];
                weight = __expf(d.scale * s[n][e] + own[terms.x] + own[terms.y] - tiles->lse[row]);
            }
            s[n][e] = weight * (dp[n][e] - tiles->delta[row]);
        }
}

/* Adds the tile's dscores to the terms of its keys: thread (row, axis). */
template <typename T, int HD>
static __device__ __forceinline__ void add_dbias(QueryTiles<T, HD> *tiles, const RelposDims &d,
                                                 int n_keys)
{
    int row = (int)threadIdx.x % ROWS, axis = (int)threadIdx.x / ROWS;
    float *own = tiles->dbias + row * d.n_bias;
    for (int column = 0; column < n_keys; column++) {
        int term = axis ? tiles->terms[column].y : tiles->terms[column].x;
        own[term] += tiles->weights[row * WEIGHT_PITCH + column];
    }
}

/* sum (16, HD) = scale * sum + what the position terms hand back to q. */
template <typename T, int HD>
static __device__ __forceinline__ void add_position_grads(float (&sum)[HD / 8][4],
                                                          const QueryTiles<T, HD> *tiles,
                                                          const RelposSources<T> &s,
                                                          const RelposDims &d, int own,
                                                          int n_queries)
{
#pragma unroll
    for (int n = 0; n < HD / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[n][e] *= d.scale;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = own_row(2 * half);
        for (int j = 0; row < n_queries && j < d.n_bias; j++) {
            float gradient = tiles->dbias[row * d.n_bias + j];
            const float *table = (j < d.height ? s.rel_h : s.rel_w) +
                                 (size_t)table_row(d, own + row, j) * d.head_dim;
#pragma unroll
            for (int n = 0; n < HD / 8; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++)
                    if (own_column(n, e) < d.head_dim)
                        sum[n][e] += gradient * table[own_column(n, e)];
        }
    }
}

/* Block (tile of queries, pair): dq into dqkv, dbias (pair, query, H + W). */
template <typename T, int HD>
static __global__ void __launch_bounds__(THREADS)
    relpos_dq_kernel(T *dqkv, float *dbias, RelposSources<T> s, RelposDims d)
{
    typedef QueryTiles<T, HD> Tiles;
    SHARED_DYNAMIC(Tiles, tiles);
    int pair = (int)blockIdx.y, own = (int)blockIdx.x * ROWS, pitch = 3 * model_dim(d);
    int n_queries = min((int)ROWS, d.tokens - own), n_bias = ROWS * d.n_bias;
    size_t at_q = qkv_offset(d, pair, PART_Q);
    size_t at_bias = ((size_t)pair * d.tokens + own) * d.n_bias;
    float sum[HD / 8][4] = {};
    load_tile<HD, T>(tiles->q, NULL, s.qkv + at_q, pitch, own, d);
    load_tile<HD, T>(tiles->ddst, NULL, s.ddst + dst_offset(d, pair), model_dim(d), own, d);
    load_query_sums(s, d, pair, own, tiles->lse, tiles->delta);
    for (int i = (int)threadIdx.x; i < n_bias; i += THREADS) tiles->dbias[i] = 0.0f;
    for (int first = 0; first < d.tokens; first += ROWS) {
        int n_keys = min((int)ROWS, d.tokens - first);
        float scores[N_SCORES][4], dp[N_SCORES][4];
        __syncthreads(); /* the tile of before, and its dscores, have been read */
        load_tile<HD, T>(tiles->k, tiles->k_turned, s.qkv + qkv_offset(d, pair, PART_K), pitch,
                         first, d);
        load_tile<HD, T>(tiles->v, NULL, s.qkv + qkv_offset(d, pair, PART_V), pitch, first, d);
        if (threadIdx.x < ROWS) tiles->terms[threadIdx.x] = key_terms(d, first + (int)threadIdx.x);
        __syncthreads();
        score_rows<HD, T>(scores, tiles->q, tiles->k);
        score_rows<HD, T>(dp, tiles->ddst, tiles->v);
        query_dscores(scores, dp, tiles, s.bias + at_bias, d, n_queries, n_keys);
        put_weights(tiles->weights, scores);
        __syncthreads();
        add_weighted<HD>(sum, tiles->weights, tiles->k_turned);
        add_dbias(tiles, d, n_keys);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n_queries * d.n_bias; i += THREADS)
        dbias[at_bias + i] = tiles->dbias[i];
    add_position_grads(sum, tiles, s, d, own, n_queries);
    store_rows<HD>(dqkv + at_q, pitch, own, d, sum, 1.0f, 1.0f);
}

/* ---- dk and dv ---- */

template <typename T, int HD> struct KeyTiles {
    T k[ROWS * Pitch<T, HD>::VALUE], v[ROWS * Pitch<T, HD>::VALUE];
    T q[ROWS * Pitch<T, HD>::VALUE], ddst[ROWS * Pitch<T, HD>::VALUE];
    T q_turned[HD * Pitch<T, ROWS>::VALUE], ddst_turned[HD * Pitch<T, ROWS>::VALUE];
    float weights[ROWS * WEIGHT_PITCH], lse[ROWS], delta[ROWS];
};

/* Scores of the own keys against a tile of queries become softmax weights. */
template <typename T, int HD>
static __device__ __forceinline__ void key_weights(float (&s)[N_SCORES][4],
                                                   const KeyTiles<T, HD> *tiles, const float *bias,
                                                   const RelposDims &d, int own, int n_queries)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int key = own + own_row(e);
        int2 terms = key_terms(d, min(key, d.tokens - 1));
#pragma unroll
        for (int n = 0; n < N_SCORES; n++) {
            int column = own_column(n, e);
            float weight = 0.0f;
            if (key < d.tokens && column < n_queries) {
                const float *query = bias + column * d.n_bias;
                weight = __expf(d.scale * s[n][e] + query[terms.x] + query[terms.y] -
                                tiles->lse[column]);
            }
            s[n][e] = weight;
        }
    }
}

/* Block (tile of keys, pair). */
template <typename T, int HD>
static __global__ void __launch_bounds__(THREADS)
    relpos_dkv_kernel(T *dqkv, RelposSources<T> s, RelposDims d)
{
    typedef KeyTiles<T, HD> Tiles;
    SHARED_DYNAMIC(Tiles, tiles);
    int pair = (int)blockIdx.y, own = (int)blockIdx.x * ROWS, pitch = 3 * model_dim(d);
    size_t at_k = qkv_offset(d, pair, PART_K), at_v = qkv_offset(d, pair, PART_V);
    float dk[HD / 8][4] = {}, dv[HD / 8][4] = {};
    load_tile<HD, T>(tiles->k, NULL, s.qkv + at_k, pitch, own, d);
    load_tile<HD, T>(tiles->v, NULL, s.qkv + at_v, pitch, own, d);
    for (int first = 0; first < d.tokens; first += ROWS) {
        float weights[N_SCORES][4], dp[N_SCORES][4];
        __syncthreads(); /* the tile of before has been read */
        load_tile<HD, T>(tiles->q, tiles->q_turned, s.qkv + qkv_offset(d, pair, PART_Q), pitch,
                         first, d);
        load_tile<HD, T>(tiles->ddst, tiles->ddst_turned, s.ddst + dst_offset(d, pair),
                         model_dim(d), first, d);
        load_query_sums(s, d, pair, first, tiles->lse, tiles->delta);
        __syncthreads();
        score_rows<HD, T>(weights, tiles->k, tiles->q);
        key_weights(weights, tiles, s.bias + ((size_t)pair * d.tokens + first) * d.n_bias, d, own,
                    min((int)ROWS, d.tokens - first));
        put_weights(tiles->weights, weights);
        __syncwarp();
        add_weighted<HD>(dv, tiles->weights, tiles->ddst_turned);
        score_rows<HD, T>(dp, tiles->v, tiles->ddst);
#pragma unroll
        for (int n = 0; n < N_SCORES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) weights[n][e] *= dp[n][e] - tiles->delta[own_column(n, e)];
        __syncwarp(); /* the weights have been read */
        put_weights(tiles->weights, weights);
        __syncwarp();
        add_weighted<HD>(dk, tiles->weights, tiles->q_turned);
    }
    store_rows<HD>(dqkv + at_k, pitch, own, d, dk, d.scale, d.scale);
    store_rows<HD>(dqkv + at_v, pitch, own, d, dv, 1.0f, 1.0f);
}

/* ---- the tables ---- */

/* Queries that read row r of a table of an axis of `size`: [*begin, *end) along that axis. */
static __device__ __forceinline__ void reading_queries(int r, int size, int *begin, int *end)
{
    *begin = max(0, r - size + 1);
    *end = min(size, r + 1);
}

/* Block (row of the table, pair): parts (pair, row, channel). along_y: of rel_h, else of rel_w. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    table_parts_kernel(float *parts, const T *qkv, const float *dbias, RelposDims d, bool along_y)
{
    int r = (int)blockIdx.x, pair = (int)blockIdx.y, c = (int)threadIdx.x;
    int y0 = 0, y1 = d.height, x0 = 0, x1 = d.width;
    if (c >= d.head_dim) return;
    if (along_y)
        reading_queries(r, d.height, &y0, &y1);
    else
        reading_queries(r, d.width, &x0, &x1);
    const T *q = qkv + qkv_offset(d, pair, PART_Q) + c;
    float sum = 0.0f;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            int query = y * d.width + x;
            int term = along_y ? y - r + d.height - 1 : d.height + x - r + d.width - 1;
            sum += dbias[((size_t)pair * d.tokens + query) * d.n_bias + term] *
                   to_f32(q[(size_t)query * 3 * model_dim(d)]);
        }
    parts[((size_t)pair * gridDim.x + r) * d.head_dim + c] = sum;
}

template <typename T>
static void sum_table(const KernelCall *call, const RelposDims &d, float *dtable, float *parts,
                      const float *dbias, bool along_y)
{
    int rows = 2 * (along_y ? d.height : d.width) - 1, pairs = d.images * d.heads;
    LAUNCH(call, table_parts_kernel<T>, dim3((unsigned)rows, (unsigned)pairs), THREADS, 0, parts,
           (const T *)call->src[0].data, dbias, d, along_y);
    cuda_sum_parts(call, dtable, parts, 1, pairs, (int64_t)rows * d.head_dim);
}

/* ---- launches ---- */

/* The scratch, in floats: position terms, their gradient, delta, parts of one table. */
typedef struct GradScratch {
    float *bias, *dbias, *delta, *parts;
} GradScratch;

static GradScratch grad_scratch(const RelposDims &d, void *scratch)
{
    size_t pairs = (size_t)d.images * d.heads;
    GradScratch s;
    s.bias = (float *)scratch;
    s.dbias = s.bias + bias_elems(d);
    s.delta = s.dbias + bias_elems(d);
    s.parts = s.delta + pairs * d.tokens;
    return s;
}

template <typename T, int HD> static void relpos_backward(const KernelCall *call, RelposDims d)
{
    GradScratch scratch = grad_scratch(d, call->scratch);
    RelposSources<T> s = {(const T *)call->src[0].data,
                          (const T *)call->src[5].data,
                          (const float *)call->src[1].data,
                          (const float *)call->src[2].data,
                          scratch.bias,
                          scratch.delta,
                          (const float *)call->src[4].data};
    unsigned pairs = (unsigned)(d.images * d.heads), n = pairs * (unsigned)d.tokens;
    T *dqkv = (T *)call->dst[0].data;
    d.packs = CUDA_PACKS(d.head_dim, &call->src[0], &call->src[5]);
    make_position_terms<T>(call, d, scratch.bias);
    LAUNCH(call, delta_kernel<T>, flat_blocks(n), FLAT_THREADS, 0, scratch.delta,
           (const T *)call->src[3].data, s.ddst, d, n);
    LAUNCH(call, (relpos_dq_kernel<T, HD>), dim3((unsigned)d.tiles, pairs), THREADS,
           (query_bytes<T, HD>(d)), dqkv, scratch.dbias, s, d);
    LAUNCH(call, (relpos_dkv_kernel<T, HD>), dim3((unsigned)d.tiles, pairs), THREADS,
           (sizeof(KeyTiles<T, HD>)), dqkv, s, d);
    sum_table<T>(call, d, (float *)call->dst[1].data, scratch.parts, scratch.dbias, true);
    sum_table<T>(call, d, (float *)call->dst[2].data, scratch.parts, scratch.dbias, false);
}

static void relpos_attention_grad_run(const KernelCall *call)
{
    RelposDims d = relpos_dims(call, call->attr->relpos_attention_grad.heads);
    if (d.images * d.tokens == 0) return;
    WITH_HEAD_DIM(d.head_dim, HD,
                  WITH_STORAGE(call->src[0].dtype, T, relpos_backward<T, HD>(call, d)));
}

template <typename T, int HD>
static Status allow_backward(const KernelCall *call, const RelposDims &d)
{
    TRY(check_shared(call, d, query_bytes<T, HD>(d)));
    TRY(check_shared(call, d, sizeof(KeyTiles<T, HD>)));
    TRY(cuda_allow_shared(relpos_dq_kernel<T, HD>, query_bytes<T, HD>(d)));
    return cuda_allow_shared(relpos_dkv_kernel<T, HD>, sizeof(KeyTiles<T, HD>));
}

extern "C" Status cuda_relpos_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    RelposDims d = relpos_dims(call, call->attr->relpos_attention_grad.heads);
    TRY(check_relpos(call, d));
    WITH_HEAD_DIM(d.head_dim, HD,
                  WITH_STORAGE(call->src[0].dtype, T, TRY((allow_backward<T, HD>(call, d)))));
    call->run = relpos_attention_grad_run;
    return OK;
}
