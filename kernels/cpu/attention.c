/* Softmax attention of the prompt tokens and the image, and its gradient.
 *
 * Scores are made a tile at a time, one row per key and one vector lane per query: the softmax then
 * runs down the columns, without sums across a vector, and keys and values are read in place, all
 * heads of a row together. The first pass over keys carries a running maximum and sum (Milakov and
 * Gimelshein 2018); the gradient makes the probabilities again from lse (Dao et al.,
 * FlashAttention, 2022).
 *
 * Work is cut into (image, prompt, head) and, forward, blocks of queries. A thread takes a
 * contiguous share of these units and handles the heads of one block together. In the gradient a
 * unit covers whatever its results are summed over, so no two threads add to one element.
 */
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    QUERY_BLOCK = 64,
    KEY_TILE = 128,
    ROW_PAD = 8 /* products over rows of queries are rounded up to this */
};

/* Sizes of a call. Where all prompts of an image share keys and values and leave none out, their
 * queries are one longer list: `prompts` is 1 then, and lse has `group` queries per prompt. */
typedef struct Sizes {
    int64_t images, prompts, heads, head_dim, width;
    int64_t queries, keys, group;
    bool q_shared, kv_shared;
} Sizes;

static Sizes sizes_of(const KernelCall *call)
{
    const Shape *q = &call->src[0].shape, *k = &call->src[1].shape;
    int64_t heads = call->attr->attention.heads;
    int64_t prompts = q->dim[1] > k->dim[1] ? q->dim[1] : k->dim[1];
    Sizes z = {.images = q->dim[0],
               .prompts = prompts,
               .heads = heads,
               .head_dim = q->dim[3] / heads,
               .width = q->dim[3],
               .queries = q->dim[2],
               .keys = k->dim[2],
               .group = q->dim[2],
               .q_shared = q->dim[1] < prompts,
               .kv_shared = k->dim[1] < prompts};
    if (z.kv_shared && !cpu_present(&call->src[3])) {
        z.queries *= prompts;
        z.prompts = 1;
        z.kv_shared = false;
    }
    return z;
}

/* First element of the queries (or keys) of prompt m of image n. */
static int64_t q_offset(const Sizes *z, int64_t n, int64_t m)
{
    return (z->q_shared ? n : n * z->prompts + m) * z->queries * z->width;
}

static int64_t kv_offset(const Sizes *z, int64_t n, int64_t m)
{
    return (z->kv_shared ? n : n * z->prompts + m) * z->keys * z->width;
}

/* The same in dst, which is never shared. */
static int64_t dst_offset(const Sizes *z, int64_t n, int64_t m)
{
    return (n * z->prompts + m) * z->queries * z->width;
}

static int64_t lse_offset(const Sizes *z, int64_t n, int64_t m, int64_t head, int64_t query)
{
    int64_t prompt = query / z->group, of_prompt = z->queries / z->group;
    return (((n * z->prompts + m) * of_prompt + prompt) * z->heads + head) * z->group +
           query % z->group;
}

/* Labels of the keys of one prompt, or NULL; key `n_free` is the first that has one. */
typedef struct Labels {
    const int32_t *label;
    int64_t n_free;
} Labels;

static Labels labels_of(const KernelCall *call, const Sizes *z, int64_t n, int64_t m)
{
    const Tensor *labels = &call->src[3];
    int64_t n_free = call->attr->attention.n_free_keys;
    if (!cpu_present(labels)) return (Labels){NULL, n_free};
    return (Labels){(const int32_t *)labels->data + (n * z->prompts + m) * (z->keys - n_free),
                    n_free};
}

/* One block of queries of one prompt, for the heads [head0, head1). */
typedef struct Block {
    int64_t n, m, head0, head1;
    int64_t first, n_queries, lanes; /* lanes: n_queries rounded up to whole vectors */
} Block;

/* dst (head_dim, lanes) = factor * rows (n_queries, head_dim) transposed, 0 in unused lanes. */
static void load_lanes(const Sizes *z, const Block *b, const float *rows, float factor, float *dst)
{
    if (b->lanes != b->n_queries) memset(dst, 0, (size_t)(z->head_dim * b->lanes) * sizeof(float));
    tile_transpose(b->n_queries, z->head_dim, rows, z->width, dst, b->lanes);
    if (factor == 1.0f) return;
    for (int64_t i = 0; i < z->head_dim * b->lanes; i++) dst[i] *= factor;
}

/* The next share of a thread's units: heads of one (image, prompt, block). Advances *unit. */
static void next_heads(const Sizes *z, int64_t *unit, int64_t end, int64_t *index, Block *b)
{
    *index = *unit / z->heads;
    b->head0 = *unit % z->heads;
    b->head1 = tile_min(z->heads, b->head0 + end - *unit);
    *unit += b->head1 - b->head0;
}

static void set_queries(const Sizes *z, int64_t first, Block *b)
{
    b->first = first;
    b->n_queries = tile_min(QUERY_BLOCK, z->queries - first);
    b->lanes = tile_round(b->n_queries);
}

/* Keys [first, first + n) of one prompt: rows of all heads. */
typedef struct Tile {
    int64_t first, n;
    const float *k, *v;
} Tile;

static Tile load_tile(const KernelCall *call, const Sizes *z, int64_t offset, int64_t first,
                      float *k_rows, float *v_rows)
{
    int64_t n = tile_min(KEY_TILE, z->keys - first), from = offset + first * z->width;
    return (Tile){first, n, tile_load(&call->src[1], from, n * z->width, k_rows),
                  tile_load(&call->src[2], from, n * z->width, v_rows)};
}

/* Gives the left-out keys of a tile scores that make their probabilities 0. */
static void mask_keys(const Labels *labels, const Tile *tile, int64_t lanes, float *s)
{
    for (int64_t i = 0; labels->label && i < tile->n; i++) {
        int64_t key = tile->first + i - labels->n_free;
        if (key < 0 || labels->label[key] != -2) continue;
        for (int64_t j = 0; j < lanes; j++) s[i * lanes + j] = -INFINITY;
    }
}

/* ---- forward ---- */

/* A thread's scratch; arrays over heads have one part per head. */
typedef struct Forward {
    float *q_rows, *k_rows, *v_rows; /* converted copies, unused for f32 */
    float *q_lanes;                  /* heads x (head_dim, QUERY_BLOCK) */
    float *max, *sum;                /* heads x QUERY_BLOCK */
    float *out;                      /* (QUERY_BLOCK, width) */
    float *s, *correction;
} Forward;

static int64_t forward_layout(const Sizes *z, float *base, Forward *f)
{
    int64_t block = tile_min(tile_round(z->queries), QUERY_BLOCK);
    int64_t tile = tile_min(z->keys, KEY_TILE);
    TilePart part[] = {
        {&f->q_rows, block * z->width}, {&f->k_rows, tile * z->width},
        {&f->v_rows, tile * z->width},  {&f->q_lanes, block * z->width},
        {&f->max, z->heads * block},    {&f->sum, z->heads * block},
        {&f->out, block * z->width},    {&f->s, tile * block},
        {&f->correction, block},
    };
    return tile_lay_out(base, part, sizeof part / sizeof *part);
}

static void forward_start(const KernelCall *call, const Sizes *z, const Block *b, Forward *f)
{
    const float *q = tile_load(&call->src[0], q_offset(z, b->n, b->m) + b->first * z->width,
                               b->n_queries * z->width, f->q_rows);
    for (int64_t h = b->head0; h < b->head1; h++) {
        load_lanes(z, b, q + h * z->head_dim, (float)call->attr->attention.scale,
                   f->q_lanes + h * z->head_dim * b->lanes);
        for (int64_t i = 0; i < b->lanes; i++) {
            f->max[h * b->lanes + i] = -INFINITY;
            f->sum[h * b->lanes + i] = 0.0f;
        }
    }
}

/* Takes the keys of a tile into the running result of one head. */
static void forward_tile(const Sizes *z, const Block *b, const Labels *labels, const Tile *tile,
                         int64_t head, Forward *f)
{
    int64_t width = z->width, hd = z->head_dim, column = head * hd, lanes = b->lanes;
    bool is_first = tile->first == 0;
    float *out = f->out + column;
    tile_matmul(tile->n, lanes, hd, tile->k + column, width, f->q_lanes + column * lanes, lanes,
                f->s, lanes, false);
    mask_keys(labels, tile, lanes, f->s);
    tile_softmax(tile->n, lanes, f->s, f->max + head * lanes, f->sum + head * lanes, f->correction);
    for (int64_t q = 0; !is_first && q < b->n_queries; q++)
        for (int64_t c = 0; c < hd; c++) out[q * width + c] *= f->correction[q];
    int64_t rows = (b->n_queries + ROW_PAD - 1) / ROW_PAD * ROW_PAD;
    tile_matmul_ta(rows, hd, tile->n, f->s, lanes, tile->v + column, width, out, width, !is_first);
}

static void forward_finish(const KernelCall *call, const Sizes *z, const Block *b, Forward *f)
{
    int64_t begin = b->head0 * z->head_dim, end = b->head1 * z->head_dim;
    int64_t offset = dst_offset(z, b->n, b->m) + b->first * z->width;
    float *lse = call->dst[1].data;
    for (int64_t q = 0; q < b->n_queries; q++) {
        float *row = f->out + q * z->width;
        for (int64_t h = b->head0; h < b->head1; h++) {
            float sum = f->sum[h * b->lanes + q], inverse = 1.0f / sum;
            for (int64_t c = 0; c < z->head_dim; c++) row[h * z->head_dim + c] *= inverse;
            lse[lse_offset(z, b->n, b->m, h, b->first + q)] = f->max[h * b->lanes + q] + logf(sum);
        }
        tile_store(&call->dst[0], offset + q * z->width + begin, end - begin, row + begin);
    }
}

static void forward_block(const KernelCall *call, const Sizes *z, const Block *b, Forward *f)
{
    Labels labels = labels_of(call, z, b->n, b->m);
    int64_t offset = kv_offset(z, b->n, b->m);
    forward_start(call, z, b, f);
    for (int64_t first = 0; first < z->keys; first += KEY_TILE) {
        Tile tile = load_tile(call, z, offset, first, f->k_rows, f->v_rows);
        for (int64_t h = b->head0; h < b->head1; h++) forward_tile(z, b, &labels, &tile, h, f);
    }
    forward_finish(call, z, b, f);
}

static void attention_run(const KernelCall *call)
{
    Sizes z = sizes_of(call);
    int64_t blocks = (z.queries + QUERY_BLOCK - 1) / QUERY_BLOCK;
    Forward sizes;
    int64_t n_floats = forward_layout(&z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Forward f;
        Block b;
        int64_t unit, end, index;
        forward_layout(&z, (float *)call->scratch + t * n_floats, &f);
        cpu_split(z.images * z.prompts * blocks * z.heads, call->n_threads, t, &unit, &end);
        while (unit < end) {
            next_heads(&z, &unit, end, &index, &b);
            b.n = index / blocks / z.prompts;
            b.m = index / blocks % z.prompts;
            set_queries(&z, index % blocks * QUERY_BLOCK, &b);
            forward_block(call, &z, &b, &f);
        }
    }
}

Status cpu_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    Sizes z = sizes_of(call);
    Forward sizes;
    assert(z.heads * z.head_dim == z.width);
    call->run = attention_run;
    call->scratch_bytes = (size_t)(call->n_threads * forward_layout(&z, NULL, &sizes)) *
                          sizeof(float);
    return OK;
}

/* ---- gradient ---- */

/* Where the gradient of one operand adds up: in the destination if that is f32, else in scratch. */
typedef struct Sum {
    const Tensor *dst;
    float *scratch; /* rows of `width` */
    float *rows;
    int64_t offset;
} Sum;

typedef struct Gradient {
    float *q_rows, *k_rows, *v_rows, *out_rows, *dout_rows;
    float *q_lanes, *dout_lanes; /* heads x (head_dim, lanes) */
    float *lse, *delta;          /* heads x lanes */
    float *s, *dp;
    float scale;
    const float *q, *dout; /* rows of the block: into the tensors or the copies above */
    Sum dq, dk, dv;
} Gradient;

static int64_t gradient_layout(const KernelCall *call, const Sizes *z, float *base, Gradient *g)
{
    int64_t block = tile_min(tile_round(z->queries), QUERY_BLOCK);
    int64_t tile = tile_min(z->keys, KEY_TILE);
    int64_t rows = block * z->width;
    bool copy_q = call->dst[0].dtype != DT_F32, copy_k = call->dst[1].dtype != DT_F32;
    bool copy_v = call->dst[2].dtype != DT_F32;
    TilePart part[] = {
        {&g->q_rows, rows},
        {&g->k_rows, tile * z->width},
        {&g->v_rows, tile * z->width},
        {&g->out_rows, rows},
        {&g->dout_rows, rows},
        {&g->q_lanes, rows},
        {&g->dout_lanes, rows},
        {&g->lse, z->heads * block},
        {&g->delta, z->heads * block},
        {&g->s, tile * block},
        {&g->dp, tile * block},
        {&g->dq.scratch, copy_q ? z->queries * z->width : 0},
        {&g->dk.scratch, copy_k ? z->keys * z->width : 0},
        {&g->dv.scratch, copy_v ? z->keys * z->width : 0},
    };
    g->scale = (float)call->attr->attention.scale;
    g->dq.dst = &call->dst[0];
    g->dk.dst = &call->dst[1];
    g->dv.dst = &call->dst[2];
    return tile_lay_out(base, part, sizeof part / sizeof *part);
}

static void sum_open(Sum *sum, int64_t offset)
{
    sum->offset = offset;
    sum->rows = sum->dst->dtype == DT_F32 ? (float *)sum->dst->data + offset : sum->scratch;
}

/* Writes the columns of the block's heads to the destination. */
static void sum_close(const Sizes *z, const Block *b, int64_t n_rows, const Sum *sum)
{
    int64_t begin = b->head0 * z->head_dim, n = (b->head1 - b->head0) * z->head_dim;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t at = i * z->width + begin;
        tile_store(sum->dst, sum->offset + at, n, sum->rows + at);
    }
}

/* Reads a block of queries: lanes of q and dout, lse, delta = sum over channels of dst * ddst. */
static void gradient_start(const KernelCall *call, const Sizes *z, const Block *b, Gradient *g)
{
    int64_t n_elems = b->n_queries * z->width, skip = b->first * z->width;
    int64_t at = dst_offset(z, b->n, b->m) + skip;
    const float *lse = call->src[5].data;
    const float *out = tile_load(&call->src[4], at, n_elems, g->out_rows);
    g->q = tile_load(&call->src[0], q_offset(z, b->n, b->m) + skip, n_elems, g->q_rows);
    g->dout = tile_load(&call->src[6], at, n_elems, g->dout_rows);
    for (int64_t h = b->head0; h < b->head1; h++) {
        int64_t column = h * z->head_dim, lanes_at = column * b->lanes;
        load_lanes(z, b, g->q + column, (float)call->attr->attention.scale, g->q_lanes + lanes_at);
        load_lanes(z, b, g->dout + column, 1.0f, g->dout_lanes + lanes_at);
        for (int64_t q = 0; q < b->lanes; q++) {
            float delta = 0.0f;
            int64_t row = q * z->width + column;
            if (q < b->n_queries) {
#pragma omp simd reduction(+ : delta)
                for (int64_t c = 0; c < z->head_dim; c++) delta += out[row + c] * g->dout[row + c];
            }
            g->delta[h * b->lanes + q] = delta;
            g->lse[h * b->lanes + q] = q < b->n_queries
                                           ? lse[lse_offset(z, b->n, b->m, h, b->first + q)]
                                           : 0.0f;
        }
    }
}

/* One head of one tile of keys; `new_q`, `new_kv`: the sums hold nothing yet. */
static void gradient_tile(const Sizes *z, const Block *b, const Labels *labels, const Tile *tile,
                          int64_t head, bool new_q, bool new_kv, Gradient *g)
{
    int64_t width = z->width, hd = z->head_dim, column = head * hd, lanes = b->lanes;
    float *dk = g->dk.rows + tile->first * width + column;
    float *dv = g->dv.rows + tile->first * width + column;
    float *dq = g->dq.rows + b->first * width + column;
    const float *k = tile->k + column, *v = tile->v + column;
    tile_matmul(tile->n, lanes, hd, k, width, g->q_lanes + column * lanes, lanes, g->s, lanes,
                false);
    tile_matmul(tile->n, lanes, hd, v, width, g->dout_lanes + column * lanes, lanes, g->dp, lanes,
                false);
    mask_keys(labels, tile, lanes, g->s);
    tile_softmax_grad(tile->n, lanes, g->s, g->dp, g->lse + head * lanes, g->delta + head * lanes,
                      g->scale);
    tile_matmul(tile->n, hd, b->n_queries, g->s, lanes, g->dout + column, width, dv, width,
                !new_kv);
    tile_matmul(tile->n, hd, b->n_queries, g->dp, lanes, g->q + column, width, dk, width, !new_kv);
    tile_matmul_ta(b->n_queries, hd, tile->n, g->dp, lanes, k, width, dq, width, !new_q);
}

/* All queries of prompt b->m; `first_of_sum`: nothing of an earlier prompt is in shared sums. */
static void gradient_prompt(const KernelCall *call, const Sizes *z, Block *b, Gradient *g,
                            bool first_of_sum)
{
    Labels labels = labels_of(call, z, b->n, b->m);
    int64_t offset = kv_offset(z, b->n, b->m);
    for (int64_t query = 0; query < z->queries; query += QUERY_BLOCK) {
        set_queries(z, query, b);
        gradient_start(call, z, b, g);
        for (int64_t first = 0; first < z->keys; first += KEY_TILE) {
            Tile tile = load_tile(call, z, offset, first, g->k_rows, g->v_rows);
            bool new_q = first == 0 && (first_of_sum || !z->q_shared);
            bool new_kv = query == 0 && (first_of_sum || !z->kv_shared);
            for (int64_t h = b->head0; h < b->head1; h++)
                gradient_tile(z, b, &labels, &tile, h, new_q, new_kv, g);
        }
    }
}

/* Prompts [m0, m1) of one image: one, or all that share an operand. */
static void gradient_unit(const KernelCall *call, const Sizes *z, Block *b, Gradient *g, int64_t m0,
                          int64_t m1)
{
    for (int64_t m = m0; m < m1; m++) {
        b->m = m;
        sum_open(&g->dq, q_offset(z, b->n, m));
        sum_open(&g->dk, kv_offset(z, b->n, m));
        sum_open(&g->dv, kv_offset(z, b->n, m));
        gradient_prompt(call, z, b, g, m == m0);
        bool last = m + 1 == m1;
        if (last || !z->q_shared) sum_close(z, b, z->queries, &g->dq);
        if (last || !z->kv_shared) {
            sum_close(z, b, z->keys, &g->dk);
            sum_close(z, b, z->keys, &g->dv);
        }
    }
}

static void attention_grad_run(const KernelCall *call)
{
    Sizes z = sizes_of(call);
    int64_t separate = z.q_shared || z.kv_shared ? 1 : z.prompts;
    int64_t together = z.prompts / separate;
    Gradient sizes;
    int64_t n_floats = gradient_layout(call, &z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Gradient g;
        Block b;
        int64_t unit, end, index;
        gradient_layout(call, &z, (float *)call->scratch + t * n_floats, &g);
        cpu_split(z.images * separate * z.heads, call->n_threads, t, &unit, &end);
        while (unit < end) {
            next_heads(&z, &unit, end, &index, &b);
            b.n = index / separate;
            int64_t m0 = index % separate * together;
            gradient_unit(call, &z, &b, &g, m0, m0 + together);
        }
    }
}

Status cpu_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    Sizes z = sizes_of(call);
    Gradient sizes;
    int64_t n_floats = gradient_layout(call, &z, NULL, &sizes);
    call->run = attention_grad_run;
    call->scratch_bytes = (size_t)(call->n_threads * n_floats) * sizeof(float);
    return OK;
}
