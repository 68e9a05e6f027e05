/* Ops that only move data: CONCAT, SLICE, PAD, COPY, DEPTH_TO_SPACE, SPACE_TO_DEPTH,
 * WINDOW_PARTITION, WINDOW_UNPARTITION, PICK_CANDIDATE.
 *
 * One kernel for all: dst[map.dst(i)] = src[map.src(i)], or zero where the map has no source. It
 * moves units of 2 to 16 bytes, the largest in which all runs and addresses can be counted, and
 * never looks at a value, so one kernel serves every dtype.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/storage.cuh"

enum { NO_SOURCE = -1 };

/* Where item i of a move comes from and goes to, in units. */
typedef struct Place {
    int src, dst;
} Place;

template <typename Unit, class Map>
static __global__ void move_kernel(Unit *dst, const Unit *src, Map map, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        Place place = map.place(i);
        dst[place.dst] = place.src == NO_SOURCE ? Unit() : src[place.src];
    }
}

/* ---- units ---- */

/* The largest of 16, 8, 4, 2 and 1 bytes that divides a number of bytes. */
static size_t unit_of(size_t bytes)
{
    size_t unit = 16;
    while (bytes % unit != 0) unit /= 2;
    return unit;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Units in which runs of `run` elements can move between these addresses. */
static size_t move_unit(const Tensor *dst, const Tensor *src, int64_t run)
{
    size_t unit = unit_of((size_t)run * dtype_size(dst->dtype));
    unit = smaller(unit, unit_of((size_t)(uintptr_t)dst->data));
    return smaller(unit, unit_of((size_t)(uintptr_t)src->data));
}

/* Elements to units of `unit` bytes. */
static unsigned in_units(const Tensor *tensor, int64_t elems, size_t unit)
{
    return (unsigned)((size_t)elems * dtype_size(tensor->dtype) / unit);
}

template <class Map>
static void move(const KernelCall *call, const Tensor *dst, const Tensor *src, size_t unit,
                 const Map &map, unsigned n)
{
    if (n == 0) return;
    unsigned blocks = flat_blocks(n);
    switch (unit) {
    case 16:
        LAUNCH(call, (move_kernel<int4, Map>), blocks, FLAT_THREADS, 0, (int4 *)dst->data,
               (const int4 *)src->data, map, n);
        break;
    case 8:
        LAUNCH(call, (move_kernel<int2, Map>), blocks, FLAT_THREADS, 0, (int2 *)dst->data,
               (const int2 *)src->data, map, n);
        break;
    case 4:
        LAUNCH(call, (move_kernel<int, Map>), blocks, FLAT_THREADS, 0, (int *)dst->data,
               (const int *)src->data, map, n);
        break;
    case 2:
        LAUNCH(call, (move_kernel<short, Map>), blocks, FLAT_THREADS, 0, (short *)dst->data,
               (const short *)src->data, map, n);
        break;
    default:
        LAUNCH(call, (move_kernel<char, Map>), blocks, FLAT_THREADS, 0, (char *)dst->data,
               (const char *)src->data, map, n);
    }
}

/* ---- runs: concat, slice, pad, copy ---- */

/* A shape seen from one axis: `outer` runs of axis * inner elements. */
typedef struct AxisView {
    int64_t outer, inner, run;
} AxisView;

static AxisView axis_view(Shape shape, int axis)
{
    AxisView view = {1, 1, 0};
    for (int i = 0; i < axis; i++) view.outer *= shape.dim[i];
    for (int i = axis + 1; i < shape.rank; i++) view.inner *= shape.dim[i];
    view.run = shape.dim[axis] * view.inner;
    return view;
}

/* Item i is number i % run of run i / run; source and destination have pitches of their own. */
struct RunMap {
    unsigned run, src_pitch, dst_pitch, src_start, dst_start;
    __device__ Place place(unsigned i) const
    {
        unsigned row = i / run, at = i % run;
        return {(int)(row * src_pitch + src_start + at), (int)(row * dst_pitch + dst_start + at)};
    }
};

static void concat_run(const KernelCall *call)
{
    const Tensor *dst = &call->dst[0];
    AxisView to = axis_view(dst->shape, call->attr->concat.axis);
    int64_t start = 0;
    for (int i = 0; i < call->n_src; i++) {
        const Tensor *src = &call->src[i];
        int64_t run = axis_view(src->shape, call->attr->concat.axis).run;
        size_t unit = smaller(move_unit(dst, src, run), move_unit(dst, src, to.run));
        unit = smaller(unit, move_unit(dst, src, start));
        RunMap map = {in_units(src, run, unit), in_units(src, run, unit),
                      in_units(dst, to.run, unit), 0, in_units(dst, start, unit)};
        move(call, dst, src, unit, map, in_units(src, shape_elems(src->shape), unit));
        start += run;
    }
}

CUDA_BIND(concat)

static void slice_run(const KernelCall *call)
{
    const SliceAttr *attr = &call->attr->slice;
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    AxisView from = axis_view(src->shape, attr->axis);
    int64_t run = attr->length * from.inner, start = attr->start * from.inner;
    size_t unit = smaller(move_unit(dst, src, run), move_unit(dst, src, from.run));
    unit = smaller(unit, move_unit(dst, src, start));
    RunMap map = {in_units(dst, run, unit), in_units(src, from.run, unit), in_units(dst, run, unit),
                  in_units(src, start, unit), 0};
    move(call, dst, src, unit, map, in_units(dst, shape_elems(dst->shape), unit));
}

CUDA_BIND(slice)

/* All of the destination's items; those outside [start, start + src_run) of a run are zero. */
struct PadMap {
    unsigned run, src_run, start;
    __device__ Place place(unsigned i) const
    {
        unsigned row = i / run, at = i % run - start; /* wraps around in front of the start */
        return {at < src_run ? (int)(row * src_run + at) : NO_SOURCE, (int)i};
    }
};

static void pad_run(const KernelCall *call)
{
    const PadAttr *attr = &call->attr->pad;
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    AxisView from = axis_view(src->shape, attr->axis), to = axis_view(dst->shape, attr->axis);
    int64_t start = attr->before * to.inner;
    size_t unit = smaller(move_unit(dst, src, from.run), move_unit(dst, src, to.run));
    unit = smaller(unit, move_unit(dst, src, start));
    PadMap map = {in_units(dst, to.run, unit), in_units(src, from.run, unit),
                  in_units(dst, start, unit)};
    move(call, dst, src, unit, map, in_units(dst, shape_elems(dst->shape), unit));
}

CUDA_BIND(pad)

static void copy_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t n = shape_elems(dst->shape);
    size_t unit = move_unit(dst, src, n);
    unsigned run = in_units(dst, n, unit);
    move(call, dst, src, unit, RunMap{run, run, run, 0, 0}, run);
}

CUDA_BIND(copy)

/* ---- blocks of pixels ---- */

/* Items of a pixel's channels: the packed side is (N,H,W,block,block,C), the spread one
 * (N,H,block,W,block,C); item i counts through the spread side. */
struct BlockMap {
    unsigned channels, block, width; /* width: of the packed side */
    bool to_depth;
    __device__ Place place(unsigned i) const
    {
        unsigned channel = i % channels, at = i / channels;
        unsigned b = at % block, x = at / block % width;
        unsigned row = at / block / width; /* of the spread side, through all images */
        unsigned packed = (((row / block * width + x) * block + row % block) * block + b) *
                          channels;
        int packed_at = (int)(packed + channel);
        return to_depth ? Place{(int)i, packed_at} : Place{packed_at, (int)i};
    }
};

static void move_blocks(const KernelCall *call, Shape packed, Shape spread, int64_t block,
                        bool to_depth)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t unit = move_unit(dst, src, spread.dim[3]);
    BlockMap map = {in_units(dst, spread.dim[3], unit), (unsigned)block, (unsigned)packed.dim[2],
                    to_depth};
    move(call, dst, src, unit, map, in_units(dst, shape_elems(dst->shape), unit));
}

static void depth_to_space_run(const KernelCall *call)
{
    move_blocks(call, call->src[0].shape, call->dst[0].shape, call->attr->depth_to_space.block,
                false);
}

static void space_to_depth_run(const KernelCall *call)
{
    move_blocks(call, call->dst[0].shape, call->src[0].shape, call->attr->space_to_depth.block,
                true);
}

CUDA_BIND(depth_to_space)
CUDA_BIND(space_to_depth)

/* ---- windows ---- */

/* A map (N,height,width,C) and its windows (N*rows*cols,window,window,C). */
struct WindowMap {
    unsigned channels, window, height, width, rows, cols;
    bool partition;
    /* of the windows' item i: its pixel in the map, or none outside */
    __device__ Place in_map(unsigned i) const
    {
        unsigned channel = i % channels, at = i / channels;
        unsigned x = at % window, y = at / window % window, w = at / window / window;
        x += w % cols * window;
        y += w / cols % rows * window;
        unsigned n = w / cols / rows;
        bool inside = x < width && y < height;
        return {inside ? (int)(((n * height + y) * width + x) * channels + channel) : NO_SOURCE,
                (int)i};
    }
    /* of the map's item i: its place in the windows */
    __device__ Place in_windows(unsigned i) const
    {
        unsigned channel = i % channels, at = i / channels;
        unsigned x = at % width, y = at / width % height, n = at / width / height;
        unsigned w = (n * rows + y / window) * cols + x / window;
        unsigned pixel = (w * window + y % window) * window + x % window;
        return {(int)(pixel * channels + channel), (int)i};
    }
    __device__ Place place(unsigned i) const { return partition ? in_map(i) : in_windows(i); }
};

static void move_windows(const KernelCall *call, const WindowAttr *attr, bool partition)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t unit = move_unit(dst, src, src->shape.dim[3]);
    WindowMap map = {in_units(dst, src->shape.dim[3], unit),
                     (unsigned)attr->window,
                     (unsigned)attr->height,
                     (unsigned)attr->width,
                     cuda_blocks(attr->height, attr->window),
                     cuda_blocks(attr->width, attr->window),
                     partition};
    move(call, dst, src, unit, map, in_units(dst, shape_elems(dst->shape), unit));
}

static void window_partition_run(const KernelCall *call)
{
    move_windows(call, &call->attr->window_partition, true);
}

static void window_unpartition_run(const KernelCall *call)
{
    move_windows(call, &call->attr->window_unpartition, false);
}

CUDA_BIND(window_partition)
CUDA_BIND(window_unpartition)

/* ---- the best candidate's map ---- */

struct PickMap {
    const int *best;
    unsigned candidates, elems; /* of a map, in units */
    __device__ Place place(unsigned i) const
    {
        unsigned prompt = i / elems, map = prompt * candidates + (unsigned)best[prompt];
        return {(int)(map * elems + i % elems), (int)i};
    }
};

static void pick_candidate_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t elems = src->shape.dim[3] * src->shape.dim[4];
    size_t unit = move_unit(dst, src, elems);
    PickMap map = {(const int *)call->src[1].data, (unsigned)src->shape.dim[2],
                   in_units(dst, elems, unit)};
    move(call, dst, src, unit, map, in_units(dst, shape_elems(dst->shape), unit));
}

CUDA_BIND(pick_candidate)
