/* Into how many parts the CUDA kernels divide their sums: numbers that follow from sizes alone, for
 * the kernels that make the parts and for the scratch that holds them (scratch.h). Plain C:
 * included by kernels/cuda and by the program, which plans without a toolkit.
 */
#ifndef RETORT_KERNELS_PLAN_PARTS_H
#define RETORT_KERNELS_PLAN_PARTS_H

#include "base/tensor.h"

enum {
    COLUMN_LANES = 32, /* packs of columns that a block handles */
    COLUMN_MAX_PARTS = 256,
    COLUMN_WANTED_BLOCKS = 1024,
    COLUMN_MIN_ROWS = 64, /* of a part, so that a block is worth its start */
    SUM_THREADS = 256,
    SUM_PER_PART = 32 * SUM_THREADS,
    SUM_MAX_PARTS = 1024,
    STATE_TOKENS = 128,                    /* of a block of linear attention, one per thread .. */
    STATE_PART_TOKENS = 4 * STATE_TOKENS,  /* .. and of a partial state */
    DEPTHWISE_MAX_PARTS = 128,
    FOCAL_BAND = 16, /* rows of a map that a block sums */
    FOCAL_SUMS = 3,
};

/* Blocks of `per_block` items that cover n of them. */
static inline unsigned cuda_blocks(int64_t n, int64_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

/* How a (rows, columns) matrix, `batches` times, is divided; columns in packs of N. */
typedef struct ColumnPlan {
    unsigned batches, rows, columns, rows_per_part, parts;
} ColumnPlan;

static inline ColumnPlan column_plan(int64_t batches, int64_t rows, int64_t columns)
{
    int64_t blocks = batches * cuda_blocks(columns, COLUMN_LANES);
    int64_t parts = cuda_blocks(COLUMN_WANTED_BLOCKS, blocks > 0 ? blocks : 1);
    int64_t most = cuda_blocks(rows, COLUMN_MIN_ROWS);
    if (parts > most) parts = most;
    if (parts > COLUMN_MAX_PARTS) parts = COLUMN_MAX_PARTS;
    if (parts < 1) parts = 1;
    unsigned per_part = cuda_blocks(rows, parts);
    ColumnPlan plan = {(unsigned)batches, (unsigned)rows, (unsigned)columns, per_part,
                       (unsigned)parts};
    return plan;
}

/* Elements of the partial sums of K values per column: (batches, parts, K, columns). */
static inline size_t column_partials(const ColumnPlan *plan, int k)
{
    return (size_t)plan->batches * plan->parts * (size_t)k * plan->columns;
}

/* Parts into which each of `results` sums of n values is divided. */
static inline unsigned sum_parts(int64_t results, int64_t n)
{
    int64_t wanted = cuda_blocks(SUM_MAX_PARTS, results > 0 ? results : 1);
    int64_t most = cuda_blocks(n, SUM_PER_PART);
    if (most < 1) most = 1;
    return (unsigned)(wanted < most ? wanted : most);
}

/* Parts of the gradient of depthwise weights over the rows of all images. */
static inline int depthwise_parts(int64_t images, int64_t rows)
{
    int64_t n = images * rows, most = DEPTHWISE_MAX_PARTS;
    return (int)(n < most ? n : most);
}

/* Elements of a state of linear attention. */
#define STATE_ELEMS(d) (((d) + 1) * (d))

#endif
