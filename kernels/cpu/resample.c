/* Resizing of maps, windows and back, and the positional code of a grid.
 *
 * Resizing is separable: rows are mixed first, then pixels within the mixed row, always along the
 * channels, which are contiguous. The transposed map gathers as well: each source row sums the
 * destination rows that read it, so that threads share rows and nothing is added twice.
 *
 * source  torch.nn.functional.interpolate, align_corners=False
 */
#include "kernels/cpu/tile.h"
#include "kernels/cpu/turns.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MAX_TAPS = 4 };

/* What one destination index reads: up to four source indices and their weights. */
typedef struct Taps {
    int32_t index[MAX_TAPS];
    float weight[MAX_TAPS];
} Taps;

static int32_t clamp_index(double index, int64_t n)
{
    if (index < 0) return 0;
    return index > (double)(n - 1) ? (int32_t)(n - 1) : (int32_t)index;
}

static void bilinear_taps(double position, int64_t n, Taps *taps)
{
    double clamped = position < 0 ? 0 : position, floor_at = floor(clamped);
    float t = (float)(clamped - floor_at);
    taps->index[0] = clamp_index(floor_at, n);
    taps->index[1] = clamp_index(floor_at + 1, n);
    taps->weight[0] = 1.0f - t;
    taps->weight[1] = t;
}

/* The two pieces of the cubic with a = -0.75, for |x| <= 1 and for 1 < |x| < 2. */
static double cubic_near(double x) { return (1.25 * x - 2.25) * x * x + 1.0; }
static double cubic_far(double x) { return ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0; }

/* Cubic convolution; the source is not clamped, the taps are. */
static void bicubic_taps(double position, int64_t n, Taps *taps)
{
    double floor_at = floor(position), t = position - floor_at;
    double weight[MAX_TAPS] = {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t),
                               cubic_far(2 - t)};
    for (int i = 0; i < MAX_TAPS; i++) {
        taps->index[i] = clamp_index(floor_at - 1 + i, n);
        taps->weight[i] = (float)weight[i];
    }
}

static int n_taps(ResizeMode mode) { return mode == RESIZE_BILINEAR ? 2 : 4; }

static void make_taps(ResizeMode mode, int64_t n_src, int64_t n_dst, Taps *taps)
{
    double ratio = (double)n_src / (double)n_dst;
    for (int64_t i = 0; i < n_dst; i++) {
        double position = ((double)i + 0.5) * ratio - 0.5;
        if (mode == RESIZE_BILINEAR)
            bilinear_taps(position, n_src, &taps[i]);
        else
            bicubic_taps(position, n_src, &taps[i]);
    }
}

/* The maps have the names of the forward direction, whichever runs: src is what is resized. */
typedef struct Resize {
    ResizeMode mode;
    int64_t images, src_h, src_w, dst_h, dst_w, channels;
    Taps *rows, *columns; /* dst_h, dst_w of them, at the start of the scratch */
    float *buffers;       /* then per thread: a mixed row, a converted row, a result row */
    int64_t buffer_floats;
} Resize;

static Resize resize_of(const KernelCall *call, bool gradient)
{
    const Shape *src = &(gradient ? call->dst : call->src)[0].shape;
    const Shape *dst = &(gradient ? call->src : call->dst)[0].shape;
    Resize z = {.mode = call->attr->resize.mode,
                .images = src->dim[0],
                .channels = src->dim[3],
                .src_h = src->dim[1],
                .src_w = src->dim[2],
                .dst_h = dst->dim[1],
                .dst_w = dst->dim[2]};
    int64_t wider = z.src_w > z.dst_w ? z.src_w : z.dst_w;
    z.buffer_floats = tile_round(3 * wider * z.channels);
    z.rows = call->scratch;
    z.columns = z.rows + z.dst_h;
    z.buffers = (float *)((char *)call->scratch +
                          (size_t)tile_round(z.dst_h + z.dst_w) * sizeof(Taps));
    return z;
}

static size_t resize_scratch_bytes(const KernelCall *call, const Resize *z)
{
    return (size_t)tile_round(z->dst_h + z->dst_w) * sizeof(Taps) +
           (size_t)(call->n_threads * z->buffer_floats) * sizeof(float);
}

/* dst += or = factor * src */
static void mix(int64_t n, float factor, const float *restrict src, float *restrict dst,
                bool accumulate)
{
    if (accumulate) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) dst[i] += factor * src[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) dst[i] = factor * src[i];
    }
}

static void resize_row(const KernelCall *call, const Resize *z, int64_t unit, float *buffer)
{
    int64_t n = unit / z->dst_h, y = unit % z->dst_h, c = z->channels;
    int64_t n_src = z->src_w * c, n_dst = z->dst_w * c;
    float *mixed = buffer, *copy = mixed + n_src, *out = copy + n_src;
    const Taps *taps = &z->rows[y];
    for (int i = 0; i < n_taps(z->mode); i++) {
        const float *row = tile_load(&call->src[0], (n * z->src_h + taps->index[i]) * n_src, n_src,
                                     copy);
        mix(n_src, taps->weight[i], row, mixed, i > 0);
    }
    if (call->dst[0].dtype == DT_F32) out = (float *)call->dst[0].data + unit * n_dst;
    for (int64_t x = 0; x < z->dst_w; x++) {
        const Taps *column = &z->columns[x];
        for (int i = 0; i < n_taps(z->mode); i++)
            mix(c, column->weight[i], mixed + column->index[i] * c, out + x * c, i > 0);
    }
    tile_store(&call->dst[0], unit * n_dst, n_dst, out);
}

static void resize_grad_row(const KernelCall *call, const Resize *z, int64_t unit, float *buffer)
{
    int64_t n = unit / z->src_h, y = unit % z->src_h, c = z->channels;
    int64_t n_src = z->src_w * c, n_dst = z->dst_w * c;
    float *mixed = buffer, *copy = mixed + n_dst, *out = copy + n_dst;
    memset(mixed, 0, (size_t)n_dst * sizeof(float));
    for (int64_t from = 0; from < z->dst_h; from++) {
        for (int i = 0; i < n_taps(z->mode); i++) {
            if (z->rows[from].index[i] != y) continue;
            const float *row = tile_load(&call->src[0], (n * z->dst_h + from) * n_dst, n_dst, copy);
            mix(n_dst, z->rows[from].weight[i], row, mixed, true);
        }
    }
    if (call->dst[0].dtype == DT_F32) out = (float *)call->dst[0].data + unit * n_src;
    memset(out, 0, (size_t)n_src * sizeof(float));
    for (int64_t x = 0; x < z->dst_w; x++) {
        const Taps *column = &z->columns[x];
        for (int i = 0; i < n_taps(z->mode); i++)
            mix(c, column->weight[i], mixed + x * c, out + column->index[i] * c, true);
    }
    tile_store(&call->dst[0], unit * n_src, n_src, out);
}

static void run_rows(const KernelCall *call, bool gradient)
{
    Resize z = resize_of(call, gradient);
    int64_t n_rows = z.images * (gradient ? z.src_h : z.dst_h);
    make_taps(z.mode, z.src_h, z.dst_h, z.rows);
    make_taps(z.mode, z.src_w, z.dst_w, z.columns);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        float *buffer = z.buffers + t * z.buffer_floats;
        int64_t begin, end;
        cpu_split(n_rows, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++) {
            if (gradient)
                resize_grad_row(call, &z, unit, buffer);
            else
                resize_row(call, &z, unit, buffer);
        }
    }
}

static void resize_run(const KernelCall *call) { run_rows(call, false); }
static void resize_grad_run(const KernelCall *call) { run_rows(call, true); }

static Status bind_resize(KernelCall *call, bool gradient)
{
    Resize z = resize_of(call, gradient);
    call->run = gradient ? resize_grad_run : resize_run;
    call->scratch_bytes = resize_scratch_bytes(call, &z);
    return OK;
}

Status cpu_resize(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_resize(call, false);
}

Status cpu_resize_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_resize(call, true);
}

/* ---- windows ---- */

typedef struct Windows {
    int64_t side, rows, columns, height, width; /* rows, columns: of windows */
    size_t pixel_bytes;
} Windows;

static Windows windows_of(const KernelCall *call)
{
    const WindowAttr *attr = &call->attr->window_partition;
    int64_t side = attr->window;
    assert(call->src[0].dtype == call->dst[0].dtype);
    return (Windows){.side = side,
                     .rows = (attr->height + side - 1) / side,
                     .columns = (attr->width + side - 1) / side,
                     .height = attr->height,
                     .width = attr->width,
                     .pixel_bytes = (size_t)call->src[0].shape.dim[3] *
                                    dtype_size(call->src[0].dtype)};
}

/* Pixels of the map in row `y` of window `column`, from its first column on; 0 below or beyond the
 * map. */
static int64_t pixels_inside(const Windows *w, int64_t y, int64_t column)
{
    if (y >= w->height) return 0;
    return tile_min(w->side, w->width - column * w->side);
}

/* One row of a window, both ways: finds its place in the windows and in the map. */
static void window_row(const KernelCall *call, const Windows *w, int64_t unit, bool partition)
{
    int64_t per_image = w->rows * w->columns * w->side;
    int64_t n = unit / per_image, window = unit % per_image / w->side, row = unit % w->side;
    int64_t y = window / w->columns * w->side + row, column = window % w->columns;
    int64_t inside = pixels_inside(w, y, column);
    size_t bytes = (size_t)inside * w->pixel_bytes;
    size_t in_windows = (size_t)(unit * w->side) * w->pixel_bytes;
    size_t in_map = (size_t)((n * w->height + y) * w->width + column * w->side) * w->pixel_bytes;
    char *dst = call->dst[0].data;
    const char *src = call->src[0].data;
    if (!partition) {
        if (bytes) memcpy(dst + in_map, src + in_windows, bytes);
        return;
    }
    if (bytes) memcpy(dst + in_windows, src + in_map, bytes);
    memset(dst + in_windows + bytes, 0, (size_t)(w->side - inside) * w->pixel_bytes);
}

static void run_windows(const KernelCall *call, bool partition)
{
    Windows w = windows_of(call);
    const Tensor *map = partition ? &call->src[0] : &call->dst[0];
    int64_t n_rows = map->shape.dim[0] * w.rows * w.columns * w.side;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t unit = 0; unit < n_rows; unit++) window_row(call, &w, unit, partition);
}

static void window_partition_run(const KernelCall *call) { run_windows(call, true); }
static void window_unpartition_run(const KernelCall *call) { run_windows(call, false); }

Status cpu_window_partition(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = window_partition_run;
    return OK;
}

Status cpu_window_unpartition(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = window_unpartition_run;
    return OK;
}

/* ---- positions ---- */

static void pe_grid_run(const KernelCall *call)
{
    const GridAttr *attr = &call->attr->pe_grid;
    int64_t half = call->src[0].shape.dim[1];
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t cell = 0; cell < attr->height * attr->width; cell++) {
        double x = ((double)(cell % attr->width) + 0.5) / (double)attr->width;
        double y = ((double)(cell / attr->width) + 0.5) / (double)attr->height;
        turns_code(2 * x - 1, 2 * y - 1, call->src[0].data, half,
                   (float *)call->dst[0].data + cell * 2 * half);
    }
}

Status cpu_pe_grid(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = pe_grid_run;
    return OK;
}
