/* Predicted masks against their targets, pixel by pixel: the IoU of every candidate, which the IoU
 * head learns, and the next prompt of a mask: its best candidate's map, and a click where that is
 * wrong.
 *
 * Called through cpu.c's table. They stream over the S x S map as the focal loss does
 * (mask_rows.h); counts are integers, so their sums have no order.
 */
#include "kernels/cpu/mask_rows.h"

#include <assert.h>
#include <omp.h>
#include <string.h>

#include "base/rng.h"

enum { BANDS = 8 };
enum { CLICK_NONE = -2, CLICK_BACKGROUND = 0, CLICK_FOREGROUND = 1 }; /* labels of prompts */

/* ---- rows ---- */

/* A thread's scratch, rows of width `size`: up-sampled logits, target, error. */
typedef struct Work {
    float *up[2], *target, *error;
} Work;

static int64_t work_layout(const MaskLoss *loss, float *base, Work *w)
{
    TilePart part[] = {{&w->up[0], loss->size},
                       {&w->up[1], loss->size},
                       {&w->target, loss->size},
                       {&w->error, loss->size}};
    return tile_lay_out(base, part, sizeof part / sizeof *part);
}

typedef struct RowCount {
    int32_t both, wrong; /* pixels in prediction and target; pixels in one of them alone */
} RowCount;

/* error: 1 where the mask was missed, -1 where it was claimed wrongly, 0 elsewhere. One copy of
 * this code: a click looks again for what was counted, and the compiler may round two copies
 * differently. */
static __attribute__((noinline)) RowCount compare_row(const MaskRow *row, float *restrict error)
{
    int32_t both = 0, wrong = 0;
    float w1 = row->weight, w0 = 1.0f - w1;
    const float *above = row->above, *below = row->below, *target = row->target;
#pragma omp simd reduction(+ : both, wrong)
    for (int64_t i = 0; i < row->n; i++) {
        int32_t predicted = w0 * above[i] + w1 * below[i] > 0.0f, wanted = target[i] > 0.5f;
        both += predicted & wanted;
        wrong += predicted ^ wanted;
        error[i] = (float)(wanted - predicted);
    }
    return (RowCount){both, wrong};
}

/* Row y of one map (height,width); its errors are in w->error. */
static RowCount compare_at(const MaskLoss *loss, const MaskColumns *columns, const float *logits,
                           int64_t prompt, int64_t y, MaskRowPair *pair, Work *w)
{
    MaskTaps taps = mask_taps(y, loss->height, loss->size);
    mask_target_row(loss, prompt, y, w->target);
    MaskRow row = mask_row_make(loss, columns, logits, &taps, w->target, pair);
    return compare_row(&row, w->error);
}

static MaskRowPair no_rows(const Work *w)
{
    return (MaskRowPair){.row = {w->up[0], w->up[1]}, .index = {-1, -1}};
}

/* The scratch: columns, the counts, then the threads' rows. */
typedef struct Scratch {
    RowCount *counts;
    float *threads;
    int64_t thread_floats;
    size_t bytes;
} Scratch;

static Scratch scratch_of(const KernelCall *call, const MaskLoss *loss, int64_t n_counts)
{
    Work sizes;
    size_t at = mask_columns_bytes(loss);
    Scratch s = {.counts = (RowCount *)((char *)call->scratch + at),
                 .thread_floats = work_layout(loss, NULL, &sizes)};
    at += (size_t)tile_round(n_counts) * sizeof(RowCount);
    s.threads = (float *)((char *)call->scratch + at);
    s.bytes = at + (size_t)(call->n_threads * s.thread_floats) * sizeof(float);
    return s;
}

/* ---- the IoU of every candidate ---- */

static RowCount compare_band(const MaskLoss *loss, const MaskColumns *columns, int64_t unit,
                             Work *w)
{
    int64_t cell = unit / BANDS, prompt = cell / loss->candidates, begin, end;
    RowCount sum = {0};
    if (!mask_takes_part(loss, cell % loss->candidates)) return sum;
    MaskRowPair pair = no_rows(w);
    cpu_split(loss->size, BANDS, (int)(unit % BANDS), &begin, &end);
    const float *logits = loss->logits + cell * mask_map_elems(loss);
    for (int64_t y = begin; y < end; y++) {
        RowCount row = compare_at(loss, columns, logits, prompt, y, &pair, w);
        sum.both += row.both;
        sum.wrong += row.wrong;
    }
    return sum;
}

static float iou_of(const RowCount *bands)
{
    int64_t both = 0, wrong = 0;
    for (int i = 0; i < BANDS; i++) {
        both += bands[i].both;
        wrong += bands[i].wrong;
    }
    return both > 0 ? (float)((double)both / (double)(both + wrong)) : 0.0f;
}

static void mask_iou_run(const KernelCall *call)
{
    MaskLoss loss = mask_loss_of(call, call->attr->mask_iou.size);
    int64_t n_cells = loss.prompts * loss.candidates, n_units = n_cells * BANDS;
    MaskColumns columns = mask_columns_make(&loss, call->scratch);
    Scratch scratch = scratch_of(call, &loss, n_units);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Work w;
        int64_t begin, end;
        work_layout(&loss, scratch.threads + t * scratch.thread_floats, &w);
        cpu_split(n_units, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++)
            scratch.counts[unit] = compare_band(&loss, &columns, unit, &w);
    }
    for (int64_t cell = 0; cell < n_cells; cell++)
        ((float *)call->dst[0].data)[cell] = iou_of(scratch.counts + cell * BANDS);
}

Status cpu_mask_iou(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskLoss loss = mask_loss_of(call, call->attr->mask_iou.size);
    call->run = mask_iou_run;
    call->scratch_bytes = scratch_of(call, &loss, loss.prompts * loss.candidates * BANDS).bytes;
    return OK;
}

/* ---- the best candidate's map ---- */

static void pick_candidate_run(const KernelCall *call)
{
    const Shape *shape = &call->src[0].shape;
    int64_t n_candidates = shape->dim[2], elems = shape->dim[3] * shape->dim[4];
    size_t bytes = (size_t)elems * dtype_size(call->src[0].dtype);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t prompt = 0; prompt < shape->dim[0] * shape->dim[1]; prompt++) {
        int32_t best = ((const int32_t *)call->src[1].data)[prompt];
        assert(best >= 0 && best < n_candidates);
        size_t from = (size_t)(prompt * n_candidates + best) * bytes;
        memcpy((char *)call->dst[0].data + (size_t)prompt * bytes,
               (const char *)call->src[0].data + from, bytes);
    }
}

CPU_BIND(pick_candidate)

/* ---- a click where the prediction is wrong ---- */

/* One map per mask: sources 0 to 4 are logits (N,M,h,w), words, rows, weight and key. */
static MaskLoss click_maps(const KernelCall *call)
{
    const Shape *logits = &call->src[0].shape;
    return (MaskLoss){.prompts = logits->dim[0] * logits->dim[1],
                      .per_image = logits->dim[1],
                      .candidates = 1,
                      .height = logits->dim[2],
                      .width = logits->dim[3],
                      .size = call->attr->error_click.size,
                      .logits = call->src[0].data,
                      .words = call->src[1].data,
                      .capacity = call->src[1].shape.dim[1],
                      .rows = call->src[2].data};
}

static bool has_weight(const KernelCall *call, int64_t prompt)
{
    return ((const float *)call->src[3].data)[prompt] > 0.0f;
}

/* Counts of one band of rows of one mask. */
static void count_band(const KernelCall *call, const MaskLoss *loss, const MaskColumns *columns,
                       int64_t unit, RowCount *counts, Work *w)
{
    int64_t prompt = unit / BANDS, begin, end;
    MaskRowPair pair = no_rows(w);
    if (!has_weight(call, prompt)) return;
    cpu_split(loss->size, BANDS, (int)(unit % BANDS), &begin, &end);
    for (int64_t y = begin; y < end; y++)
        counts[prompt * loss->size + y] = compare_at(loss, columns, mask_logits(loss, prompt, 0),
                                                     prompt, y, &pair, w);
}

static int64_t draw_error(const KernelCall *call, int64_t prompt, int64_t n_errors)
{
    const int32_t *word = (const int32_t *)call->src[4].data + 2 * prompt;
    RngKey key = {.seed = ((uint64_t)(uint32_t)word[1] << 32) | (uint32_t)word[0],
                  .purpose = RNG_ERROR_CLICK,
                  .epoch = (uint32_t)call->attr->error_click.round};
    return (int64_t)rng_below(key, 0, (uint64_t)n_errors);
}

/* Column of error number k of a row that has more than k. */
static int64_t find_error(const float *error, int64_t k)
{
    int64_t x = 0;
    while (error[x] == 0.0f || k-- > 0) x++;
    return x;
}

static void click(const KernelCall *call, const MaskLoss *loss, const MaskColumns *columns,
                  int64_t prompt, const RowCount *counts, Work *w)
{
    const ClickAttr *attr = &call->attr->error_click;
    float *coord = (float *)call->dst[0].data + 2 * prompt;
    int32_t *label = (int32_t *)call->dst[1].data + prompt;
    int64_t n_errors = 0, y = 0;
    for (int64_t i = 0; has_weight(call, prompt) && i < loss->size; i++)
        n_errors += counts[i].wrong;
    coord[0] = coord[1] = 0.0f;
    *label = CLICK_NONE;
    if (n_errors == 0) return;
    int64_t k = draw_error(call, prompt, n_errors);
    for (; k >= counts[y].wrong; y++) k -= counts[y].wrong;
    MaskRowPair pair = no_rows(w);
    compare_at(loss, columns, mask_logits(loss, prompt, 0), prompt, y, &pair, w);
    int64_t x = find_error(w->error, k);
    double scale = attr->frame / (double)attr->size;
    coord[0] = (float)(((double)x + 0.5) * scale - 0.5);
    coord[1] = (float)(((double)y + 0.5) * scale - 0.5);
    *label = w->error[x] > 0.0f ? CLICK_FOREGROUND : CLICK_BACKGROUND;
}

static void error_click_run(const KernelCall *call)
{
    MaskLoss loss = click_maps(call);
    MaskColumns columns = mask_columns_make(&loss, call->scratch);
    Scratch scratch = scratch_of(call, &loss, loss.prompts * loss.size);
#pragma omp parallel num_threads(call->n_threads)
    {
        Work w;
        int thread = omp_get_thread_num();
        work_layout(&loss, scratch.threads + thread * scratch.thread_floats, &w);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < loss.prompts * BANDS; unit++)
            count_band(call, &loss, &columns, unit, scratch.counts, &w);
#pragma omp for schedule(static)
        for (int64_t prompt = 0; prompt < loss.prompts; prompt++)
            click(call, &loss, &columns, prompt, scratch.counts + prompt * loss.size, &w);
    }
}

Status cpu_error_click(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskLoss loss = click_maps(call);
    call->run = error_click_run;
    call->scratch_bytes = scratch_of(call, &loss, loss.prompts * loss.size).bytes;
    return OK;
}
