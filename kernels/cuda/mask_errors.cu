/* Predicted masks against their targets, pixel by pixel: MASK_IOU, which the IoU head learns, and
 * ERROR_CLICK, a point drawn where a prediction is wrong.
 *
 * Both count pixels row by row into the scratch (integers, so their sums have no order). A click
 * then finds the row and, looking at it again, the pixel of the drawn rank.
 */
#include "kernels/cuda/launch.h"

#include "base/rng.h"
#include "kernels/cuda/mask_maps.cuh"
#include "kernels/cuda/rng.cuh"
#include "kernels/cuda/scan.cuh"

enum { BAND = 16 };
enum { LABEL_EMPTY = -2, LABEL_BACKGROUND = 0, LABEL_FOREGROUND = 1 };

/* Pixel x: the mask was missed (1), it was claimed wrongly (-1), or all is right (0). */
static __device__ __forceinline__ int pixel_error(const MaskMaps &maps, const MaskRow &row,
                                                  const MaskColumns &columns, const float *target,
                                                  int x)
{
    return (target[x] > 0.5f) - (mask_pixel(maps, row, columns, x) > 0.0f);
}

/* ---- counts ---- */

/* Block (band, cell): of each row of the band, the pixels in prediction and target, and those in
 * one of them alone. `picks`: count only cells that take part in the output mode. */
static __global__ void __launch_bounds__(MASK_THREADS, 2)
    count_kernel(int2 *counts, MaskMaps maps, bool picks)
{
    SHARED_DYNAMIC(float, shared);
    __shared__ int sums[WARP + 1];
    int cell = (int)blockIdx.y;
    if (picks && !cell_takes_part(maps, cell)) return;
    MaskColumns columns = mask_columns(maps, shared);
    float *target = shared + 2 * maps.size;
    int begin = (int)blockIdx.x * BAND, end = min(begin + BAND, maps.size);
    for (int y = begin; y < end; y++) {
        __syncthreads(); /* whoever still reads the target of before */
        expand_target(maps, cell / maps.candidates, y, target);
        __syncthreads();
        MaskRow row = mask_row(maps, cell_logits(maps, cell), y);
        int both = 0, wrong = 0, all_both, all_wrong;
        for (int x = (int)threadIdx.x; x < maps.size; x += MASK_THREADS) {
            bool is_wrong = pixel_error(maps, row, columns, target, x) != 0;
            wrong += is_wrong;
            both += target[x] > 0.5f && !is_wrong;
        }
        block_scan(both, sums, &all_both);
        block_scan(wrong, sums, &all_wrong);
        if (threadIdx.x == 0) counts[(size_t)cell * maps.size + y] = make_int2(all_both, all_wrong);
    }
}

static void count_rows(const KernelCall *call, const MaskMaps &maps, bool picks)
{
    LAUNCH(call, count_kernel, dim3(cuda_blocks(maps.size, BAND), (unsigned)maps.cells),
           MASK_THREADS, mask_shared_bytes(maps.size, 1), (int2 *)call->scratch, maps, picks);
}

/* ---- the IoU of every candidate ---- */

/* A warp per cell. */
static __global__ void mask_iou_kernel(float *iou, const int2 *counts, MaskMaps maps)
{
    int cell = (int)blockIdx.x, both = 0, wrong = 0;
    if (cell_takes_part(maps, cell))
        for (int y = (int)threadIdx.x; y < maps.size; y += WARP) {
            int2 count = counts[(size_t)cell * maps.size + y];
            both += count.x;
            wrong += count.y;
        }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        both += __shfl_xor_sync((unsigned)FULL_WARP, both, lanes);
        wrong += __shfl_xor_sync((unsigned)FULL_WARP, wrong, lanes);
    }
    if (threadIdx.x == 0)
        iou[cell] = both > 0 ? (float)((double)both / ((double)both + (double)wrong)) : 0.0f;
}

static void mask_iou_run(const KernelCall *call)
{
    MaskMaps maps = mask_maps(call, call->attr->mask_iou.size);
    if (maps.cells == 0) return;
    count_rows(call, maps, true);
    LAUNCH(call, mask_iou_kernel, (unsigned)maps.cells, WARP, 0, (float *)call->dst[0].data,
           (const int2 *)call->scratch, maps);
}

extern "C" Status cuda_mask_iou(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskMaps maps = mask_maps(call, call->attr->mask_iou.size);
    TRY(mask_check_size(call, maps.size));
    call->run = mask_iou_run;
    return OK;
}

/* ---- clicks ---- */

typedef struct Click {
    float *coords;
    int *labels;
    const float *weight;
    const int *key; /* (N,M,2) */
    int round;
    double px; /* of the prompt frame per pixel */
} Click;

/* rng_below of the prompt's key. */
static __device__ int draw_rank(const Click &click, int prompt, int n)
{
    const unsigned *key = (const unsigned *)click.key + 2 * prompt;
    return (int)philox_below(((uint64_t)key[1] << 32) | key[0], RNG_ERROR_CLICK,
                             (unsigned)click.round, 0, (uint64_t)n);
}

/* The part of `n` items that a thread handles: [*begin, *end), in the order of the threads. */
static __device__ __forceinline__ void own_part(int n, int *begin, int *end)
{
    int each = (n + MASK_THREADS - 1) / MASK_THREADS;
    *begin = min((int)threadIdx.x * each, n);
    *end = min(*begin + each, n);
}

/* Block: one prompt. Ranks count wrong pixels in reading order. */
static __global__ void __launch_bounds__(MASK_THREADS, 2)
    click_kernel(const int2 *counts, MaskMaps maps, Click click)
{
    SHARED_DYNAMIC(float, shared);
    __shared__ int sums[WARP + 1], found[2]; /* row, rank in the row */
    int prompt = (int)blockIdx.x, begin, end, own = 0, total;
    const int2 *count = counts + (size_t)prompt * maps.size;
    MaskColumns columns = mask_columns(maps, shared);
    float *target = shared + 2 * maps.size;
    own_part(maps.size, &begin, &end);
    for (int y = begin; y < end; y++) own += count[y].y;
    int before = block_scan(own, sums, &total);
    if (total == 0 || !(click.weight[prompt] > 0.0f)) {
        if (threadIdx.x > 0) return;
        click.coords[2 * prompt] = click.coords[2 * prompt + 1] = 0.0f;
        click.labels[prompt] = LABEL_EMPTY;
        return;
    }
    int rank = draw_rank(click, prompt, total) - before;
    for (int y = begin; y < end && rank >= 0; rank -= count[y++].y)
        if (rank < count[y].y) {
            found[0] = y;
            found[1] = rank;
        }
    __syncthreads();
    int y = found[0];
    MaskRow row = mask_row(maps, cell_logits(maps, prompt), y);
    expand_target(maps, prompt, y, target);
    __syncthreads();
    own = 0;
    own_part(maps.size, &begin, &end);
    for (int x = begin; x < end; x++) own += pixel_error(maps, row, columns, target, x) != 0;
    rank = found[1] - block_scan(own, sums, &total);
    for (int x = begin; x < end && rank >= 0; x++) {
        int error = pixel_error(maps, row, columns, target, x);
        if (error != 0 && rank-- == 0) {
            click.coords[2 * prompt] = (float)((x + 0.5) * click.px - 0.5);
            click.coords[2 * prompt + 1] = (float)((y + 0.5) * click.px - 0.5);
            click.labels[prompt] = error > 0 ? LABEL_FOREGROUND : LABEL_BACKGROUND;
        }
    }
}

/* Sources are logits (N,M,h,w), words, rows, weight, key: one candidate and no mode. */
static MaskMaps click_maps(const KernelCall *call)
{
    const Shape *logits = &call->src[0].shape;
    MaskMaps maps = {};
    maps.logits = (const float *)call->src[0].data;
    maps.words = (const unsigned *)call->src[1].data;
    maps.rows = (const int *)call->src[2].data;
    maps.cells = (int)(logits->dim[0] * logits->dim[1]);
    maps.per_image = (int)logits->dim[1];
    maps.candidates = 1;
    maps.height = (int)logits->dim[2];
    maps.width = (int)logits->dim[3];
    maps.size = (int)call->attr->error_click.size;
    maps.capacity = (int)call->src[1].shape.dim[1];
    return maps;
}

static void error_click_run(const KernelCall *call)
{
    const ClickAttr *attr = &call->attr->error_click;
    MaskMaps maps = click_maps(call);
    if (maps.cells == 0) return;
    Click click = {
        (float *)call->dst[0].data,     (int *)call->dst[1].data, (const float *)call->src[3].data,
        (const int *)call->src[4].data, (int)attr->round,         attr->frame / (double)attr->size};
    count_rows(call, maps, false);
    LAUNCH(call, click_kernel, (unsigned)maps.cells, MASK_THREADS, mask_shared_bytes(maps.size, 1),
           (const int2 *)call->scratch, maps, click);
}

extern "C" Status cuda_error_click(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskMaps maps = click_maps(call);
    TRY(mask_check_size(call, maps.size));
    call->run = error_click_run;
    return OK;
}
