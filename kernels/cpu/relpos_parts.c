/* Blocks, heads and scores of attention with relative positions. See relpos.h. */
#include "kernels/cpu/relpos.h"

#include <math.h>
#include <string.h>

RelposSizes relpos_sizes(const KernelCall *call)
{
    const Shape *qkv = &call->src[0].shape;
    RelposSizes z = {.images = qkv->dim[0],
                     .height = qkv->dim[1],
                     .width = qkv->dim[2],
                     .heads = call->attr->relpos_attention.heads,
                     .row_elems = qkv->dim[3]};
    z.head_dim = z.row_elems / 3 / z.heads;
    z.tokens = z.height * z.width;
    z.block_rows = z.width < RELPOS_QUERY_BLOCK ? tile_min(RELPOS_QUERY_BLOCK / z.width, z.height)
                                                : 1;
    z.lanes = tile_round(z.block_rows * z.width);
    return z;
}

void relpos_head_parts(const RelposSizes *z, RelposHead *head, TilePart part[RELPOS_HEAD_PARTS])
{
    int64_t distances = 2 * (z->height > z->width ? z->height : z->width) - 1;
    const TilePart parts[RELPOS_HEAD_PARTS] = {
        {&head->q, z->tokens * z->head_dim},
        {&head->k, z->tokens * z->head_dim},
        {&head->v, z->tokens * z->head_dim},
        {&head->q_lanes, z->head_dim * z->lanes},
        {&head->by_distance, distances * z->lanes},
        {&head->s, RELPOS_KEY_TILE * z->lanes},
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

void relpos_load_tables(const KernelCall *call, const RelposSizes *z, RelposHead *head)
{
    reverse_rows(call->src[1].data, 2 * z->height - 1, z->head_dim, head->h.reversed);
    reverse_rows(call->src[2].data, 2 * z->width - 1, z->head_dim, head->w.reversed);
}

int64_t relpos_qkv_offset(const RelposSizes *z, int64_t n, int64_t part, int64_t head)
{
    return n * z->tokens * z->row_elems + (part * z->heads + head) * z->head_dim;
}

void relpos_load_head(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                      RelposHead *head)
{
    float *to[] = {head->q, head->k, head->v};
    for (int i = 0; i < 3; i++)
        tile_gather(&call->src[0], relpos_qkv_offset(z, n, i, h), z->row_elems, z->tokens,
                    z->head_dim, to[i]);
}

void relpos_load_lanes(const RelposSizes *z, const RelposBlock *b, const float *rows, float *dst)
{
    if (b->lanes != b->n) memset(dst, 0, (size_t)(z->head_dim * b->lanes) * sizeof(float));
    tile_transpose(b->n, z->head_dim, rows, z->head_dim, dst, b->lanes);
}

static void set_axis(const RelposSizes *z, int64_t extent, int64_t first, int64_t n,
                     RelposAxis *axis)
{
    axis->extent = extent;
    axis->n = n;
    axis->table = axis->reversed + (extent - first - n) * z->head_dim;
}

int64_t relpos_distance_row(const RelposSizes *z, const RelposHead *head, const RelposAxis *axis,
                            int64_t q)
{
    int64_t position = axis == &head->w ? q % z->width : tile_min(q / z->width, axis->n - 1);
    return axis->n - 1 - position;
}

static void start_axis(const RelposSizes *z, int64_t lanes, const RelposHead *head,
                       const RelposAxis *axis)
{
    tile_matmul(axis->extent + axis->n - 1, lanes, z->head_dim, axis->table, z->head_dim,
                head->q_lanes, lanes, head->by_distance, lanes, false);
    for (int64_t q = 0; q < lanes; q++) {
        const float *from = head->by_distance + relpos_distance_row(z, head, axis, q) * lanes + q;
        for (int64_t key = 0; key < axis->extent; key++)
            axis->by_key[key * lanes + q] = from[key * lanes];
    }
}

RelposBlock relpos_start_block(const RelposSizes *z, int64_t row, RelposHead *head)
{
    int64_t rows = tile_min(z->block_rows, z->height - row), n = rows * z->width;
    RelposBlock b = {row * z->width, n, tile_round(n)};
    relpos_load_lanes(z, &b, head->q + b.first * z->head_dim, head->q_lanes);
    set_axis(z, z->height, row, rows, &head->h);
    set_axis(z, z->width, 0, z->width, &head->w);
    start_axis(z, b.lanes, head, &head->h);
    start_axis(z, b.lanes, head, &head->w);
    float scale = 1.0f / sqrtf((float)z->head_dim);
    for (int64_t i = 0; i < z->head_dim * b.lanes; i++) head->q_lanes[i] *= scale;
    return b;
}

void relpos_add_positions(const RelposSizes *z, const RelposBlock *b, const RelposHead *head,
                          int64_t first, int64_t n_keys, float scale)
{
    for (int64_t i = 0; i < n_keys; i++) {
        int64_t y = (first + i) / z->width, x = (first + i) % z->width;
        const float *from_row = head->h.by_key + y * b->lanes;
        const float *from_column = head->w.by_key + x * b->lanes;
        float *s = head->s + i * b->lanes;
#pragma omp simd
        for (int64_t q = 0; q < b->lanes; q++) s[q] = scale * s[q] + (from_row[q] + from_column[q]);
    }
}

void relpos_score_tile(const RelposSizes *z, const RelposBlock *b, const RelposHead *head,
                       int64_t first, int64_t n_keys)
{
    tile_matmul(n_keys, b->lanes, z->head_dim, head->k + first * z->head_dim, z->head_dim,
                head->q_lanes, b->lanes, head->s, b->lanes, false);
    relpos_add_positions(z, b, head, first, n_keys, 1.0f);
}
