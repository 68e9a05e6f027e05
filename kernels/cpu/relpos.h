/* What attention with relative positions and its gradient share: the cut into blocks, a head's
 * copies, and tiles of scores. Called by relpos.c and relpos_grad.c only.
 */
#ifndef RETORT_KERNELS_CPU_RELPOS_H
#define RETORT_KERNELS_CPU_RELPOS_H

#include "kernels/cpu/tile.h"

enum {
    RELPOS_QUERY_BLOCK =
        112, /* tokens, at least one map row: 8 rows of a window of 14, one row of 64 */
    RELPOS_KEY_TILE = 64
};

typedef struct RelposSizes {
    int64_t images, height, width, heads, head_dim;
    int64_t tokens, row_elems; /* row_elems: 3 heads head_dim, from one token to the next in qkv */
    int64_t block_rows, lanes; /* of a full block of queries */
} RelposSizes;

/* What relative positions along one axis add to the scores of a block of queries. The queries lie
 * at positions [first, first + n) of the axis, so their distances to all keys are extent + n - 1
 * rows of the reversed table, the first of them at `table`. */
typedef struct RelposAxis {
    int64_t extent, n;
    const float *table;
    float *reversed; /* (2 extent - 1, hd): row j is row 2 extent - 2 - j of the operand */
    float *by_key;   /* (extent, lanes) */
} RelposAxis;

/* One thread's copy of a head, and one block of its queries. */
typedef struct RelposHead {
    float *q, *k, *v;   /* (tokens, hd) */
    float *q_lanes;     /* (hd, lanes), scaled for the scores */
    float *by_distance; /* (extent + n - 1, lanes) of either axis */
    float *s;           /* (RELPOS_KEY_TILE, lanes) */
    RelposAxis h, w;
} RelposHead;

/* Queries: `n` tokens from `first` on, whole map rows. */
typedef struct RelposBlock {
    int64_t first, n, lanes;
} RelposBlock;

enum { RELPOS_HEAD_PARTS = 10 };

RelposSizes relpos_sizes(const KernelCall *call);

/* relpos_head_parts: the arrays of a head, to be laid out in a thread's scratch. */
void relpos_head_parts(const RelposSizes *z, RelposHead *head, TilePart part[RELPOS_HEAD_PARTS]);
/* relpos_load_tables: both tables of the call, reversed. */
void relpos_load_tables(const KernelCall *call, const RelposSizes *z, RelposHead *head);
/* relpos_qkv_offset: element of the first token's q, k or v (part 0, 1, 2) of a head, in qkv. */
int64_t relpos_qkv_offset(const RelposSizes *z, int64_t n, int64_t part, int64_t head);
/* relpos_load_head: q, k and v of head h of image n. */
void relpos_load_head(const KernelCall *call, const RelposSizes *z, int64_t n, int64_t h,
                      RelposHead *head);

/* relpos_load_lanes: dst (hd, lanes) = rows (n, hd) of a block transposed, 0 in unused lanes. */
void relpos_load_lanes(const RelposSizes *z, const RelposBlock *b, const float *rows, float *dst);
/* relpos_start_block: the lanes of q and both tables of the block that starts at a map row. */
RelposBlock relpos_start_block(const RelposSizes *z, int64_t row, RelposHead *head);
/* relpos_distance_row: row of by_distance that holds lane q's distance to key 0; key i is i rows
 * further down. Unused lanes get some valid row. */
int64_t relpos_distance_row(const RelposSizes *z, const RelposHead *head, const RelposAxis *axis,
                            int64_t q);

/* relpos_score_tile: head->s (n_keys, lanes) = the scores of keys [first, first + n_keys).
 * relpos_add_positions: head->s = scale * s + what positions add to the scores of those keys. */
void relpos_score_tile(const RelposSizes *z, const RelposBlock *b, const RelposHead *head,
                       int64_t first, int64_t n_keys);
void relpos_add_positions(const RelposSizes *z, const RelposBlock *b, const RelposHead *head,
                          int64_t first, int64_t n_keys, float scale);

#endif
