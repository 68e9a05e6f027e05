/* The gradient of attention with relative positions: probabilities are made again from lse (Dao et
 * al., FlashAttention, 2022), a head at a time, so that no two threads add to one element but for
 * the tables, of which each thread has its own sum. See relpos.h.
 */
#include "kernels/cpu/relpos.h"

#include <math.h>
#include <string.h>

typedef struct Gradient {
    RelposHead head;
    float *out, *dout;                /* (tokens, hd) */
    float *dq, *dk, *dv;              /* (tokens, hd) */
    float *dout_lanes;                /* (hd, lanes) */
    float *dp;                        /* (RELPOS_KEY_TILE, lanes) */
    float *lse, *delta;               /* lanes */
    float *d_rows, *d_columns;        /* gradients of h.by_key and w.by_key */
    float *dreversed_h, *dreversed_w; /* sums over all the thread's heads */
} Gradient;

enum { GRADIENT_PARTS = RELPOS_HEAD_PARTS + 13 };

static int64_t gradient_layout(const RelposSizes *z, float *base, Gradient *g)
{
    int64_t head_elems = z->tokens * z->head_dim;
    TilePart part[GRADIENT_PARTS] = {
        [RELPOS_HEAD_PARTS] = {&g->out, head_elems},
        {&g->dout, head_elems},
        {&g->dq, head_elems},
        {&g->dk, head_elems},
        {&g->dv, head_elems},
        {&g->dout_lanes, z->head_dim * z->lanes},
        {&g->dp, RELPOS_KEY_TILE * z->lanes},
        {&g->lse, z->lanes},
        {&g->delta, z->lanes},
        {&g->d_rows, z->height * z->lanes},
        {&g->d_columns, z->width * z->lanes},
        {&g->dreversed_h, (2 * z->height - 1) * z->head_dim},
        {&g->dreversed_w, (2 * z->width - 1) * z->head_dim},
    };
    relpos_head_parts(z, &g->head, part);
    return tile_lay_out(base, part, GRADIENT_PARTS);
}

static void set_zero(float *dst, int64_t n) { memset(dst, 0, (size_t)n * sizeof(float)); }

static void gradient_load(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                          Gradient *g)
{
    int64_t hd = z->head_dim, offset = (n * z->tokens * z->heads + h) * hd;
    relpos_load_head(call, z, n, h, &g->head);
    tile_gather(&call->src[3], offset, z->heads * hd, z->tokens, hd, g->out);
    tile_gather(&call->src[5], offset, z->heads * hd, z->tokens, hd, g->dout);
    set_zero(g->dk, z->tokens * hd);
    set_zero(g->dv, z->tokens * hd);
}

/* delta = sum over channels of dst * ddst, what the softmax subtracts from each gradient of p. */
static RelposBlock gradient_start(const KernelCall *call, const RelposSizes *z, int64_t n,
                                  int64_t h, int64_t row, Gradient *g)
{
    RelposBlock b = relpos_start_block(z, row, &g->head);
    const float *lse = (const float *)call->src[4].data + (n * z->heads + h) * z->tokens + b.first;
    relpos_load_lanes(z, &b, g->dout + b.first * z->head_dim, g->dout_lanes);
    for (int64_t q = 0; q < b.lanes; q++) {
        const float *out = g->out + (b.first + q) * z->head_dim;
        const float *dout = g->dout + (b.first + q) * z->head_dim;
        float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
        for (int64_t c = 0; c < (q < b.n ? z->head_dim : 0); c++) delta += out[c] * dout[c];
        g->delta[q] = delta;
        g->lse[q] = q < b.n ? lse[q] : 0.0f;
    }
    set_zero(g->d_rows, z->height * b.lanes);
    set_zero(g->d_columns, z->width * b.lanes);
    return b;
}

static void gradient_tile(const RelposSizes *z, const RelposBlock *b, int64_t first, Gradient *g)
{
    int64_t n_keys = tile_min(RELPOS_KEY_TILE, z->tokens - first), hd = z->head_dim,
            lanes = b->lanes;
    const float *k = g->head.k + first * hd, *q = g->head.q + b->first * hd;
    const float *dout = g->dout + b->first * hd;
    relpos_score_tile(z, b, &g->head, first, n_keys);
    tile_matmul(n_keys, lanes, hd, g->head.v + first * hd, hd, g->dout_lanes, lanes, g->dp, lanes,
                false);
    tile_softmax_grad(n_keys, lanes, g->head.s, g->dp, g->lse, g->delta, 1.0f);
    for (int64_t i = 0; i < n_keys; i++) {
        float *row = g->d_rows + (first + i) / z->width * lanes;
        float *column = g->d_columns + (first + i) % z->width * lanes;
        const float *ds = g->dp + i * lanes;
#pragma omp simd
        for (int64_t j = 0; j < lanes; j++) {
            row[j] += ds[j];
            column[j] += ds[j];
        }
    }
    tile_matmul(n_keys, hd, b->n, g->head.s, lanes, dout, hd, g->dv + first * hd, hd, true);
    tile_matmul(n_keys, hd, b->n, g->dp, lanes, q, hd, g->dk + first * hd, hd, true);
    tile_matmul_ta(b->n, hd, n_keys, g->dp, lanes, k, hd, g->dq + b->first * hd, hd, first > 0);
}

/* From the gradient of what an axis adds to those of its table and, through unscaled q, of q. */
static void gradient_axis(const RelposSizes *z, const RelposBlock *b, const RelposAxis *axis,
                          const float *d_by_key, float *dreversed, Gradient *g)
{
    int64_t hd = z->head_dim, lanes = b->lanes, rows = axis->extent + axis->n - 1;
    float *by_distance = g->head.by_distance;
    set_zero(by_distance, rows * lanes);
    for (int64_t q = 0; q < b->n; q++) {
        float *to = by_distance + relpos_distance_row(z, &g->head, axis, q) * lanes + q;
        for (int64_t key = 0; key < axis->extent; key++)
            to[key * lanes] = d_by_key[key * lanes + q];
    }
    float *dtable = dreversed + (axis->table - axis->reversed);
    tile_matmul(rows, hd, b->n, by_distance, lanes, g->head.q + b->first * hd, hd, dtable, hd,
                true);
    tile_matmul_ta(b->n, hd, rows, by_distance, lanes, axis->table, hd, g->dq + b->first * hd, hd,
                   true);
}

static void gradient_block(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                           int64_t row, Gradient *g)
{
    RelposBlock b = gradient_start(call, z, n, h, row, g);
    float scale = 1.0f / sqrtf((float)z->head_dim);
    for (int64_t first = 0; first < z->tokens; first += RELPOS_KEY_TILE)
        gradient_tile(z, &b, first, g);
    float *dq = g->dq + b.first * z->head_dim;
    for (int64_t i = 0; i < b.n * z->head_dim; i++) dq[i] *= scale;
    gradient_axis(z, &b, &g->head.h, g->d_rows, g->dreversed_h, g);
    gradient_axis(z, &b, &g->head.w, g->d_columns, g->dreversed_w, g);
}

static void gradient_head(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                          Gradient *g)
{
    float scale = 1.0f / sqrtf((float)z->head_dim);
    gradient_load(call, z, n, h, g);
    for (int64_t row = 0; row < z->height; row += z->block_rows)
        gradient_block(call, z, n, h, row, g);
    for (int64_t i = 0; i < z->tokens * z->head_dim; i++) g->dk[i] *= scale;
    const float *from[] = {g->dq, g->dk, g->dv};
    for (int i = 0; i < 3; i++)
        tile_scatter(&call->dst[0], relpos_qkv_offset(z, n, i, h), z->row_elems, z->tokens,
                     z->head_dim, from[i]);
}

/* dst = the threads' sums, in order, rows turned round again. */
static void sum_tables(const KernelCall *call, const RelposSizes *z, int64_t n_floats, bool height,
                       float *dst)
{
    int64_t rows = 2 * (height ? z->height : z->width) - 1;
    set_zero(dst, rows * z->head_dim);
    for (int t = 0; t < call->n_threads; t++) {
        Gradient g;
        gradient_layout(z, (float *)call->scratch + t * n_floats, &g);
        const float *part = height ? g.dreversed_h : g.dreversed_w;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t c = 0; c < z->head_dim; c++)
                dst[i * z->head_dim + c] += part[(rows - 1 - i) * z->head_dim + c];
    }
}

static void relpos_grad_run(const KernelCall *call)
{
    RelposSizes z = relpos_sizes(call);
    Gradient sizes;
    int64_t n_floats = gradient_layout(&z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Gradient g;
        int64_t begin, end;
        gradient_layout(&z, (float *)call->scratch + t * n_floats, &g);
        relpos_load_tables(call, &z, &g.head);
        set_zero(g.dreversed_h, (2 * z.height - 1) * z.head_dim);
        set_zero(g.dreversed_w, (2 * z.width - 1) * z.head_dim);
        cpu_split(z.images * z.heads, call->n_threads, t, &begin, &end);
        for (int64_t pair = begin; pair < end; pair++)
            gradient_head(call, &z, pair / z.heads, pair % z.heads, &g);
    }
    sum_tables(call, &z, n_floats, true, call->dst[1].data);
    sum_tables(call, &z, n_floats, false, call->dst[2].data);
}

Status cpu_relpos_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    RelposSizes z = relpos_sizes(call);
    Gradient sizes;
    call->run = relpos_grad_run;
    call->scratch_bytes = (size_t)(call->n_threads * gradient_layout(&z, NULL, &sizes)) *
                          sizeof(float);
    return OK;
}
