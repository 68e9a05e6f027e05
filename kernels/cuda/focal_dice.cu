/* FOCAL_DICE and its gradient: logits up-sampled, targets expanded and terms summed on the fly; no
 * map of S x S pixels is ever stored.
 *
 * Forward: a block sums a band of pixel rows of one cell, then one warp per cell adds the bands in
 * order. Backward: a block owns a strip of rows of dlogits and visits the pixel rows that read
 * them: slopes of a row into shared memory, from there along x and y into the strip, each column by
 * one thread. Pixel rows between two strips are visited by both, which costs less than a second
 * pass. source  Lin et al., Focal loss; Milletari et al., V-Net (Dice)
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/mask_maps.cuh"

enum { STRIP = 16 };

/* ---- terms ---- */

typedef struct Focal {
    float alpha, gamma;
} Focal;

/* miss^gamma; gamma is 2 in every recipe, and a square costs less than a power. */
static __device__ __forceinline__ float focal_power(float miss, float gamma)
{
    if (gamma == 2.0f) return miss * miss;
    return gamma == 0.0f ? 1.0f : powf(miss, gamma);
}

/* 1 - p_t as a sum of products of positive terms: no cancellation where the prediction is right. */
static __device__ __forceinline__ float focal_miss(const PixelTerms &terms, float t)
{
    return terms.p * (1.0f - t) + terms.q * t;
}

static __device__ __forceinline__ float focal_alpha(const Focal &focal, float t)
{
    return focal.alpha * t + (1.0f - focal.alpha) * (1.0f - t);
}

static __device__ __forceinline__ float focal_value(const Focal &focal, const PixelTerms &terms,
                                                    float t)
{
    return focal_alpha(focal, t) * focal_power(focal_miss(terms, t), focal.gamma) * terms.ce;
}

static __device__ __forceinline__ float focal_slope(const Focal &focal, const PixelTerms &terms,
                                                    float t)
{
    float miss = focal_miss(terms, t), d_miss = 0.0f;
    if (miss > 0.0f && focal.gamma != 0.0f) /* miss is 0 only where p q is 0 too */
        d_miss = focal.gamma * focal_power(miss, focal.gamma - 1.0f) * (1.0f - 2.0f * t) * terms.p *
                 terms.q;
    return focal_alpha(focal, t) *
           (focal_power(miss, focal.gamma) * (terms.p - t) + d_miss * terms.ce);
}

/* ---- forward ---- */

static __device__ __forceinline__ void add_row(const MaskMaps &maps, const Focal &focal,
                                               const MaskRow &row, const MaskColumns &columns,
                                               const float *target, float (&sum)[FOCAL_SUMS])
{
    for (int x = (int)threadIdx.x; x < maps.size; x += MASK_THREADS) {
        float t = target[x];
        PixelTerms terms = pixel_terms(mask_pixel(maps, row, columns, x), t);
        sum[0] += focal_value(focal, terms, t);
        sum[1] += terms.p * t;
        sum[2] += terms.p + t;
    }
}

/* Block (band, cell): parts (cell, band, 3) of the sums of focal terms, pt, and p + t. */
static __global__ void __launch_bounds__(MASK_THREADS)
    focal_dice_kernel(float *parts, MaskMaps maps, Focal focal)
{
    SHARED_DYNAMIC(float, shared);
    __shared__ float partial[WARP];
    int cell = (int)blockIdx.y, prompt = cell / maps.candidates;
    if (!cell_takes_part(maps, cell)) return;
    MaskColumns columns = mask_columns(maps, shared);
    float *target = shared + 2 * maps.size, sum[FOCAL_SUMS] = {};
    int begin = (int)blockIdx.x * FOCAL_BAND, end = min(begin + FOCAL_BAND, maps.size);
    for (int y = begin; y < end; y++) {
        __syncthreads(); /* whoever still reads the target of before */
        expand_target(maps, prompt, y, target);
        __syncthreads();
        add_row(maps, focal, mask_row(maps, cell_logits(maps, cell), y), columns, target, sum);
    }
#pragma unroll
    for (int i = 0; i < FOCAL_SUMS; i++) {
        float total = block_sum(sum[i], partial);
        if (threadIdx.x == 0) parts[((size_t)cell * gridDim.x + blockIdx.x) * FOCAL_SUMS + i] = total;
    }
}

static __global__ void focal_dice_finish_kernel(float2 *terms, float2 *sums, const float *parts,
                                                MaskMaps maps, int bands)
{
    int cell = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (cell >= maps.cells) return;
    if (!cell_takes_part(maps, cell)) {
        terms[cell] = make_float2(0.0f, 0.0f);
        sums[cell] = make_float2(1.0f, 1.0f);
        return;
    }
    double focal = 0, both = 0, either = 0;
    for (int band = 0; band < bands; band++) {
        const float *part = parts + ((size_t)cell * bands + band) * FOCAL_SUMS;
        focal += part[0];
        both += part[1];
        either += part[2];
    }
    double intersection = 2 * both + 1, total = either + 1;
    terms[cell] = make_float2((float)(focal / ((double)maps.size * maps.size)),
                              (float)(1 - intersection / total));
    sums[cell] = make_float2((float)intersection, (float)total);
}

static void focal_dice_run(const KernelCall *call)
{
    const FocalDiceAttr *attr = &call->attr->focal_dice;
    MaskMaps maps = mask_maps(call, attr->size);
    if (maps.cells == 0) return;
    Focal focal = {(float)attr->alpha, (float)attr->gamma};
    unsigned bands = cuda_blocks(maps.size, FOCAL_BAND);
    float *parts = (float *)call->scratch;
    LAUNCH(call, focal_dice_kernel, dim3(bands, (unsigned)maps.cells), MASK_THREADS,
           mask_shared_bytes(maps.size, 1), parts, maps, focal);
    LAUNCH(call, focal_dice_finish_kernel, cuda_blocks(maps.cells, WARP), WARP, 0,
           (float2 *)call->dst[0].data, (float2 *)call->dst[1].data, (const float *)parts, maps,
           (int)bands);
}

extern "C" Status cuda_focal_dice(Backend *backend, KernelCall *call)
{
    (void)backend;
    int64_t size = call->attr->focal_dice.size;
    TRY(mask_check_size(call, size));
    call->run = focal_dice_run;
    return OK;
}

/* ---- backward ---- */

/* What a pixel's gradient is made of: factors of focal and Dice, 1/S and I/S. */
typedef struct CellGrad {
    float dfocal, ddice, inverse, ratio;
} CellGrad;

static __device__ __forceinline__ void slope_row(const MaskMaps &maps, const Focal &focal,
                                                 const CellGrad &grad, const MaskRow &row,
                                                 const MaskColumns &columns, const float *target,
                                                 float *slope)
{
    for (int x = (int)threadIdx.x; x < maps.size; x += MASK_THREADS) {
        float t = target[x];
        PixelTerms terms = pixel_terms(mask_pixel(maps, row, columns, x), t);
        slope[x] = grad.dfocal * focal_slope(focal, terms, t) +
                   grad.ddice * dice_slope(terms, t, grad.inverse, grad.ratio);
    }
}

/* Sum over the pixels of a row that read column `own`, times their weights. */
static __device__ __forceinline__ float gather_column(const MaskMaps &maps,
                                                      const MaskColumns &columns,
                                                      const float *slope, int own)
{
    int begin, end;
    float sum = 0.0f;
    outputs_reading(own, maps.width, maps.size, &begin, &end);
    for (int x = begin; x < end; x++) {
        int first = columns.first[x], second = min(first + 1, maps.width - 1);
        float t = columns.t[x];
        sum += ((first == own ? 1.0f - t : 0.0f) + (second == own ? t : 0.0f)) * slope[x];
    }
    return sum;
}

/* Adds a pixel row's gathered columns to the rows of the strip (STRIP, width) that it reads. */
static __device__ __forceinline__ void add_to_strip(const MaskMaps &maps, const LinearTaps &taps,
                                                    const MaskColumns &columns, const float *slope,
                                                    int top, float *strip)
{
    int above = taps.first - top, below = taps.second - top;
    for (int j = (int)threadIdx.x; j < maps.width; j += MASK_THREADS) {
        float sum = gather_column(maps, columns, slope, j);
        if (above >= 0 && above < STRIP) strip[above * maps.width + j] += (1.0f - taps.t) * sum;
        if (below >= 0 && below < STRIP) strip[below * maps.width + j] += taps.t * sum;
    }
}

/* Block (strip, cell): rows [top, top + STRIP) of dlogits. */
static __global__ void __launch_bounds__(MASK_THREADS)
    focal_dice_grad_kernel(float *dlogits, const float2 *sums, const float2 *dterms, MaskMaps maps,
                           Focal focal)
{
    SHARED_DYNAMIC(float, shared);
    int cell = (int)blockIdx.y, top = (int)blockIdx.x * STRIP;
    int rows = min((int)STRIP, maps.height - top), begin, end, unused;
    float2 dterm = dterms[cell], sum = sums[cell];
    float *target = shared + 2 * maps.size, *slope = target + maps.size;
    float *strip = slope + maps.size;
    bool matters = cell_takes_part(maps, cell) && (dterm.x != 0.0f || dterm.y != 0.0f);
    MaskColumns columns = mask_columns(maps, shared);
    CellGrad grad = {dterm.x / ((float)maps.size * (float)maps.size), dterm.y, 1.0f / sum.y,
                     sum.x / sum.y};
    for (int i = (int)threadIdx.x; i < rows * maps.width; i += MASK_THREADS) strip[i] = 0.0f;
    outputs_reading(top, maps.height, maps.size, &begin, &unused);
    outputs_reading(top + rows - 1, maps.height, maps.size, &unused, &end);
    for (int y = begin; matters && y < end; y++) {
        LinearTaps taps = linear_taps(y, maps.height, maps.size);
        if (taps.second < top || taps.first >= top + rows) continue;
        __syncthreads(); /* whoever still reads target and slopes of before */
        expand_target(maps, cell / maps.candidates, y, target);
        __syncthreads();
        slope_row(maps, focal, grad, mask_row(maps, cell_logits(maps, cell), y), columns, target,
                  slope);
        __syncthreads();
        add_to_strip(maps, taps, columns, slope, top, strip);
    }
    __syncthreads();
    float *dst = dlogits + ((size_t)cell * maps.height + top) * maps.width;
    for (int i = (int)threadIdx.x; i < rows * maps.width; i += MASK_THREADS) dst[i] = strip[i];
}

static size_t grad_shared_bytes(const MaskMaps &maps)
{
    return mask_shared_bytes(maps.size, 2) + (size_t)STRIP * maps.width * sizeof(float);
}

static void focal_dice_grad_run(const KernelCall *call)
{
    const FocalDiceAttr *attr = &call->attr->focal_dice_grad;
    MaskMaps maps = mask_maps(call, attr->size);
    if (maps.cells == 0) return;
    Focal focal = {(float)attr->alpha, (float)attr->gamma};
    LAUNCH(call, focal_dice_grad_kernel,
           dim3(cuda_blocks(maps.height, STRIP), (unsigned)maps.cells), MASK_THREADS,
           grad_shared_bytes(maps), (float *)call->dst[0].data, (const float2 *)call->src[4].data,
           (const float2 *)call->src[5].data, maps, focal);
}

extern "C" Status cuda_focal_dice_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskMaps maps = mask_maps(call, call->attr->focal_dice_grad.size);
    TRY(mask_check_size(call, maps.size));
    if (grad_shared_bytes(maps) > CUDA_SHARED_MAX_BYTES)
        return cuda_unsupported(call, "maps of %d columns do not fit the shared memory",
                                maps.width);
    TRY(cuda_allow_shared(focal_dice_grad_kernel, grad_shared_bytes(maps)));
    call->run = focal_dice_grad_run;
    return OK;
}
