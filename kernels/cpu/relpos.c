/* Attention of SAM's ViT with decomposed relative positions, over windows (14 x 14) and whole maps
 * (64 x 64), and its gradient.
 *
 * A thread takes (image, head) pairs and, forward, blocks of map rows of queries; it copies the
 * head's keys and values into contiguous arrays once and then works on tiles of scores as
 * attention.c does: one row per key, one vector lane per query. What positions add to a score
 * depends on the key's row or its column alone, so each block of queries has two small tables, made
 * by products with the relative tables. Those are kept in reverse: then the entries that meet keys
 * 0..H-1 follow one another.
 *
 * source  Li et al., MViTv2 (2022), section 4.1; Kirillov et al., Segment Anything (2023)
 */
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    QUERY_BLOCK = 112, /* tokens, at least one map row: 8 rows of a window of 14, one row of 64 */
    KEY_TILE = 64
};

typedef struct Sizes {
    int64_t images, height, width, heads, head_dim;
    int64_t tokens, row_elems; /* row_elems: 3 heads head_dim, from one token to the next in qkv */
    int64_t block_rows, lanes; /* of a full block of queries */
} Sizes;

static Sizes sizes_of(const KernelCall *call)
{
    const Shape *qkv = &call->src[0].shape;
    Sizes z = {.images = qkv->dim[0],
               .height = qkv->dim[1],
               .width = qkv->dim[2],
               .heads = call->attr->relpos_attention.heads,
               .row_elems = qkv->dim[3]};
    z.head_dim = z.row_elems / 3 / z.heads;
    z.tokens = z.height * z.width;
    z.block_rows = z.width < QUERY_BLOCK ? tile_min(QUERY_BLOCK / z.width, z.height) : 1;
    z.lanes = tile_round(z.block_rows * z.width);
    return z;
}

/* What relative positions along one axis add to the scores of a block of queries. The queries lie
 * at positions [first, first + n) of the axis, so their distances to all keys are extent + n - 1
 * rows of the reversed table, the first of them at `table`. */
typedef struct Axis {
    int64_t extent, n;
    const float *table;
    float *reversed; /* (2 extent - 1, hd): row j is row 2 extent - 2 - j of the operand */
    float *by_key;   /* (extent, lanes) */
} Axis;

/* One thread's copy of a head, and one block of its queries. */
typedef struct Head {
    float *q, *k, *v;   /* (tokens, hd) */
    float *q_lanes;     /* (hd, lanes), scaled for the scores */
    float *by_distance; /* (extent + n - 1, lanes) of either axis */
    float *s;           /* (KEY_TILE, lanes) */
    Axis h, w;
} Head;

/* Queries: `n` tokens from `first` on, whole map rows. */
typedef struct Block {
    int64_t first, n, lanes;
} Block;

enum { HEAD_PARTS = 10 };

static void head_parts(const Sizes *z, Head *head, TilePart part[HEAD_PARTS])
{
    int64_t distances = 2 * (z->height > z->width ? z->height : z->width) - 1;
    const TilePart parts[HEAD_PARTS] = {
        {&head->q, z->tokens * z->head_dim},
        {&head->k, z->tokens * z->head_dim},
        {&head->v, z->tokens * z->head_dim},
        {&head->q_lanes, z->head_dim * z->lanes},
        {&head->by_distance, distances * z->lanes},
        {&head->s, KEY_TILE * z->lanes},
        {&head->h.reversed, (2 * z->height - 1) * z->head_dim},
        {&head->w.reversed, (2 * z->width - 1) * z->head_dim},
        {&head->h.by_key, z->height * z->lanes},
        {&head->w.by_key, z->width * z->lanes},
    };
    memcpy(part, parts, sizeof parts);
}

static void reverse_rows(const float *table, int64_t rows, int64_t cols, float *dst)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(dst + i * cols, table + (rows - 1 - i) * cols, (size_t)cols * sizeof(float));
}

static void load_tables(const KernelCall *call, const Sizes *z, Head *head)
{
    reverse_rows(call->src[1].data, 2 * z->height - 1, z->head_dim, head->h.reversed);
    reverse_rows(call->src[2].data, 2 * z->width - 1, z->head_dim, head->w.reversed);
}

/* Element of the first token's q, k or v (part 0, 1, 2) of a head, in qkv. */
static int64_t qkv_offset(const Sizes *z, int64_t n, int64_t part, int64_t head)
{
    return n * z->tokens * z->row_elems + (part * z->heads + head) * z->head_dim;
}

static void load_head(const KernelCall *call, const Sizes *z, int64_t n, int64_t h, Head *head)
{
    float *to[] = {head->q, head->k, head->v};
    for (int i = 0; i < 3; i++)
        tile_gather(&call->src[0], qkv_offset(z, n, i, h), z->row_elems, z->tokens, z->head_dim,
                    to[i]);
}

static void load_lanes(const Sizes *z, const Block *b, const float *rows, float *dst)
{
    if (b->lanes != b->n) memset(dst, 0, (size_t)(z->head_dim * b->lanes) * sizeof(float));
    tile_transpose(b->n, z->head_dim, rows, z->head_dim, dst, b->lanes);
}

static void set_axis(const Sizes *z, int64_t extent, int64_t first, int64_t n, Axis *axis)
{
    axis->extent = extent;
    axis->n = n;
    axis->table = axis->reversed + (extent - first - n) * z->head_dim;
}

/* Row of by_distance that holds lane q's distance to key 0; key i is i rows further down. Unused
 * lanes get some valid row. */
static int64_t distance_row(const Sizes *z, const Head *head, const Axis *axis, int64_t q)
{
    int64_t position = axis == &head->w ? q % z->width : tile_min(q / z->width, axis->n - 1);
    return axis->n - 1 - position;
}

static void start_axis(const Sizes *z, int64_t lanes, const Head *head, const Axis *axis)
{
    tile_matmul(axis->extent + axis->n - 1, lanes, z->head_dim, axis->table, z->head_dim,
                head->q_lanes, lanes, head->by_distance, lanes, false);
    for (int64_t q = 0; q < lanes; q++) {
        const float *from = head->by_distance + distance_row(z, head, axis, q) * lanes + q;
        for (int64_t key = 0; key < axis->extent; key++)
            axis->by_key[key * lanes + q] = from[key * lanes];
    }
}

/* The lanes of q and both tables of a block that starts at a map row. */
static Block start_block(const Sizes *z, int64_t row, Head *head)
{
    int64_t rows = tile_min(z->block_rows, z->height - row), n = rows * z->width;
    Block b = {row * z->width, n, tile_round(n)};
    load_lanes(z, &b, head->q + b.first * z->head_dim, head->q_lanes);
    set_axis(z, z->height, row, rows, &head->h);
    set_axis(z, z->width, 0, z->width, &head->w);
    start_axis(z, b.lanes, head, &head->h);
    start_axis(z, b.lanes, head, &head->w);
    float scale = 1.0f / sqrtf((float)z->head_dim);
    for (int64_t i = 0; i < z->head_dim * b.lanes; i++) head->q_lanes[i] *= scale;
    return b;
}

/* s (n_keys, lanes) = the scores of keys [first, first + n_keys). */
static void score_tile(const Sizes *z, const Block *b, const Head *head, int64_t first,
                       int64_t n_keys)
{
    tile_matmul(n_keys, b->lanes, z->head_dim, head->k + first * z->head_dim, z->head_dim,
                head->q_lanes, b->lanes, head->s, b->lanes, false);
    for (int64_t i = 0; i < n_keys; i++) {
        int64_t y = (first + i) / z->width, x = (first + i) % z->width;
        const float *from_row = head->h.by_key + y * b->lanes;
        const float *from_column = head->w.by_key + x * b->lanes;
        float *s = head->s + i * b->lanes;
#pragma omp simd
        for (int64_t q = 0; q < b->lanes; q++) s[q] += from_row[q] + from_column[q];
    }
}

/* ---- forward ---- */

typedef struct Forward {
    Head head;
    float *out;                    /* (lanes, hd) */
    float *max, *sum, *correction; /* lanes */
} Forward;

static int64_t forward_layout(const Sizes *z, float *base, Forward *f)
{
    TilePart part[HEAD_PARTS + 4] = {
        [HEAD_PARTS] = {&f->out, z->lanes * z->head_dim},
        {&f->max, z->lanes},
        {&f->sum, z->lanes},
        {&f->correction, z->lanes},
    };
    head_parts(z, &f->head, part);
    return tile_lay_out(base, part, HEAD_PARTS + 4);
}

static void forward_tile(const Sizes *z, const Block *b, int64_t first, Forward *f)
{
    int64_t n_keys = tile_min(KEY_TILE, z->tokens - first), hd = z->head_dim;
    score_tile(z, b, &f->head, first, n_keys);
    tile_softmax(n_keys, b->lanes, f->head.s, f->max, f->sum, f->correction);
    for (int64_t q = 0; first > 0 && q < b->lanes; q++)
        for (int64_t c = 0; c < hd; c++) f->out[q * hd + c] *= f->correction[q];
    tile_matmul_ta(b->lanes, hd, n_keys, f->head.s, b->lanes, f->head.v + first * hd, hd, f->out,
                   hd, first > 0);
}

static void forward_finish(const KernelCall *call, const Sizes *z, const Block *b, int64_t n,
                           int64_t h, Forward *f)
{
    int64_t hd = z->head_dim;
    float *lse = (float *)call->dst[1].data + (n * z->heads + h) * z->tokens + b->first;
    for (int64_t q = 0; q < b->n; q++) {
        float inverse = 1.0f / f->sum[q];
        for (int64_t c = 0; c < hd; c++) f->out[q * hd + c] *= inverse;
        lse[q] = f->max[q] + logf(f->sum[q]);
    }
    int64_t offset = ((n * z->tokens + b->first) * z->heads + h) * hd;
    tile_scatter(&call->dst[0], offset, z->heads * hd, b->n, hd, f->out);
}

static void forward_block(const KernelCall *call, const Sizes *z, int64_t n, int64_t h, int64_t row,
                          Forward *f)
{
    Block b = start_block(z, row, &f->head);
    for (int64_t q = 0; q < b.lanes; q++) {
        f->max[q] = -INFINITY;
        f->sum[q] = 0.0f;
    }
    for (int64_t first = 0; first < z->tokens; first += KEY_TILE) forward_tile(z, &b, first, f);
    forward_finish(call, z, &b, n, h, f);
}

static void relpos_run(const KernelCall *call)
{
    Sizes z = sizes_of(call);
    int64_t blocks = (z.height + z.block_rows - 1) / z.block_rows;
    Forward sizes;
    int64_t n_floats = forward_layout(&z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Forward f;
        int64_t begin, end, loaded = -1;
        forward_layout(&z, (float *)call->scratch + t * n_floats, &f);
        load_tables(call, &z, &f.head);
        cpu_split(z.images * z.heads * blocks, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++) {
            int64_t pair = unit / blocks, n = pair / z.heads, h = pair % z.heads;
            if (pair != loaded) load_head(call, &z, n, h, &f.head);
            loaded = pair;
            forward_block(call, &z, n, h, unit % blocks * z.block_rows, &f);
        }
    }
}

Status cpu_relpos_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    Sizes z = sizes_of(call);
    Forward sizes;
    assert(z.heads * z.head_dim * 3 == z.row_elems);
    call->run = relpos_run;
    call->scratch_bytes = (size_t)(call->n_threads * forward_layout(&z, NULL, &sizes)) *
                          sizeof(float);
    return OK;
}

/* ---- gradient ---- */

typedef struct Gradient {
    Head head;
    float *out, *dout;                /* (tokens, hd) */
    float *dq, *dk, *dv;              /* (tokens, hd) */
    float *dout_lanes;                /* (hd, lanes) */
    float *dp;                        /* (KEY_TILE, lanes) */
    float *lse, *delta;               /* lanes */
    float *d_rows, *d_columns;        /* gradients of h.by_key and w.by_key */
    float *dreversed_h, *dreversed_w; /* sums over all the thread's heads */
} Gradient;

enum { GRADIENT_PARTS = HEAD_PARTS + 13 };

static int64_t gradient_layout(const Sizes *z, float *base, Gradient *g)
{
    int64_t head_elems = z->tokens * z->head_dim;
    TilePart part[GRADIENT_PARTS] = {
        [HEAD_PARTS] = {&g->out, head_elems},
        {&g->dout, head_elems},
        {&g->dq, head_elems},
        {&g->dk, head_elems},
        {&g->dv, head_elems},
        {&g->dout_lanes, z->head_dim * z->lanes},
        {&g->dp, KEY_TILE * z->lanes},
        {&g->lse, z->lanes},
        {&g->delta, z->lanes},
        {&g->d_rows, z->height * z->lanes},
        {&g->d_columns, z->width * z->lanes},
        {&g->dreversed_h, (2 * z->height - 1) * z->head_dim},
        {&g->dreversed_w, (2 * z->width - 1) * z->head_dim},
    };
    head_parts(z, &g->head, part);
    return tile_lay_out(base, part, GRADIENT_PARTS);
}

static void set_zero(float *dst, int64_t n) { memset(dst, 0, (size_t)n * sizeof(float)); }

static void gradient_load(const KernelCall *call, const Sizes *z, int64_t n, int64_t h, Gradient *g)
{
    int64_t hd = z->head_dim, offset = (n * z->tokens * z->heads + h) * hd;
    load_head(call, z, n, h, &g->head);
    tile_gather(&call->src[3], offset, z->heads * hd, z->tokens, hd, g->out);
    tile_gather(&call->src[5], offset, z->heads * hd, z->tokens, hd, g->dout);
    set_zero(g->dk, z->tokens * hd);
    set_zero(g->dv, z->tokens * hd);
}

/* delta = sum over channels of dst * ddst, what the softmax subtracts from each gradient of p. */
static Block gradient_start(const KernelCall *call, const Sizes *z, int64_t n, int64_t h,
                            int64_t row, Gradient *g)
{
    Block b = start_block(z, row, &g->head);
    const float *lse = (const float *)call->src[4].data + (n * z->heads + h) * z->tokens + b.first;
    load_lanes(z, &b, g->dout + b.first * z->head_dim, g->dout_lanes);
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

static void gradient_tile(const Sizes *z, const Block *b, int64_t first, Gradient *g)
{
    int64_t n_keys = tile_min(KEY_TILE, z->tokens - first), hd = z->head_dim, lanes = b->lanes;
    const float *k = g->head.k + first * hd, *q = g->head.q + b->first * hd;
    const float *dout = g->dout + b->first * hd;
    score_tile(z, b, &g->head, first, n_keys);
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
static void gradient_axis(const Sizes *z, const Block *b, const Axis *axis, const float *d_by_key,
                          float *dreversed, Gradient *g)
{
    int64_t hd = z->head_dim, lanes = b->lanes, rows = axis->extent + axis->n - 1;
    float *by_distance = g->head.by_distance;
    set_zero(by_distance, rows * lanes);
    for (int64_t q = 0; q < b->n; q++) {
        float *to = by_distance + distance_row(z, &g->head, axis, q) * lanes + q;
        for (int64_t key = 0; key < axis->extent; key++)
            to[key * lanes] = d_by_key[key * lanes + q];
    }
    float *dtable = dreversed + (axis->table - axis->reversed);
    tile_matmul(rows, hd, b->n, by_distance, lanes, g->head.q + b->first * hd, hd, dtable, hd,
                true);
    tile_matmul_ta(b->n, hd, rows, by_distance, lanes, axis->table, hd, g->dq + b->first * hd, hd,
                   true);
}

static void gradient_block(const KernelCall *call, const Sizes *z, int64_t n, int64_t h,
                           int64_t row, Gradient *g)
{
    Block b = gradient_start(call, z, n, h, row, g);
    float scale = 1.0f / sqrtf((float)z->head_dim);
    for (int64_t first = 0; first < z->tokens; first += KEY_TILE) gradient_tile(z, &b, first, g);
    float *dq = g->dq + b.first * z->head_dim;
    for (int64_t i = 0; i < b.n * z->head_dim; i++) dq[i] *= scale;
    gradient_axis(z, &b, &g->head.h, g->d_rows, g->dreversed_h, g);
    gradient_axis(z, &b, &g->head.w, g->d_columns, g->dreversed_w, g);
}

static void gradient_head(const KernelCall *call, const Sizes *z, int64_t n, int64_t h, Gradient *g)
{
    float scale = 1.0f / sqrtf((float)z->head_dim);
    gradient_load(call, z, n, h, g);
    for (int64_t row = 0; row < z->height; row += z->block_rows)
        gradient_block(call, z, n, h, row, g);
    for (int64_t i = 0; i < z->tokens * z->head_dim; i++) g->dk[i] *= scale;
    const float *from[] = {g->dq, g->dk, g->dv};
    for (int i = 0; i < 3; i++)
        tile_scatter(&call->dst[0], qkv_offset(z, n, i, h), z->row_elems, z->tokens, z->head_dim,
                     from[i]);
}

/* dst = the threads' sums, in order, rows turned round again. */
static void sum_tables(const KernelCall *call, const Sizes *z, int64_t n_floats, bool height,
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
    Sizes z = sizes_of(call);
    Gradient sizes;
    int64_t n_floats = gradient_layout(&z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Gradient g;
        int64_t begin, end;
        gradient_layout(&z, (float *)call->scratch + t * n_floats, &g);
        load_tables(call, &z, &g.head);
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
    Sizes z = sizes_of(call);
    Gradient sizes;
    call->run = relpos_grad_run;
    call->scratch_bytes = (size_t)(call->n_threads * gradient_layout(&z, NULL, &sizes)) *
                          sizeof(float);
    return OK;
}
