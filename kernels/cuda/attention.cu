/* ATTENTION and its gradient: the mask decoder's, where one side is a few tokens and the other may
 * be the whole image. Scores never leave the block: they are made tile by tile, with a running
 * maximum and sum (FlashAttention's), and made again in the backward pass from the stored lse.
 *
 * A query (in the gradient of keys: a key) belongs to LANES threads of a warp that share the other
 * side among them and add up at the end, in a fixed order. Many rows: one lane each; few rows: 16,
 * so that a handful of tokens against 4,096 keys still fills the block. What all threads read,
 * tiles of the other side, lies in shared memory as f32.
 *
 * Prompts that share queries or keys (M = 1) add up in the one thread that owns the row.
 * source  Dao et al., FlashAttention (2022); Vaswani et al.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/checks.h"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 128, TILE = 64, PAD = 4, MAX_HEAD_DIM = 32 };
enum { LABEL_EMPTY = -2 };

typedef struct AttentionDims {
    int images, prompts, q_prompts, kv_prompts; /* q_prompts, kv_prompts: 1 or `prompts` */
    int heads, n_queries, n_keys, head_dim, n_free_keys;
    const int *labels; /* (N, label_prompts, n_keys - n_free_keys), or NULL */
    int label_prompts;
    float scale;
} AttentionDims;

static AttentionDims attention_dims(const KernelCall *call, const AttentionAttr *attr)
{
    Shape q = call->src[0].shape, k = call->src[1].shape;
    const Tensor *labels = &call->src[3];
    bool masked = call->n_src > 3 && cuda_present(labels);
    AttentionDims d = {};
    d.images = (int)q.dim[0];
    d.prompts = (int)(q.dim[1] > k.dim[1] ? q.dim[1] : k.dim[1]);
    d.q_prompts = (int)q.dim[1];
    d.kv_prompts = (int)k.dim[1];
    d.heads = (int)attr->heads;
    d.n_queries = (int)q.dim[2];
    d.n_keys = (int)k.dim[2];
    d.head_dim = (int)(q.dim[3] / attr->heads);
    d.n_free_keys = (int)attr->n_free_keys;
    d.labels = masked ? (const int *)labels->data : NULL;
    d.label_prompts = masked ? (int)labels->shape.dim[1] : 1;
    d.scale = (float)attr->scale;
    return d;
}

/* ---- addresses ---- */

/* One head of one prompt. */
typedef struct Head {
    int image, prompt, head;
} Head;

static __device__ __forceinline__ Head head_of(const AttentionDims &d, int index, int prompts)
{
    Head h = {index / d.heads / prompts, index / d.heads % prompts, index % d.heads};
    return h;
}

/* First channel of the head, of row 0 of a tensor (N, prompts, rows, D). */
static __device__ __forceinline__ size_t head_offset(const AttentionDims &d, Head h, int prompts,
                                                     int rows)
{
    size_t slice = (size_t)h.image * prompts + (prompts == 1 ? 0 : h.prompt);
    return (slice * rows * d.heads + h.head) * d.head_dim;
}

/* Channels from row to row. */
static __device__ __forceinline__ int row_pitch(const AttentionDims &d)
{
    return d.heads * d.head_dim;
}

/* Query 0 of the head in lse and delta (N,M,heads,Tq). */
static __device__ __forceinline__ size_t query_offset(const AttentionDims &d, Head h)
{
    return (((size_t)h.image * d.prompts + h.prompt) * d.heads + h.head) * d.n_queries;
}

static __device__ __forceinline__ bool key_takes_part(const AttentionDims &d, Head h, int key)
{
    if (!d.labels || key < d.n_free_keys) return true;
    int slice = h.image * d.label_prompts + (d.label_prompts == 1 ? 0 : h.prompt);
    return d.labels[slice * (d.n_keys - d.n_free_keys) + key - d.n_free_keys] != LABEL_EMPTY;
}

/* ---- rows and tiles ---- */

template <int HD, typename T>
static __device__ __forceinline__ void load_row(const T *row, int head_dim, bool exists,
                                                float (&value)[HD])
{
#pragma unroll
    for (int c = 0; c < HD; c++) value[c] = exists && c < head_dim ? to_f32(row[c]) : 0.0f;
}

template <int HD, typename T>
static __device__ __forceinline__ void store_row(T *row, int head_dim, const float (&value)[HD])
{
#pragma unroll
    for (int c = 0; c < HD; c++)
        if (c < head_dim) store(&row[c], value[c]);
}

/* A tile of rows; the pad keeps rows that neighbouring lanes read in different banks. */
template <int HD> struct Tile {
    float row[TILE][HD + PAD];
};

/* Fills a tile with rows [first, first + n) of a head, zeros beyond head_dim. Barriers around it
 * are the caller's. */
template <int HD, typename T>
static __device__ __forceinline__ void load_tile(Tile<HD> *tile, const T *rows, int first, int n,
                                                 const AttentionDims &d)
{
    for (int i = (int)threadIdx.x; i < n * HD; i += THREADS) {
        int r = i / HD, c = i % HD;
        const T *at = rows + (size_t)(first + r) * row_pitch(d) + c;
        tile->row[r][c] = c < d.head_dim ? to_f32(*at) : 0.0f;
    }
}

template <int HD>
static __device__ __forceinline__ float dot(const float (&a)[HD], const float (&b)[HD + PAD])
{
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < HD; c += 4) {
        float4 four = *reinterpret_cast<const float4 *>(&b[c]);
        sum += a[c] * four.x + a[c + 1] * four.y + a[c + 2] * four.z + a[c + 3] * four.w;
    }
    return sum;
}

template <int HD>
static __device__ __forceinline__ void add_scaled(float (&sum)[HD], float factor,
                                                  const float (&row)[HD + PAD])
{
#pragma unroll
    for (int c = 0; c < HD; c += 4) {
        float4 four = *reinterpret_cast<const float4 *>(&row[c]);
        sum[c] += factor * four.x;
        sum[c + 1] += factor * four.y;
        sum[c + 2] += factor * four.z;
        sum[c + 3] += factor * four.w;
    }
}

/* Sums over the LANES threads of a row, in all of them. */
template <int LANES, int HD> static __device__ __forceinline__ void sum_lanes(float (&value)[HD])
{
#pragma unroll
    for (int lanes = 1; lanes < LANES; lanes *= 2)
#pragma unroll
        for (int c = 0; c < HD; c++)
            value[c] += __shfl_xor_sync((unsigned)FULL_WARP, value[c], lanes);
}

/* ---- forward ---- */

/* A running softmax: sum of exp(score - best) and the values so weighted. */
template <int HD> struct Running {
    float best, sum, value[HD];
};

template <int HD>
static __device__ __forceinline__ void running_add(Running<HD> *r, float score,
                                                   const float (&value)[HD + PAD])
{
    if (score > r->best) {
        float shrink = __expf(r->best - score);
        r->best = score;
        r->sum *= shrink;
#pragma unroll
        for (int c = 0; c < HD; c++) r->value[c] *= shrink;
    }
    float p = __expf(score - r->best);
    r->sum += p;
    add_scaled<HD>(r->value, p, value);
}

/* Joins the LANES parts of a row. A lane without a key has best = -infinity and weighs nothing. */
template <int LANES, int HD> static __device__ __forceinline__ void running_join(Running<HD> *r)
{
    float best = r->best;
#pragma unroll
    for (int lanes = 1; lanes < LANES; lanes *= 2)
        best = fmaxf(best, __shfl_xor_sync((unsigned)FULL_WARP, best, lanes));
    float shrink = r->best == best ? 1.0f : __expf(r->best - best), sum[1] = {r->sum * shrink};
    r->best = best;
    sum_lanes<LANES, 1>(sum);
    r->sum = sum[0];
#pragma unroll
    for (int c = 0; c < HD; c++) r->value[c] *= shrink;
    sum_lanes<LANES, HD>(r->value);
}

/* Block (tile of queries, head). */
template <typename T, int HD, int LANES>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_kernel(T *dst, float *lse, const T *q, const T *k, const T *v, AttentionDims d,
                     int tiles)
{
    __shared__ Tile<HD> keys, values;
    __shared__ int takes_part[TILE];
    Head h = head_of(d, (int)blockIdx.x / tiles, d.prompts);
    int lane = (int)threadIdx.x % LANES;
    int query = (int)blockIdx.x % tiles * (THREADS / LANES) + (int)threadIdx.x / LANES;
    bool exists = query < d.n_queries;
    size_t at_kv = head_offset(d, h, d.kv_prompts, d.n_keys);
    float own[HD];
    load_row<HD>(q + head_offset(d, h, d.q_prompts, d.n_queries) + (size_t)query * row_pitch(d),
                 d.head_dim, exists, own);
    Running<HD> r = {-INFINITY, 0.0f, {}};
    for (int first = 0; first < d.n_keys; first += TILE) {
        int n = min((int)TILE, d.n_keys - first);
        __syncthreads(); /* the tile of before has been read */
        load_tile<HD>(&keys, k + at_kv, first, n, d);
        load_tile<HD>(&values, v + at_kv, first, n, d);
        for (int i = (int)threadIdx.x; i < n; i += THREADS)
            takes_part[i] = key_takes_part(d, h, first + i);
        __syncthreads();
        for (int i = lane; exists && i < n; i += LANES)
            if (takes_part[i])
                running_add<HD>(&r, d.scale * dot<HD>(own, keys.row[i]), values.row[i]);
    }
    running_join<LANES, HD>(&r);
    if (!exists || lane > 0) return;
#pragma unroll
    for (int c = 0; c < HD; c++) r.value[c] /= r.sum;
    lse[query_offset(d, h) + query] = r.best + logf(r.sum);
    store_row<HD>(dst + head_offset(d, h, d.prompts, d.n_queries) + (size_t)query * row_pitch(d),
                  d.head_dim, r.value);
}

/* ---- backward ---- */

/* delta = ddst . dst of every query and head: what the softmax takes off. */
template <typename T>
static __global__ void __launch_bounds__(FLAT_THREADS)
    delta_kernel(float *delta, const T *dst, const T *ddst, AttentionDims d, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        int query = (int)(i % (unsigned)d.n_queries);
        Head h = head_of(d, (int)(i / (unsigned)d.n_queries), d.prompts);
        size_t at = head_offset(d, h, d.prompts, d.n_queries) + (size_t)query * row_pitch(d);
        float sum = 0.0f;
        for (int c = 0; c < d.head_dim; c++) sum += to_f32(dst[at + c]) * to_f32(ddst[at + c]);
        delta[i] = sum;
    }
}

/* Operands of both gradient kernels. */
template <typename T> struct GradSources {
    const T *q, *k, *v, *ddst;
    const float *lse, *delta;
};

/* The prompts that add up in a row of a tensor with `own` of them: [*begin, *end). */
static __device__ __forceinline__ void sharing_prompts(const AttentionDims &d, int own, Head h,
                                                       int *begin, int *end)
{
    *begin = own == 1 ? 0 : h.prompt;
    *end = own == 1 ? d.prompts : h.prompt + 1;
}

/* Block (tile of queries, head of q's prompts): dq. */
template <typename T, int HD, int LANES>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_dq_kernel(T *dq, GradSources<T> s, AttentionDims d, int tiles)
{
    __shared__ Tile<HD> keys, values;
    __shared__ int takes_part[TILE];
    Head h = head_of(d, (int)blockIdx.x / tiles, d.q_prompts);
    int lane = (int)threadIdx.x % LANES, begin, end;
    int query = (int)blockIdx.x % tiles * (THREADS / LANES) + (int)threadIdx.x / LANES;
    bool exists = query < d.n_queries;
    size_t at_q = head_offset(d, h, d.q_prompts, d.n_queries) + (size_t)query * row_pitch(d);
    float own[HD], gradient[HD], sum[HD] = {};
    load_row<HD>(s.q + at_q, d.head_dim, exists, own);
    sharing_prompts(d, d.q_prompts, h, &begin, &end);
    for (h.prompt = begin; h.prompt < end; h.prompt++) {
        size_t at_kv = head_offset(d, h, d.kv_prompts, d.n_keys);
        size_t at_dst = head_offset(d, h, d.prompts, d.n_queries) + (size_t)query * row_pitch(d);
        float lse = exists ? s.lse[query_offset(d, h) + query] : 0.0f;
        float delta = exists ? s.delta[query_offset(d, h) + query] : 0.0f;
        load_row<HD>(s.ddst + at_dst, d.head_dim, exists, gradient);
        for (int first = 0; first < d.n_keys; first += TILE) {
            int n = min((int)TILE, d.n_keys - first);
            __syncthreads(); /* the tile of before has been read */
            load_tile<HD>(&keys, s.k + at_kv, first, n, d);
            load_tile<HD>(&values, s.v + at_kv, first, n, d);
            for (int i = (int)threadIdx.x; i < n; i += THREADS)
                takes_part[i] = key_takes_part(d, h, first + i);
            __syncthreads();
            for (int i = lane; exists && i < n; i += LANES) {
                if (!takes_part[i]) continue;
                float p = __expf(d.scale * dot<HD>(own, keys.row[i]) - lse);
                float dscore = p * (dot<HD>(gradient, values.row[i]) - delta);
                add_scaled<HD>(sum, dscore * d.scale, keys.row[i]);
            }
        }
    }
    sum_lanes<LANES, HD>(sum);
    if (exists && lane == 0) store_row<HD>(dq + at_q, d.head_dim, sum);
}

/* Block (tile of keys, head of k's prompts): dk and dv. */
template <typename T, int HD, int LANES>
static __global__ void __launch_bounds__(THREADS, 2)
    attention_dkv_kernel(T *dk, T *dv, GradSources<T> s, AttentionDims d, int tiles)
{
    __shared__ Tile<HD> queries, gradients;
    __shared__ float lse[TILE], delta[TILE];
    Head h = head_of(d, (int)blockIdx.x / tiles, d.kv_prompts);
    int lane = (int)threadIdx.x % LANES, begin, end;
    int key = (int)blockIdx.x % tiles * (THREADS / LANES) + (int)threadIdx.x / LANES;
    bool exists = key < d.n_keys;
    size_t at_key = head_offset(d, h, d.kv_prompts, d.n_keys) + (size_t)key * row_pitch(d);
    float own[HD], value[HD], key_sum[HD] = {}, value_sum[HD] = {};
    load_row<HD>(s.k + at_key, d.head_dim, exists, own);
    load_row<HD>(s.v + at_key, d.head_dim, exists, value);
    sharing_prompts(d, d.kv_prompts, h, &begin, &end);
    for (h.prompt = begin; h.prompt < end; h.prompt++) {
        bool takes_part = exists && key_takes_part(d, h, key);
        size_t at_q = head_offset(d, h, d.q_prompts, d.n_queries);
        size_t at_dst = head_offset(d, h, d.prompts, d.n_queries);
        for (int first = 0; first < d.n_queries; first += TILE) {
            int n = min((int)TILE, d.n_queries - first);
            __syncthreads(); /* the tile of before has been read */
            load_tile<HD>(&queries, s.q + at_q, first, n, d);
            load_tile<HD>(&gradients, s.ddst + at_dst, first, n, d);
            for (int i = (int)threadIdx.x; i < n; i += THREADS) {
                lse[i] = s.lse[query_offset(d, h) + first + i];
                delta[i] = s.delta[query_offset(d, h) + first + i];
            }
            __syncthreads();
            for (int i = lane; takes_part && i < n; i += LANES) {
                float p = __expf(d.scale * dot<HD>(own, queries.row[i]) - lse[i]);
                float dscore = p * (dot<HD>(value, gradients.row[i]) - delta[i]);
                add_scaled<HD>(key_sum, dscore * d.scale, queries.row[i]);
                add_scaled<HD>(value_sum, p, gradients.row[i]);
            }
        }
    }
    sum_lanes<LANES, HD>(key_sum);
    sum_lanes<LANES, HD>(value_sum);
    if (!exists || lane > 0) return;
    store_row<HD>(dk + at_key, d.head_dim, key_sum);
    store_row<HD>(dv + at_key, d.head_dim, value_sum);
}

/* ---- launches ---- */

/* Threads that share a row, by the number of rows. */
static int lanes_for(int rows) { return rows > 64 ? 1 : rows > 16 ? 4 : 16; }

static int tiles_of(int rows, int lanes) { return (int)cuda_blocks(rows, THREADS / lanes); }

/* WITH_LANES(rows, LANES, statements): the statements with LANES a constant. */
#define WITH_LANES(rows, LANES, ...) \
    do {                             \
        switch (lanes_for(rows)) {   \
        case 1: {                    \
            enum { LANES = 1 };      \
            __VA_ARGS__;             \
        } break;                     \
        case 4: {                    \
            enum { LANES = 4 };      \
            __VA_ARGS__;             \
        } break;                     \
        default: {                   \
            enum { LANES = 16 };     \
            __VA_ARGS__;             \
        }                            \
        }                            \
    } while (0)

template <typename T, int HD> static void attention_typed(const KernelCall *call)
{
    AttentionDims d = attention_dims(call, &call->attr->attention);
    int tiles = tiles_of(d.n_queries, lanes_for(d.n_queries));
    unsigned blocks = (unsigned)(d.images * d.prompts * d.heads * tiles);
    if (blocks == 0) return;
    WITH_LANES(d.n_queries, LANES,
               LAUNCH(call, (attention_kernel<T, HD, LANES>), blocks, THREADS, 0,
                      (T *)call->dst[0].data, (float *)call->dst[1].data,
                      (const T *)call->src[0].data, (const T *)call->src[1].data,
                      (const T *)call->src[2].data, d, tiles));
}

static void attention_run(const KernelCall *call)
{
    bool small = attention_dims(call, &call->attr->attention).head_dim <= 16;
    WITH_STORAGE(call->src[0].dtype, T,
                 small ? attention_typed<T, 16>(call) : attention_typed<T, 32>(call));
}

static Status check_attention(const KernelCall *call, const AttentionDims &d)
{
    TRY(cuda_check_low(call));
    if (d.head_dim <= MAX_HEAD_DIM) return OK;
    return cuda_unsupported(call, "heads of %d channels; at most %d fit the registers", d.head_dim,
                            MAX_HEAD_DIM);
}

extern "C" Status cuda_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    TRY(check_attention(call, attention_dims(call, &call->attr->attention)));
    call->run = attention_run;
    return OK;
}

static unsigned n_deltas(const AttentionDims &d)
{
    return (unsigned)(d.images * d.prompts * d.heads * d.n_queries);
}

template <typename T, int HD> static void attention_grad_typed(const KernelCall *call)
{
    AttentionDims d = attention_dims(call, &call->attr->attention_grad);
    unsigned n = n_deltas(d);
    float *delta = (float *)call->scratch;
    GradSources<T> s = {(const T *)call->src[0].data,     (const T *)call->src[1].data,
                        (const T *)call->src[2].data,     (const T *)call->src[6].data,
                        (const float *)call->src[5].data, delta};
    int q_tiles = tiles_of(d.n_queries, lanes_for(d.n_queries));
    int kv_tiles = tiles_of(d.n_keys, lanes_for(d.n_keys));
    if (n == 0) return;
    LAUNCH(call, delta_kernel<T>, flat_blocks(n), FLAT_THREADS, 0, delta,
           (const T *)call->src[4].data, s.ddst, d, n);
    WITH_LANES(d.n_queries, LANES,
               LAUNCH(call, (attention_dq_kernel<T, HD, LANES>),
                      (unsigned)(d.images * d.q_prompts * d.heads * q_tiles), THREADS, 0,
                      (T *)call->dst[0].data, s, d, q_tiles));
    WITH_LANES(d.n_keys, LANES,
               LAUNCH(call, (attention_dkv_kernel<T, HD, LANES>),
                      (unsigned)(d.images * d.kv_prompts * d.heads * kv_tiles), THREADS, 0,
                      (T *)call->dst[1].data, (T *)call->dst[2].data, s, d, kv_tiles));
}

static void attention_grad_run(const KernelCall *call)
{
    bool small = attention_dims(call, &call->attr->attention_grad).head_dim <= 16;
    WITH_STORAGE(call->src[0].dtype, T,
                 small ? attention_grad_typed<T, 16>(call) : attention_grad_typed<T, 32>(call));
}

extern "C" Status cuda_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    AttentionDims d = attention_dims(call, &call->attr->attention_grad);
    TRY(check_attention(call, d));
    call->run = attention_grad_run;
    return OK;
}
