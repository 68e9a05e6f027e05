/* Attention of SAM's ViT with decomposed relative positions, over windows (14 x 14) and whole maps
 * (64 x 64).
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
#include "kernels/cpu/relpos.h"
#include "kernels/cpu/tile_pairs.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* In bf16 the two large products take pairs of the operands' own numbers: scores are exact but for
 * the order of their sums; probabilities are rounded, the sum that divides them is not. */
typedef struct Pairs {
    float *q;     /* (hd/2, lanes) of a block */
    float *k, *v; /* (tokens, hd/2); pairs of keys (tokens/2, hd) */
    float *p;     /* (RELPOS_KEY_TILE/2, lanes) */
    float *rows;  /* (lanes, hd/2) */
} Pairs;

typedef struct Forward {
    RelposHead head;
    float *out;                    /* (lanes, hd) */
    float *max, *sum, *correction; /* lanes */
    Pairs pairs;                   /* of bf16; head.k and head.v are not filled then */
} Forward;

static bool takes_pairs(const KernelCall *call, const RelposSizes *z)
{
    return call->src[0].dtype == DT_BF16 && z->head_dim % TILE_LANES == 0;
}

static int64_t forward_layout(const RelposSizes *z, bool paired, float *base, Forward *f)
{
    int64_t half = paired ? z->head_dim / 2 : 0, key_pairs = paired ? (z->tokens + 1) / 2 : 0;
    TilePart part[RELPOS_HEAD_PARTS + 9] = {
        [RELPOS_HEAD_PARTS] = {&f->out, z->lanes * z->head_dim},
        {&f->max, z->lanes},
        {&f->sum, z->lanes},
        {&f->correction, z->lanes},
        {&f->pairs.q, half * z->lanes},
        {&f->pairs.k, half * z->tokens},
        {&f->pairs.v, key_pairs * z->head_dim},
        {&f->pairs.p, paired ? RELPOS_KEY_TILE / 2 * z->lanes : 0},
        {&f->pairs.rows, half * z->lanes},
    };
    relpos_head_parts(z, &f->head, part);
    return tile_lay_out(base, part, RELPOS_HEAD_PARTS + 9);
}

/* Element of token `first` of part 0, 1, 2 of a head. */
static const uint16_t *bf16_at(const KernelCall *call, const RelposSizes *z, int64_t n,
                               int64_t part, int64_t h, int64_t first)
{
    return (const uint16_t *)call->src[0].data + relpos_qkv_offset(z, n, part, h) +
           first * z->row_elems;
}

static void copy_rows(const RelposSizes *z, const uint16_t *src, int64_t n, float *pairs)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(pairs + i * z->head_dim / 2, src + i * z->row_elems,
               (size_t)z->head_dim * sizeof *src);
}

static void load_pairs(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                       Forward *f)
{
    TilePair *v = (TilePair *)f->pairs.v;
    copy_rows(z, bf16_at(call, z, n, 1, h, 0), z->tokens, f->pairs.k);
    for (int64_t i = 0; i < z->tokens; i += 2, v += z->head_dim) {
        const uint16_t *first = bf16_at(call, z, n, 2, h, i), *second = first + z->row_elems;
        bool is_last = i + 1 == z->tokens;
        for (int64_t c = 0; c < z->head_dim; c++)
            v[c] = first[c] | (is_last ? 0u : (uint32_t)second[c] << 16);
    }
}

static void load_forward(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                         Forward *f)
{
    if (!takes_pairs(call, z)) {
        relpos_load_head(call, z, n, h, &f->head);
        return;
    }
    tile_gather(&call->src[0], relpos_qkv_offset(z, n, 0, h), z->row_elems, z->tokens, z->head_dim,
                f->head.q);
    load_pairs(call, z, n, h, f);
}

/* The queries of a block as pairs, a lane each. */
static void load_query_pairs(const KernelCall *call, const RelposSizes *z, const RelposBlock *b,
                             int64_t n, int64_t h, Forward *f)
{
    int64_t half = z->head_dim / 2;
    if (b->lanes != b->n) memset(f->pairs.q, 0, (size_t)(half * b->lanes) * sizeof(float));
    copy_rows(z, bf16_at(call, z, n, 0, h, b->first), b->n, f->pairs.rows);
    tile_transpose(b->n, half, f->pairs.rows, half, f->pairs.q, b->lanes);
}

static void score_pairs(const RelposSizes *z, const RelposBlock *b, int64_t first, int64_t n_keys,
                        Forward *f)
{
    int64_t half = z->head_dim / 2;
    tile_pairs_matmul(n_keys, b->lanes, half, (const TilePair *)f->pairs.k + first * half, half,
                      (const TilePair *)f->pairs.q, b->lanes, f->head.s, b->lanes, false);
    relpos_add_positions(z, b, &f->head, first, n_keys, 1.0f / sqrtf((float)z->head_dim));
}

/* out += probabilities * values, for the keys of a tile. */
static void add_values(const RelposSizes *z, const RelposBlock *b, bool paired, int64_t first,
                       int64_t n_keys, Forward *f)
{
    int64_t hd = z->head_dim, lanes = b->lanes;
    const float *s = f->head.s;
    if (!paired) {
        tile_matmul_ta(lanes, hd, n_keys, s, lanes, f->head.v + first * hd, hd, f->out, hd,
                       first > 0);
        return;
    }
    TilePair *p = (TilePair *)f->pairs.p;
    for (int64_t i = 0; i < n_keys; i += 2)
        tile_pair_rows(lanes, s + i * lanes, i + 1 < n_keys ? s + (i + 1) * lanes : NULL,
                       p + i / 2 * lanes);
    tile_pairs_matmul_ta(lanes, hd, (n_keys + 1) / 2, p, lanes,
                         (const TilePair *)f->pairs.v + first / 2 * hd, hd, f->out, hd, first > 0);
}

static void forward_tile(const RelposSizes *z, const RelposBlock *b, bool paired, int64_t first,
                         Forward *f)
{
    int64_t n_keys = tile_min(RELPOS_KEY_TILE, z->tokens - first), hd = z->head_dim;
    if (paired)
        score_pairs(z, b, first, n_keys, f);
    else
        relpos_score_tile(z, b, &f->head, first, n_keys);
    tile_softmax(n_keys, b->lanes, f->head.s, f->max, f->sum, f->correction);
    for (int64_t q = 0; first > 0 && q < b->lanes; q++)
        for (int64_t c = 0; c < hd; c++) f->out[q * hd + c] *= f->correction[q];
    add_values(z, b, paired, first, n_keys, f);
}

static void forward_finish(const KernelCall *call, const RelposSizes *z, const RelposBlock *b,
                           int64_t n, int64_t h, Forward *f)
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

static void forward_block(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                          int64_t row, Forward *f)
{
    bool paired = takes_pairs(call, z);
    RelposBlock b = relpos_start_block(z, row, &f->head);
    if (paired) load_query_pairs(call, z, &b, n, h, f);
    for (int64_t q = 0; q < b.lanes; q++) {
        f->max[q] = -INFINITY;
        f->sum[q] = 0.0f;
    }
    for (int64_t first = 0; first < z->tokens; first += RELPOS_KEY_TILE)
        forward_tile(z, &b, paired, first, f);
    forward_finish(call, z, &b, n, h, f);
}

static void relpos_run(const KernelCall *call)
{
    RelposSizes z = relpos_sizes(call);
    int64_t blocks = (z.height + z.block_rows - 1) / z.block_rows;
    Forward sizes;
    bool paired = takes_pairs(call, &z);
    int64_t n_floats = forward_layout(&z, paired, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Forward f;
        int64_t begin, end, loaded = -1;
        forward_layout(&z, paired, (float *)call->scratch + t * n_floats, &f);
        relpos_load_tables(call, &z, &f.head);
        cpu_split(z.images * z.heads * blocks, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++) {
            int64_t pair = unit / blocks, n = pair / z.heads, h = pair % z.heads;
            if (pair != loaded) load_forward(call, &z, n, h, &f);
            loaded = pair;
            forward_block(call, &z, n, h, unit % blocks * z.block_rows, &f);
        }
    }
}

Status cpu_relpos_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    RelposSizes z = relpos_sizes(call);
    Forward sizes;
    assert(z.heads * z.head_dim * 3 == z.row_elems);
    call->run = relpos_run;
    int64_t n_floats = forward_layout(&z, takes_pairs(call, &z), NULL, &sizes);
    call->scratch_bytes = (size_t)(call->n_threads * n_floats) * sizeof(float);
    return OK;
}
