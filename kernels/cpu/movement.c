/* Ops that only move elements: EXPAND, CONCAT, SLICE, PAD, DEPTH_TO_SPACE, SPACE_TO_DEPTH.
 *
 * Called through cpu.c's table. Each is one or a few strided copies: rows of consecutive elements,
 * the rows at a stride on either side.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/walk.h"

#include <string.h>

enum { PIECE_ELEMS = 16384, PARALLEL_MIN_ELEMS = 8192 };

/* Copies n elements; dtypes may differ (sources of a concatenation). */
static void copy_elems(const Tensor *dst, int64_t dst_offset, const Tensor *src, int64_t src_offset,
                       int64_t n)
{
    if (dst->dtype == src->dtype) {
        size_t size = dtype_size(src->dtype);
        memcpy((char *)dst->data + (size_t)dst_offset * size,
               (const char *)src->data + (size_t)src_offset * size, (size_t)n * size);
        return;
    }
    float tmp_src[CPU_BLOCK], tmp_dst[CPU_BLOCK];
    for (int64_t i = 0; i < n; i += CPU_BLOCK) {
        int64_t length = n - i < CPU_BLOCK ? n - i : CPU_BLOCK;
        const float *from = cpu_load(src, src_offset + i, length, tmp_src);
        float *to = cpu_row(dst, dst_offset + i, tmp_dst);
        memcpy(to, from, (size_t)length * sizeof *to);
        cpu_store(dst, dst_offset + i, length, to);
    }
}

static void zero_elems(const Tensor *dst, int64_t offset, int64_t n)
{
    size_t size = dtype_size(dst->dtype);
    memset((char *)dst->data + (size_t)offset * size, 0, (size_t)n * size);
}

/* One side of a strided copy: row i begins at offset + i*stride, in elements. */
typedef struct Rows {
    const Tensor *tensor;
    int64_t offset, stride;
} Rows;

/* Copies `rows` rows of n elements, or clears them if src is NULL. Long rows are cut, so that a few
 * of them keep all threads busy. */
static void move_rows(const KernelCall *call, Rows dst, const Rows *src, int64_t rows, int64_t n)
{
    int64_t pieces = (n + PIECE_ELEMS - 1) / PIECE_ELEMS;
#pragma omp parallel for num_threads(call->n_threads) \
    schedule(static) if (rows * n > PARALLEL_MIN_ELEMS)
    for (int64_t item = 0; item < rows * pieces; item++) {
        int64_t row = item / pieces, begin = item % pieces * PIECE_ELEMS;
        int64_t length = n - begin < PIECE_ELEMS ? n - begin : PIECE_ELEMS;
        int64_t at = dst.offset + row * dst.stride + begin;
        if (src)
            copy_elems(dst.tensor, at, src->tensor, src->offset + row * src->stride + begin,
                       length);
        else
            zero_elems(dst.tensor, at, length);
    }
}

static int64_t elems_before(Shape shape, int axis)
{
    int64_t n = 1;
    for (int i = 0; i < axis; i++) n *= shape.dim[i];
    return n;
}

/* Elements from one index of the axis before `axis` to the next: those of `axis` and all after it.
 */
static int64_t elems_from(Shape shape, int axis)
{
    int64_t n = 1;
    for (int i = axis; i < shape.rank; i++) n *= shape.dim[i];
    return n;
}

/* ---- concat, slice, pad ---- */

static void concat_run(const KernelCall *call)
{
    int axis = call->attr->concat.axis;
    const Tensor *dst = &call->dst[0];
    int64_t rows = elems_before(dst->shape, axis);
    Rows to = {dst, 0, elems_from(dst->shape, axis)};
    for (int i = 0; i < call->n_src; i++) {
        int64_t n = elems_from(call->src[i].shape, axis);
        Rows from = {&call->src[i], 0, n};
        move_rows(call, to, &from, rows, n);
        to.offset += n;
    }
}

static void slice_run(const KernelCall *call)
{
    const SliceAttr *attr = &call->attr->slice;
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t n = elems_from(dst->shape, attr->axis);
    Rows from = {src, attr->start * elems_from(src->shape, attr->axis + 1),
                 elems_from(src->shape, attr->axis)};
    move_rows(call, (Rows){dst, 0, n}, &from, elems_before(dst->shape, attr->axis), n);
}

static void pad_run(const KernelCall *call)
{
    const PadAttr *attr = &call->attr->pad;
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t rows = elems_before(dst->shape, attr->axis),
            unit = elems_from(dst->shape, attr->axis + 1);
    int64_t n = elems_from(src->shape, attr->axis), stride = elems_from(dst->shape, attr->axis);
    int64_t before = attr->before * unit, after = attr->after * unit;
    Rows from = {src, 0, n};
    move_rows(call, (Rows){dst, 0, stride}, NULL, rows, before);
    move_rows(call, (Rows){dst, before, stride}, &from, rows, n);
    move_rows(call, (Rows){dst, before + n, stride}, NULL, rows, after);
}

/* ---- expand ---- */

/* Copies element 0 over n elements by doubling what is there. */
static void repeat_element(char *dst, const char *src, size_t size, int64_t n)
{
    size_t done = size, total = size * (size_t)n;
    memcpy(dst, src, size);
    while (done < total) {
        size_t next = done < total - done ? done : total - done;
        memcpy(dst + done, dst, next);
        done += next;
    }
}

static void expand_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    Walk walk = walk_make(dst->shape, 1, &src->shape);
    size_t size = dtype_size(src->dtype);
    if (shape_elems(dst->shape) == 0) return;
#pragma omp parallel for num_threads(call->n_threads) \
    schedule(static) if (walk.n_rows * walk.row > PARALLEL_MIN_ELEMS)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t row, end;
        cpu_split(walk.n_rows, call->n_threads, t, &row, &end);
        WalkAt at = walk_seek(&walk, row);
        for (; row < end; row++, walk_next(&walk, &at)) {
            char *to = (char *)dst->data + (size_t)(row * walk.row) * size;
            const char *from = (const char *)src->data + (size_t)at.offset[0] * size;
            if (walk.inner[0])
                memcpy(to, from, (size_t)walk.row * size);
            else
                repeat_element(to, from, size, walk.row);
        }
    }
}

/* ---- depth to space ---- */

/* A row of `deep` (N,H,W,r*r*C), taken at one of its r sub-rows a, is W runs of r*C elements at a
 * stride of r*r*C; in `wide` (N,rH,rW,C) they lie one after the other. */
static void exchange_blocks(const KernelCall *call, const Tensor *deep, const Tensor *wide,
                            int64_t r, bool to_wide)
{
    int64_t width = deep->shape.dim[2], run = deep->shape.dim[3] / r;
    int64_t sub_rows = deep->shape.dim[0] * deep->shape.dim[1] * r;
#pragma omp parallel for num_threads(call->n_threads) \
    schedule(static) if (sub_rows * width * run > PARALLEL_MIN_ELEMS)
    for (int64_t sub = 0; sub < sub_rows; sub++) {
        int64_t deep_at = sub / r * width * run * r + sub % r * run, wide_at = sub * width * run;
        for (int64_t x = 0; x < width; x++, deep_at += run * r, wide_at += run) {
            if (to_wide)
                copy_elems(wide, wide_at, deep, deep_at, run);
            else
                copy_elems(deep, deep_at, wide, wide_at, run);
        }
    }
}

static void depth_to_space_run(const KernelCall *call)
{
    exchange_blocks(call, &call->src[0], &call->dst[0], call->attr->depth_to_space.block, true);
}

static void space_to_depth_run(const KernelCall *call)
{
    exchange_blocks(call, &call->dst[0], &call->src[0], call->attr->space_to_depth.block, false);
}

CPU_BIND(concat)
CPU_BIND(slice)
CPU_BIND(pad)
CPU_BIND(expand)
CPU_BIND(depth_to_space)
CPU_BIND(space_to_depth)
