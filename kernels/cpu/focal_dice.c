/* Focal and Dice losses of whole masks and their gradient.
 *
 * They stream over the S x S map and never hold it (mask_rows.h). The gradient runs the other way:
 * rows of dlogit add into the two neighbours' rows of width S, and a row that is
 * complete goes through the transposed horizontal map.
 *
 * Work is cut into (candidate, band of rows), the same bands for any number of threads. A band of
 * the gradient owns low-resolution rows and makes again the few rows of dlogit that it shares with
 * the next band.
 */
#include "kernels/cpu/mask_rows.h"

#include <string.h>

enum { BANDS = 8 };

/* ---- up-sampling, transposed ---- */

/* drow (width) from d (size). */
static void upsample_row_grad(const MaskLoss *loss, const MaskColumns *c, const float *d,
                              float *drow)
{
    memset(drow, 0, (size_t)loss->width * sizeof(float));
    for (int64_t i = 0; i < loss->width; i++) {
        float to_left = 0.0f, to_right = 0.0f;
        for (int32_t x = c->start[i]; x < c->start[i + 1]; x++) {
            to_left += (1.0f - c->weight[x]) * d[x];
            to_right += c->weight[x] * d[x];
        }
        drow[i] += to_left;
        drow[i + 1 < loss->width ? i + 1 : i] += to_right;
    }
}

/* ---- terms of a row ---- */

/* miss^gamma through logarithms; the floor keeps 0 finite and is far below what shows. */
static inline float power(float miss, float gamma)
{
    return math_exp(gamma * math_log(miss > 1e-37f ? miss : 1e-37f));
}

typedef struct Focal {
    float alpha, gamma;
} Focal;

typedef struct RowSums {
    float focal, pt, p, t;
} RowSums;

static inline __attribute__((always_inline)) RowSums sum_row(const MaskRow *row, Focal f,
                                                             bool square)
{
    float focal = 0.0f, pt = 0.0f, p = 0.0f, sum_t = 0.0f, w1 = row->weight, w0 = 1.0f - w1;
    const float *above = row->above, *below = row->below, *target = row->target;
#pragma omp simd reduction(+ : focal, pt, p, sum_t)
    for (int64_t i = 0; i < row->n; i++) {
        float t = target[i];
        MaskPixel pixel = mask_pixel(w0 * above[i] + w1 * below[i], t);
        float miss = pixel.p * (1.0f - t) + pixel.q * t; /* 1 - p_t, a sum of positive terms */
        float factor = square ? miss * miss : power(miss, f.gamma);
        focal += (f.alpha * t + (1.0f - f.alpha) * (1.0f - t)) * factor * pixel.ce;
        pt += pixel.p * t;
        p += pixel.p;
        sum_t += t;
    }
    return (RowSums){focal, pt, p, sum_t};
}

static inline __attribute__((always_inline)) void grad_row(const MaskRow *row, Focal f,
                                                           float dfocal, MaskDice dice, bool square,
                                                           float *restrict dst)
{
    float w1 = row->weight, w0 = 1.0f - w1;
    const float *above = row->above, *below = row->below, *target = row->target;
#pragma omp simd
    for (int64_t i = 0; i < row->n; i++) {
        float t = target[i];
        MaskPixel pixel = mask_pixel(w0 * above[i] + w1 * below[i], t);
        float pq = pixel.p * pixel.q, miss = pixel.p * (1.0f - t) + pixel.q * t;
        float factor = square ? miss * miss : power(miss, f.gamma);
        float slope = f.gamma * (square ? miss : power(miss, f.gamma - 1.0f));
        float dmiss = slope * (1.0f - 2.0f * t) * pq * pixel.ce;
        float alpha_t = f.alpha * t + (1.0f - f.alpha) * (1.0f - t);
        dst[i] = dfocal * alpha_t * (factor * (pixel.p - t) + dmiss) +
                 pq * (dice.slope * t + dice.base);
    }
}

static RowSums sum_row_any(const MaskRow *row, Focal f)
{
    return f.gamma == 2.0f ? sum_row(row, f, true) : sum_row(row, f, false);
}

static void grad_row_any(const MaskRow *row, Focal f, float dfocal, MaskDice dice, float *dst)
{
    if (f.gamma == 2.0f)
        grad_row(row, f, dfocal, dice, true, dst);
    else
        grad_row(row, f, dfocal, dice, false, dst);
}

/* ---- bands ---- */

/* A thread's scratch: rows of width `size`. */
typedef struct Work {
    float *target; /* forward: of a whole band, for all its candidates; gradient: one row */
    float *d;
    float *up[2];  /* up-sampled rows, by the parity of their index */
    float *sum[2]; /* gradients of such rows */
} Work;

static int64_t work_layout(const MaskLoss *loss, bool gradient, float *base, Work *w)
{
    int64_t target_rows = gradient ? 1 : loss->size / BANDS + 1, rows = gradient ? loss->size : 0;
    TilePart part[] = {{&w->target, target_rows * loss->size},
                       {&w->d, rows},
                       {&w->up[0], loss->size},
                       {&w->up[1], loss->size},
                       {&w->sum[0], rows},
                       {&w->sum[1], rows}};
    return tile_lay_out(base, part, sizeof part / sizeof *part);
}

/* One band of one candidate, and the rows that are up-sampled at the moment. */
typedef struct Band {
    int64_t prompt, candidate, begin, end; /* rows: of size, or of height in the gradient */
    MaskRowPair pair;
} Band;

static Band band_of(int64_t prompt, int64_t candidate, int64_t index, int64_t n_rows, const Work *w)
{
    Band b = {.prompt = prompt,
              .candidate = candidate,
              .pair = {.row = {w->up[0], w->up[1]}, .index = {-1, -1}}};
    cpu_split(n_rows, BANDS, (int)index, &b.begin, &b.end);
    return b;
}

static MaskRow make_row(const MaskLoss *loss, const MaskColumns *c, const MaskTaps *taps,
                        const float *target, Band *b)
{
    return mask_row_make(loss, c, mask_logits(loss, b->prompt, b->candidate), taps, target,
                         &b->pair);
}

typedef struct Sums {
    double focal, pt, p_and_t;
} Sums;

static Sums sum_band(const MaskLoss *loss, const MaskColumns *c, Focal focal, Band *b, Work *w)
{
    Sums sums = {0};
    for (int64_t y = b->begin; y < b->end; y++) {
        MaskTaps taps = mask_taps(y, loss->height, loss->size);
        MaskRow row = make_row(loss, c, &taps, w->target + (y - b->begin) * loss->size, b);
        RowSums part = sum_row_any(&row, focal);
        sums.focal += part.focal;
        sums.pt += part.pt;
        sums.p_and_t += (double)part.p + part.t;
    }
    return sums;
}

static void add_row(int64_t n, float factor, const float *restrict src, float *restrict dst)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dst[i] += factor * src[i];
}

/* Writes low-resolution rows [*next, end) of dlogits, complete now, and clears their sums. */
static void flush_rows(const MaskLoss *loss, const MaskColumns *c, int64_t *next, int64_t end,
                       float *dlogits, Work *w)
{
    for (; *next < end; (*next)++) {
        float *sum = w->sum[*next & 1];
        upsample_row_grad(loss, c, sum, dlogits + *next * loss->width);
        memset(sum, 0, (size_t)loss->size * sizeof(float));
    }
}

/* First y whose neighbours reach low-resolution row `row` or beyond. */
static int64_t first_reaching(const MaskLoss *loss, int64_t row)
{
    int64_t low = 0, high = loss->size;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (mask_taps(middle, loss->height, loss->size).second >= row)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void grad_band(const MaskLoss *loss, const MaskColumns *c, Focal focal, float dfocal,
                      MaskDice dice, float *dlogits, Band *b, Work *w)
{
    int64_t next = b->begin;
    for (int i = 0; i < 2; i++) memset(w->sum[i], 0, (size_t)loss->size * sizeof(float));
    for (int64_t y = first_reaching(loss, b->begin); y < loss->size; y++) {
        MaskTaps taps = mask_taps(y, loss->height, loss->size);
        if (taps.first >= b->end) break;
        flush_rows(loss, c, &next, tile_min(taps.first, b->end), dlogits, w);
        mask_target_row(loss, b->prompt, y, w->target);
        MaskRow row = make_row(loss, c, &taps, w->target, b);
        grad_row_any(&row, focal, dfocal, dice, w->d);
        if (taps.first >= b->begin)
            add_row(loss->size, 1.0f - row.weight, w->d, w->sum[taps.first & 1]);
        if (taps.second < b->end) add_row(loss->size, row.weight, w->d, w->sum[taps.second & 1]);
    }
    flush_rows(loss, c, &next, b->end, dlogits, w);
}

/* ---- kernels ---- */

/* The scratch: columns, the sums of all bands (forward), then the threads' rows. */
typedef struct Scratch {
    Sums *sums;
    float *threads;
    int64_t thread_floats;
    size_t bytes;
} Scratch;

static Scratch scratch_of(const KernelCall *call, const MaskLoss *loss, bool gradient)
{
    Work sizes;
    size_t at = mask_columns_bytes(loss);
    Scratch s = {.sums = (Sums *)((char *)call->scratch + at),
                 .thread_floats = work_layout(loss, gradient, NULL, &sizes)};
    if (!gradient)
        at += (size_t)tile_round(loss->prompts * loss->candidates * BANDS) * sizeof(Sums);
    s.threads = (float *)((char *)call->scratch + at);
    s.bytes = at + (size_t)(call->n_threads * s.thread_floats) * sizeof(float);
    return s;
}

static void focal_dice_finish(const KernelCall *call, const MaskLoss *loss, const Sums *sums)
{
    for (int64_t cell = 0; cell < loss->prompts * loss->candidates; cell++) {
        Sums total = {0};
        if (!mask_takes_part(loss, cell % loss->candidates)) {
            mask_set_no_terms(call, cell);
            continue;
        }
        for (int64_t i = cell * BANDS; i < (cell + 1) * BANDS; i++) {
            total.focal += sums[i].focal;
            total.pt += sums[i].pt;
            total.p_and_t += sums[i].p_and_t;
        }
        mask_set_terms(call, cell, total.focal / (double)(loss->size * loss->size), total.pt,
                       total.p_and_t);
    }
}

/* One band of all candidates of one mask. */
static void focal_dice_unit(const KernelCall *call, const MaskLoss *loss,
                            const MaskColumns *columns, int64_t unit, Sums *sums, Work *w)
{
    const FocalDiceAttr *attr = &call->attr->focal_dice;
    Focal focal = {(float)attr->alpha, (float)attr->gamma};
    int64_t prompt = unit / BANDS, index = unit % BANDS;
    Band b = band_of(prompt, 0, index, loss->size, w);
    for (int64_t y = b.begin; y < b.end; y++)
        mask_target_row(loss, prompt, y, w->target + (y - b.begin) * loss->size);
    for (int64_t c = 0; c < loss->candidates; c++) {
        if (!mask_takes_part(loss, c)) continue;
        b = band_of(prompt, c, index, loss->size, w);
        sums[(prompt * loss->candidates + c) * BANDS + index] = sum_band(loss, columns, focal, &b,
                                                                         w);
    }
}

static void focal_dice_run(const KernelCall *call)
{
    MaskLoss loss = mask_loss_of(call, call->attr->focal_dice.size);
    MaskColumns columns = mask_columns_make(&loss, call->scratch);
    Scratch scratch = scratch_of(call, &loss, false);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Work w;
        int64_t begin, end;
        work_layout(&loss, false, scratch.threads + t * scratch.thread_floats, &w);
        cpu_split(loss.prompts * BANDS, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++)
            focal_dice_unit(call, &loss, &columns, unit, scratch.sums, &w);
    }
    focal_dice_finish(call, &loss, scratch.sums);
}

/* One band of one candidate. Sources 4 and 5: sums and dterms (N,M,C,2). */
static void focal_dice_grad_unit(const KernelCall *call, const MaskLoss *loss,
                                 const MaskColumns *columns, int64_t unit, Work *w)
{
    const FocalDiceAttr *attr = &call->attr->focal_dice_grad;
    int64_t cell = unit / BANDS, candidate = cell % loss->candidates;
    Band b = band_of(cell / loss->candidates, candidate, unit % BANDS, loss->height, w);
    const float *sums = (const float *)call->src[4].data + 2 * cell;
    const float *dterms = (const float *)call->src[5].data + 2 * cell;
    float *dlogits = (float *)call->dst[0].data + cell * mask_map_elems(loss);
    if (!mask_takes_part(loss, candidate) || (dterms[0] == 0.0f && dterms[1] == 0.0f)) {
        memset(dlogits + b.begin * loss->width, 0,
               (size_t)((b.end - b.begin) * loss->width) * sizeof(float));
        return;
    }
    Focal focal = {(float)attr->alpha, (float)attr->gamma};
    float dfocal = dterms[0] / (float)(loss->size * loss->size);
    grad_band(loss, columns, focal, dfocal, mask_dice(sums, dterms[1]), dlogits, &b, w);
}

/* Bands are dealt in turn: mostly one candidate of each mask has a gradient, and no thread should
 * get only those. */
static void focal_dice_grad_run(const KernelCall *call)
{
    MaskLoss loss = mask_loss_of(call, call->attr->focal_dice_grad.size);
    MaskColumns columns = mask_columns_make(&loss, call->scratch);
    Scratch scratch = scratch_of(call, &loss, true);
    int64_t n_units = loss.prompts * loss.candidates * BANDS;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Work w;
        work_layout(&loss, true, scratch.threads + t * scratch.thread_floats, &w);
        for (int64_t unit = t; unit < n_units; unit += call->n_threads)
            focal_dice_grad_unit(call, &loss, &columns, unit, &w);
    }
}

Status cpu_focal_dice(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskLoss loss = mask_loss_of(call, call->attr->focal_dice.size);
    call->run = focal_dice_run;
    call->scratch_bytes = scratch_of(call, &loss, false).bytes;
    return OK;
}

Status cpu_focal_dice_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    MaskLoss loss = mask_loss_of(call, call->attr->focal_dice_grad.size);
    call->run = focal_dice_grad_run;
    call->scratch_bytes = scratch_of(call, &loss, true).bytes;
    return OK;
}
