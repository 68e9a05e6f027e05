/* PointRend's losses: POINT_SAMPLE, the choice of the points, and BCE_DICE_POINTS, cross entropy
 * and Dice on them, with its gradient.
 *
 * Positions are in double, as in the reference, so that both rank points alike. The choice: |logit|
 * of all drawn points into the scratch; then a block per cell finds the rank's limit byte by byte
 * (integer counts) and keeps points in the order of their draws. The gradient: each point's slope
 * into the scratch; then a block owns a strip of rows of dlogits, collects the points that touch it
 * in their order, and each column is summed by one thread. So nothing depends on the order of
 * threads. source  Kirillov et al., PointRend (2020), section 3.1
 */
#include "kernels/cuda/launch.h"

#include "base/rng.h"
#include "kernels/cuda/mask_maps.cuh"
#include "kernels/cuda/rng.cuh"
#include "kernels/cuda/scan.cuh"

/* ---- bilinear reads ---- */

/* The pixels around the point u of an axis of `size` pixels, [0,1] long; outside, the weight is 0.
 * source  torch.nn.functional.grid_sample, zero padding, align_corners=False */
typedef struct PointTaps {
    int at0, at1;
    double weight0, weight1;
} PointTaps;

static __device__ __forceinline__ PointTaps point_taps(double u, int size)
{
    double s = u * size - 0.5, lower = floor(s), t = s - lower;
    int first = (int)lower;
    PointTaps taps = {clamp_index(first, size), clamp_index(first + 1, size),
                      first >= 0 && first < size ? 1.0 - t : 0.0,
                      first + 1 >= 0 && first + 1 < size ? t : 0.0};
    return taps;
}

/* Elements of an axis of the logits that a point reads, through the up-sampled pixels around it:
 * four, of which some may be the same. */
typedef struct AxisTaps {
    int at[4];
    double weight[4];
} AxisTaps;

/* The up-sampling's taps of pixel i, in double as the reference has them. */
static __device__ __forceinline__ void up_taps(int i, int in, int out, double weight, int *at,
                                               double *weights)
{
    double s = fmax((i + 0.5) * in / out - 0.5, 0.0), lower = floor(s), t = s - lower;
    at[0] = (int)lower;
    at[1] = min(at[0] + 1, in - 1);
    weights[0] = weight * (1.0 - t);
    weights[1] = weight * t;
}

static __device__ __forceinline__ AxisTaps axis_taps(double u, int in, int size)
{
    PointTaps point = point_taps(u, size);
    AxisTaps taps;
    up_taps(point.at0, in, size, point.weight0, taps.at, taps.weight);
    up_taps(point.at1, in, size, point.weight1, taps.at + 2, taps.weight + 2);
    return taps;
}

/* The up-sampled logits at (u,v). */
static __device__ __forceinline__ double logit_at(const MaskMaps &maps, const float *logits,
                                                  double u, double v)
{
    AxisTaps rows = axis_taps(v, maps.height, maps.size),
             cols = axis_taps(u, maps.width, maps.size);
    double sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *row = logits + (size_t)rows.at[i] * maps.width;
        double along = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) along += cols.weight[j] * (double)row[cols.at[j]];
        sum += rows.weight[i] * along;
    }
    return sum;
}

/* Value at pixel x of row y of a prompt's target. */
static __device__ __forceinline__ float target_pixel(const MaskMaps &maps, int prompt, int y, int x)
{
    const unsigned *word, *end;
    target_words(maps, prompt, y, &word, &end);
    while (word < end) {
        unsigned kind = *word & SOFT_KIND_MASK;
        int n = (int)(*word++ & SOFT_LENGTH_MASK);
        if (x < n)
            return kind == SOFT_LITERAL ? ((const float *)word)[x]
                   : kind == SOFT_ONES  ? 1.0f
                                        : 0.0f;
        if (kind == SOFT_LITERAL) word += n;
        x -= n;
    }
    return 0.0f;
}

static __device__ __forceinline__ float target_at(const MaskMaps &maps, int prompt, double u,
                                                  double v)
{
    PointTaps y = point_taps(v, maps.size), x = point_taps(u, maps.size);
    double above = x.weight0 * (double)target_pixel(maps, prompt, y.at0, x.at0) +
                   x.weight1 * (double)target_pixel(maps, prompt, y.at0, x.at1);
    double below = x.weight0 * (double)target_pixel(maps, prompt, y.at1, x.at0) +
                   x.weight1 * (double)target_pixel(maps, prompt, y.at1, x.at1);
    return (float)(y.weight0 * above + y.weight1 * below);
}

/* ---- choice of the points ---- */

typedef struct Sampling {
    const int *key; /* (N,M,2) */
    int drawn, kept, n_points;
} Sampling;

static __device__ __forceinline__ float2 draw_point(const Sampling &s, const MaskMaps &maps,
                                                    int cell, int index)
{
    const unsigned *words = (const unsigned *)s.key + 2 * (cell / maps.candidates);
    uint64_t seed = ((uint64_t)words[1] << 32) | words[0], at = 2 * (uint64_t)index;
    unsigned candidate = (unsigned)(cell % maps.candidates);
    return make_float2((float)philox_uniform(seed, RNG_LOSS_POINTS, candidate, at),
                       (float)philox_uniform(seed, RNG_LOSS_POINTS, candidate, at + 1));
}

/* |logit| of every drawn point; of doubles above 0 the bits are in the order of the values. */
static __global__ void __launch_bounds__(MASK_THREADS)
    rank_points_kernel(double *magnitudes, MaskMaps maps, Sampling s, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        int cell = (int)(i / (unsigned)s.drawn);
        float2 point = draw_point(s, maps, cell, (int)(i % (unsigned)s.drawn));
        magnitudes[i] = fabs(logit_at(maps, cell_logits(maps, cell), point.x, point.y));
    }
}

/* The k-th smallest of n values, k >= 1, by its bytes from the top. *n_equal: how many of the
 * values equal to it are among the k smallest. `count` is shared memory of 256, `chosen` of 2. */
static __device__ __forceinline__ uint64_t kth_smallest(const uint64_t *value, int n, int k,
                                                        int *count, int *chosen, int *n_equal)
{
    uint64_t prefix = 0, known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        count[threadIdx.x] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n; i += MASK_THREADS)
            if ((value[i] & known) == prefix) atomicAdd(&count[(value[i] >> shift) & 255], 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 0, below = 0;
            while (below + count[byte] < k) below += count[byte++];
            chosen[0] = byte;
            chosen[1] = k - below;
        }
        __syncthreads();
        prefix |= (uint64_t)(unsigned)chosen[0] << shift;
        known |= (uint64_t)255 << shift;
        k = chosen[1];
    }
    *n_equal = k;
    return prefix;
}

/* Writes the kept points in the order of their draws; the first of equals. */
static __device__ __forceinline__ void keep_points(const uint64_t *value, uint64_t limit,
                                                   int n_equal, const MaskMaps &maps,
                                                   const Sampling &s, int cell, int *sums,
                                                   float2 *dst)
{
    int n_kept = 0, n_limit = 0, total;
    for (int first = 0; first < s.drawn; first += MASK_THREADS) {
        int i = first + (int)threadIdx.x;
        uint64_t own = i < s.drawn ? value[i] : ~(uint64_t)0;
        bool at_limit = i < s.drawn && own == limit;
        int rank = n_limit + block_scan(at_limit, sums, &total);
        n_limit += total;
        bool keep = i < s.drawn && (own < limit || (at_limit && rank < n_equal));
        int place = n_kept + block_scan(keep, sums, &total);
        n_kept += total;
        if (keep) dst[place] = draw_point(s, maps, cell, i);
    }
}

static __global__ void __launch_bounds__(MASK_THREADS)
    choose_points_kernel(float2 *points, const uint64_t *magnitudes, MaskMaps maps, Sampling s)
{
    __shared__ int count[256], sums[WARP + 1], chosen[2];
    int cell = (int)blockIdx.x, n_equal;
    const uint64_t *value = magnitudes + (size_t)cell * s.drawn;
    float2 *dst = points + (size_t)cell * s.n_points;
    if (s.kept > 0) {
        uint64_t limit = kth_smallest(value, s.drawn, s.kept, count, chosen, &n_equal);
        keep_points(value, limit, n_equal, maps, s, cell, sums, dst);
    }
    for (int i = s.kept + (int)threadIdx.x; i < s.n_points; i += MASK_THREADS)
        dst[i] = draw_point(s, maps, cell, s.drawn + i - s.kept);
}

/* Sources are logits and keys; there are no targets. */
static MaskMaps sample_maps(const KernelCall *call)
{
    const Shape *logits = &call->src[0].shape;
    MaskMaps maps = {};
    maps.logits = (const float *)call->src[0].data;
    maps.cells = (int)(logits->dim[0] * logits->dim[1] * logits->dim[2]);
    maps.candidates = (int)logits->dim[2];
    maps.height = (int)logits->dim[3];
    maps.width = (int)logits->dim[4];
    maps.size = (int)call->attr->point_sample.size;
    return maps;
}

static Sampling sampling_of(const KernelCall *call)
{
    const PointSampleAttr *attr = &call->attr->point_sample;
    Sampling s = {(const int *)call->src[1].data,
                  (int)floor(attr->oversample * (double)attr->n_points),
                  (int)floor(attr->importance * (double)attr->n_points), (int)attr->n_points};
    return s;
}

static void point_sample_run(const KernelCall *call)
{
    MaskMaps maps = sample_maps(call);
    Sampling s = sampling_of(call);
    unsigned n = (unsigned)maps.cells * (unsigned)s.drawn;
    if (maps.cells == 0) return;
    if (n > 0)
        LAUNCH(call, rank_points_kernel, flat_blocks(n), FLAT_THREADS, 0, (double *)call->scratch,
               maps, s, n);
    LAUNCH(call, choose_points_kernel, (unsigned)maps.cells, MASK_THREADS, 0,
           (float2 *)call->dst[0].data, (const uint64_t *)call->scratch, maps, s);
}

extern "C" Status cuda_point_sample(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = point_sample_run;
    return OK;
}

/* ---- cross entropy and Dice ---- */

static __global__ void __launch_bounds__(MASK_THREADS)
    bce_dice_kernel(float2 *terms, float2 *sums, const float2 *points, MaskMaps maps, int n_points)
{
    __shared__ float partial[WARP];
    int cell = (int)blockIdx.x;
    float bce = 0.0f, both = 0.0f, either = 0.0f;
    if (!cell_takes_part(maps, cell)) {
        if (threadIdx.x > 0) return;
        terms[cell] = make_float2(0.0f, 0.0f);
        sums[cell] = make_float2(1.0f, 1.0f);
        return;
    }
    for (int i = (int)threadIdx.x; i < n_points; i += MASK_THREADS) {
        float2 point = points[(size_t)cell * n_points + i];
        float x = (float)logit_at(maps, cell_logits(maps, cell), point.x, point.y);
        float t = target_at(maps, cell / maps.candidates, point.x, point.y);
        PixelTerms pixel = pixel_terms(x, t);
        bce += pixel.ce;
        both += pixel.p * t;
        either += pixel.p + t;
    }
    bce = block_sum(bce, partial);
    both = 2.0f * block_sum(both, partial) + 1.0f;
    either = block_sum(either, partial) + 1.0f;
    if (threadIdx.x > 0) return;
    terms[cell] = make_float2(bce / (float)n_points, 1.0f - both / either);
    sums[cell] = make_float2(both, either);
}

static void bce_dice_points_run(const KernelCall *call)
{
    MaskMaps maps = mask_maps(call, call->attr->bce_dice_points.size);
    if (maps.cells == 0) return;
    LAUNCH(call, bce_dice_kernel, (unsigned)maps.cells, MASK_THREADS, 0,
           (float2 *)call->dst[0].data, (float2 *)call->dst[1].data,
           (const float2 *)call->src[4].data, maps, (int)call->src[4].shape.dim[3]);
}

CUDA_BIND(bce_dice_points)

/* ---- its gradient ---- */

enum { STRIP = 8, LIST = MASK_THREADS };

static __device__ __forceinline__ bool cell_matters(const MaskMaps &maps, const float2 *dterms,
                                                    int cell)
{
    return cell_takes_part(maps, cell) && (dterms[cell].x != 0.0f || dterms[cell].y != 0.0f);
}

/* The gradient at the logit of every point, of cells that matter. */
static __global__ void __launch_bounds__(FLAT_THREADS)
    point_slopes_kernel(float *slopes, const float2 *points, const float2 *sums,
                        const float2 *dterms, MaskMaps maps, int n_points, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        int cell = (int)(i / (unsigned)n_points);
        if (!cell_matters(maps, dterms, cell)) continue;
        float2 point = points[i], sum = sums[cell], dterm = dterms[cell];
        float x = (float)logit_at(maps, cell_logits(maps, cell), point.x, point.y);
        float t = target_at(maps, cell / maps.candidates, point.x, point.y);
        PixelTerms pixel = pixel_terms(x, t);
        slopes[i] = dterm.x / (float)n_points * (pixel.p - t) +
                    dterm.y * dice_slope(pixel, t, 1.0f / sum.y, sum.x / sum.y);
    }
}

/* Points that touch a strip: the columns they read, and their share in each row of the strip. */
typedef struct PointList {
    int column[4][LIST];
    float weight[4][LIST], row[STRIP][LIST];
} PointList;

/* Weight of the taps that read element `own`. */
static __device__ __forceinline__ float tap_weight(const AxisTaps &taps, int own)
{
    double sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) sum += taps.at[k] == own ? taps.weight[k] : 0.0;
    return (float)sum;
}

/* Appends the block's points that touch rows [top, top + STRIP), one per thread, in their order.
 * returns how many */
static __device__ __forceinline__ int list_points(PointList *list, const MaskMaps &maps,
                                                  bool exists, float2 point, float slope, int top,
                                                  int *sums)
{
    AxisTaps rows = axis_taps(exists ? point.y : 0.0, maps.height, maps.size);
    bool touches = false;
    int total;
#pragma unroll
    for (int k = 0; k < 4; k++) touches |= exists && rows.at[k] >= top && rows.at[k] < top + STRIP;
    int at = block_scan(touches, sums, &total);
    if (touches) {
        AxisTaps cols = axis_taps(point.x, maps.width, maps.size);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            list->column[k][at] = cols.at[k];
            list->weight[k][at] = (float)cols.weight[k];
        }
#pragma unroll
        for (int r = 0; r < STRIP; r++) list->row[r][at] = slope * tap_weight(rows, top + r);
    }
    __syncthreads();
    return total;
}

/* Adds the listed points to column `own` of the strip (STRIP, width), in order. */
static __device__ __forceinline__ void add_column(const PointList *list, int n, int own, int width,
                                                  float *strip)
{
    for (int i = 0; i < n; i++) {
        float weight = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) weight += list->column[k][i] == own ? list->weight[k][i] : 0.0f;
        if (weight == 0.0f) continue;
#pragma unroll
        for (int r = 0; r < STRIP; r++) strip[r * width + own] += weight * list->row[r][i];
    }
}

/* Block (strip, cell). */
static __global__ void __launch_bounds__(MASK_THREADS, 2)
    bce_dice_grad_kernel(float *dlogits, const float *slopes, const float2 *points,
                         const float2 *dterms, MaskMaps maps, int n_points)
{
    __shared__ PointList list;
    __shared__ int sums[WARP + 1];
    SHARED_DYNAMIC(float, strip);
    int cell = (int)blockIdx.y, top = (int)blockIdx.x * STRIP, lane = (int)threadIdx.x;
    int rows = min((int)STRIP, maps.height - top), width = maps.width;
    bool matters = cell_matters(maps, dterms, cell);
    for (int j = lane; j < width; j += MASK_THREADS)
        for (int r = 0; r < STRIP; r++) strip[r * width + j] = 0.0f;
    for (int first = 0; matters && first < n_points; first += LIST) {
        int i = first + lane;
        size_t at = (size_t)cell * n_points + i;
        bool exists = i < n_points;
        float2 point = exists ? points[at] : make_float2(0.0f, 0.0f);
        int n = list_points(&list, maps, exists, point, exists ? slopes[at] : 0.0f, top, sums);
        for (int j = lane; j < width; j += MASK_THREADS) add_column(&list, n, j, width, strip);
        __syncthreads(); /* the list is read before it is filled again */
    }
    float *dst = dlogits + ((size_t)cell * maps.height + top) * width;
    for (int j = lane; j < width; j += MASK_THREADS)
        for (int r = 0; r < rows; r++) dst[r * width + j] = strip[r * width + j];
}

static size_t strip_bytes(const MaskMaps &maps)
{
    return (size_t)STRIP * maps.width * sizeof(float);
}

static void bce_dice_points_grad_run(const KernelCall *call)
{
    MaskMaps maps = mask_maps(call, call->attr->bce_dice_points_grad.size);
    int n_points = (int)call->src[4].shape.dim[3];
    unsigned n = (unsigned)maps.cells * (unsigned)n_points;
    const float2 *points = (const float2 *)call->src[4].data;
    const float2 *sums = (const float2 *)call->src[5].data;
    const float2 *dterms = (const float2 *)call->src[6].data;
    float *slopes = (float *)call->scratch;
    if (n == 0) return;
    LAUNCH(call, point_slopes_kernel, flat_blocks(n), FLAT_THREADS, 0, slopes, points, sums, dterms,
           maps, n_points, n);
    LAUNCH(call, bce_dice_grad_kernel, dim3(cuda_blocks(maps.height, STRIP), (unsigned)maps.cells),
           MASK_THREADS, strip_bytes(maps), (float *)call->dst[0].data, (const float *)slopes,
           points, dterms, maps, n_points);
}

extern "C" Status cuda_bce_dice_points_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskMaps maps = mask_maps(call, call->attr->bce_dice_points_grad.size);
    if (strip_bytes(maps) + sizeof(PointList) > 48 * 1024)
        return cuda_unsupported(call, "maps of %d columns do not fit the shared memory",
                                maps.width);
    call->run = bce_dice_points_grad_run;
    return OK;
}
