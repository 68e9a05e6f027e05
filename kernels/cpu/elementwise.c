/* Elementwise ops: ADD, ACT, ACT_GRAD, FILL, ACCUM, COPY, CAST.
 *
 * Called through cpu.c's table. All of it is bound by memory: every thread passes over its part
 * once, in blocks that stay in the first cache level between load, arithmetic and store.
 */
#include "kernels/comm/all_reduce.h"
#include "kernels/cpu/activation.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/walk.h"

#include <string.h>

enum { PARALLEL_MIN_ELEMS = 8192 }; /* below, waking the threads costs more than the work */

static int64_t n_blocks(int64_t n) { return (n + CPU_BLOCK - 1) / CPU_BLOCK; }
static int64_t block_length(int64_t n, int64_t begin)
{
    return n - begin < CPU_BLOCK ? n - begin : CPU_BLOCK;
}

/* ---- add ---- */

static void add_rows(int64_t n, const float *a, const float *b, float *dst)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) dst[i] = a[i] + b[i];
}

static void add_value(int64_t n, const float *a, float value, float *dst)
{
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) dst[i] = a[i] + value;
}

/* One block of one row; an operand that is broadcast inside the row is a single value. */
static void add_block(const KernelCall *call, const Walk *walk, const WalkAt *at,
                      int64_t dst_offset, int64_t begin, int64_t n)
{
    const Tensor *a = &call->src[0], *b = &call->src[1], *dst = &call->dst[0];
    float tmp_a[CPU_BLOCK], tmp_b[CPU_BLOCK], tmp_dst[CPU_BLOCK];
    const float *row_a = cpu_load(a, at->offset[0] + begin * walk->inner[0], walk->inner[0] ? n : 1,
                                  tmp_a);
    const float *row_b = cpu_load(b, at->offset[1] + begin * walk->inner[1], walk->inner[1] ? n : 1,
                                  tmp_b);
    float *row = cpu_row(dst, dst_offset + begin, tmp_dst);
    if (walk->inner[0] && walk->inner[1])
        add_rows(n, row_a, row_b, row);
    else if (walk->inner[0])
        add_value(n, row_a, row_b[0], row);
    else
        add_value(n, row_b, row_a[0], row);
    cpu_store(dst, dst_offset + begin, n, row);
}

/* Threads take ranges of blocks of the rows in order, so that one long row is shared, too. */
static void add_run(const KernelCall *call)
{
    Shape shapes[] = {call->src[0].shape, call->src[1].shape};
    Walk walk = walk_make(call->dst[0].shape, 2, shapes);
    int64_t per_row = n_blocks(walk.row), total = walk.n_rows * per_row;
#pragma omp parallel for num_threads(call->n_threads) \
    schedule(static) if (walk.n_rows * walk.row > PARALLEL_MIN_ELEMS)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t item, end;
        cpu_split(total, call->n_threads, t, &item, &end);
        WalkAt at = walk_seek(&walk, per_row ? item / per_row : 0);
        for (; item < end; item++) {
            int64_t block = item % per_row, begin = block * CPU_BLOCK;
            add_block(call, &walk, &at, item / per_row * walk.row, begin,
                      block_length(walk.row, begin));
            if (block == per_row - 1) walk_next(&walk, &at);
        }
    }
}

/* ---- ops on flat tensors ---- */

/* Applies `kernel` to blocks of n elements at `offset`, over all threads. */
static void for_blocks(const KernelCall *call, int64_t n,
                       void (*kernel)(const KernelCall *call, int64_t offset, int64_t n))
{
#pragma omp parallel for num_threads(call->n_threads) schedule(static) if (n > PARALLEL_MIN_ELEMS)
    for (int64_t block = 0; block < n_blocks(n); block++)
        kernel(call, block * CPU_BLOCK, block_length(n, block * CPU_BLOCK));
}

static void act_block(const KernelCall *call, int64_t offset, int64_t n)
{
    float tmp_src[CPU_BLOCK], tmp_dst[CPU_BLOCK];
    const float *x = cpu_load(&call->src[0], offset, n, tmp_src);
    float *y = cpu_row(&call->dst[0], offset, tmp_dst);
    activation_row(call->attr->act.kind, n, x, y);
    cpu_store(&call->dst[0], offset, n, y);
}

static void act_grad_block(const KernelCall *call, int64_t offset, int64_t n)
{
    float tmp_src[CPU_BLOCK], tmp_ddst[CPU_BLOCK], tmp_dsrc[CPU_BLOCK];
    const float *x = cpu_load(&call->src[0], offset, n, tmp_src);
    const float *dy = cpu_load(&call->src[1], offset, n, tmp_ddst);
    float *dx = cpu_row(&call->dst[0], offset, tmp_dsrc);
    activation_grad_row(call->attr->act_grad.kind, n, x, dy, dx);
    cpu_store(&call->dst[0], offset, n, dx);
}

static void fill_block(const KernelCall *call, int64_t offset, int64_t n)
{
    float *dst = (float *)call->dst[0].data + offset, value = (float)call->attr->fill.value;
    for (int64_t i = 0; i < n; i++) dst[i] = value;
}

static void accum_block(const KernelCall *call, int64_t offset, int64_t n)
{
    float tmp[CPU_BLOCK];
    float *acc = (float *)call->dst[0].data + offset;
    add_rows(n, acc, cpu_load(&call->src[0], offset, n, tmp), acc);
}

static void cast_block(const KernelCall *call, int64_t offset, int64_t n)
{
    float tmp_src[CPU_BLOCK], tmp_dst[CPU_BLOCK];
    const float *src = cpu_load(&call->src[0], offset, n, tmp_src);
    float *dst = cpu_row(&call->dst[0], offset, tmp_dst);
    if (call->dst[0].dtype == DT_F32)
        memmove(dst, src, (size_t)n * sizeof *dst);
    else
        cpu_store(&call->dst[0], offset, n, src);
}

static void copy_block(const KernelCall *call, int64_t offset, int64_t n)
{
    size_t size = dtype_size(call->src[0].dtype), at_bytes = (size_t)offset * size;
    memmove((char *)call->dst[0].data + at_bytes, (const char *)call->src[0].data + at_bytes,
            (size_t)n * size);
}

static int64_t dst_elems(const KernelCall *call) { return shape_elems(call->dst[0].shape); }
static void act_run(const KernelCall *call) { for_blocks(call, dst_elems(call), act_block); }
static void act_grad_run(const KernelCall *call)
{
    for_blocks(call, dst_elems(call), act_grad_block);
}
static void fill_run(const KernelCall *call) { for_blocks(call, dst_elems(call), fill_block); }
static void accum_run(const KernelCall *call) { for_blocks(call, dst_elems(call), accum_block); }
static void cast_run(const KernelCall *call) { for_blocks(call, dst_elems(call), cast_block); }
static void copy_run(const KernelCall *call) { for_blocks(call, dst_elems(call), copy_block); }

CPU_BIND(add)
CPU_BIND(act)
CPU_BIND(act_grad)
CPU_BIND(fill)

Status cpu_all_reduce(Backend *backend, KernelCall *call)
{
    call->state = backend->comm;
    call->run = all_reduce_run;
    return OK;
}

Status cpu_all_reduce_wait(Backend *backend, KernelCall *call)
{
    call->state = backend->comm;
    call->run = all_reduce_wait_run;
    return OK;
}

Status cpu_rank_gather(Backend *backend, KernelCall *call)
{
    call->state = backend->comm;
    call->run = rank_gather_run;
    return OK;
}

Status cpu_rank_scatter(Backend *backend, KernelCall *call)
{
    call->state = backend->comm;
    call->run = rank_scatter_run;
    call->scratch_bytes = rank_scatter_bytes(call);
    return OK;
}

CPU_BIND(accum)
CPU_BIND(cast)
CPU_BIND(copy)
