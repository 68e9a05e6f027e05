/* REDUCE_SUM: the adjoint of broadcasting.
 *
 * Called through cpu.c's table. Sums run in f32 over a few dozen values and then in double, so that
 * the gradient of a bias over a million rows keeps its digits. With few results the threads share
 * the rows and leave partial sums in the scratch, which are added in order.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/walk.h"

#include <string.h>

enum { ROWS_PER_SUM = 32 }; /* rows added in f32 before they go to double */

/* The source as `kept` x `reduced` rows. If the innermost axis is kept, rows are added element by
 * element; if not, each block of a row is added up to one number, and blocks count as rows. */
typedef struct Reduction {
    Walk kept, reduced;
    int64_t row;     /* elements of the innermost axis */
    int64_t out_row; /* results per kept row: `row`, or 1 */
    int64_t blocks;  /* per row, of CPU_BLOCK */
    int64_t out_elems;
    int parts; /* among which the reduced rows are divided */
} Reduction;

static void take_axis(Walk *to, const Walk *from, int axis)
{
    to->dim[to->rank] = from->dim[axis];
    to->stride[0][to->rank++] = from->stride[0][axis];
    to->n_rows *= from->dim[axis];
}

static Reduction reduction_make(const KernelCall *call)
{
    Shape shapes[] = {call->src[0].shape, call->dst[0].shape};
    Walk walk = walk_make(shapes[0], 2, shapes);
    Reduction r = {.row = walk.row,
                   .out_row = walk.inner[1] ? walk.row : 1,
                   .blocks = (walk.row + CPU_BLOCK - 1) / CPU_BLOCK};
    r.kept = r.reduced = (Walk){.n_operands = 1, .n_rows = 1};
    for (int i = 0; i < walk.rank; i++)
        take_axis(walk.stride[1][i] ? &r.kept : &r.reduced, &walk, i);
    r.out_elems = r.kept.n_rows * r.out_row;
    int64_t items = r.kept.n_rows * (r.out_row > 1 ? r.blocks : 1);
    r.parts = items >= 4 * call->n_threads ? 1 : call->n_threads;
    return r;
}

static int64_t block_length(int64_t n, int64_t begin)
{
    return n - begin < CPU_BLOCK ? n - begin : CPU_BLOCK;
}

/* sums[0..n) = reduced rows [from, to) at `offset`, column by column. */
static void sum_columns(const Reduction *r, const Tensor *src, int64_t offset, int64_t n,
                        int64_t from, int64_t to, double *sums)
{
    float tmp[CPU_BLOCK], part[CPU_BLOCK];
    WalkAt at = walk_seek(&r->reduced, from);
    memset(sums, 0, (size_t)n * sizeof *sums);
    while (from < to) {
        int64_t stop = from + ROWS_PER_SUM < to ? from + ROWS_PER_SUM : to;
        memset(part, 0, (size_t)n * sizeof *part);
        for (; from < stop; from++, walk_next(&r->reduced, &at)) {
            const float *row = cpu_load(src, offset + at.offset[0], n, tmp);
            for (int64_t i = 0; i < n; i++) part[i] += row[i];
        }
        for (int64_t i = 0; i < n; i++) sums[i] += part[i];
    }
}

/* The sum of blocks [from, to) of the reduced rows at `offset`; the innermost axis is reduced, too.
 */
static double sum_blocks(const Reduction *r, const Tensor *src, int64_t offset, int64_t from,
                         int64_t to)
{
    float tmp[CPU_BLOCK];
    double total = 0;
    for (; from < to; from++) {
        WalkAt at = walk_seek(&r->reduced, from / r->blocks);
        int64_t begin = from % r->blocks * CPU_BLOCK, n = block_length(r->row, begin);
        const float *row = cpu_load(src, offset + at.offset[0] + begin, n, tmp);
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < n; i++) part += row[i];
        total += part;
    }
    return total;
}

static void store_sums(const Tensor *dst, int64_t offset, int64_t n, const double *sums)
{
    float tmp[CPU_BLOCK];
    float *row = cpu_row(dst, offset, tmp);
    for (int64_t i = 0; i < n; i++) row[i] = (float)sums[i];
    cpu_store(dst, offset, n, row);
}

/* One block of results over one part of the reduced rows: into the scratch, or the destination if
 * alone. */
static void reduce_block(const KernelCall *call, const Reduction *r, int64_t kept_row,
                         int64_t block, int part)
{
    double sums[CPU_BLOCK];
    WalkAt at = walk_seek(&r->kept, kept_row);
    bool by_column = r->out_row > 1;
    int64_t begin = block * CPU_BLOCK, n = by_column ? block_length(r->row, begin) : 1, from, to;
    int64_t out = kept_row * r->out_row + begin;
    double *result = r->parts > 1 ? (double *)call->scratch + part * r->out_elems + out : sums;
    cpu_split(r->reduced.n_rows * (by_column ? 1 : r->blocks), r->parts, part, &from, &to);
    if (by_column)
        sum_columns(r, &call->src[0], at.offset[0] + begin, n, from, to, result);
    else
        result[0] = sum_blocks(r, &call->src[0], at.offset[0], from, to);
    if (r->parts == 1) store_sums(&call->dst[0], out, n, result);
}

static void add_parts(const KernelCall *call, const Reduction *r)
{
    double *total = call->scratch;
    for (int part = 1; part < r->parts; part++)
        for (int64_t i = 0; i < r->out_elems; i++) total[i] += total[part * r->out_elems + i];
    for (int64_t i = 0; i < r->out_elems; i += CPU_BLOCK)
        store_sums(&call->dst[0], i, block_length(r->out_elems, i), total + i);
}

static void reduce_sum_run(const KernelCall *call)
{
    Reduction r = reduction_make(call);
    int64_t blocks = r.out_row > 1 ? r.blocks : 1, items = r.kept.n_rows * blocks * r.parts;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        int64_t result = item % (r.kept.n_rows * blocks);
        reduce_block(call, &r, result / blocks, result % blocks,
                     (int)(item / (r.kept.n_rows * blocks)));
    }
    if (r.parts > 1) add_parts(call, &r);
}

Status cpu_reduce_sum(Backend *backend, KernelCall *call)
{
    (void)backend;
    Reduction r = reduction_make(call);
    call->run = reduce_sum_run;
    call->scratch_bytes = r.parts > 1 ? (size_t)(r.parts * r.out_elems) * sizeof(double) : 0;
    return OK;
}
