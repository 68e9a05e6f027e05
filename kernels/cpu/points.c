/* PointRend's losses: the choice of points, and cross entropy and Dice on them with their gradient.
 *
 * Logits at points are read in double and in the order of operations of the reference, so that both
 * rank points alike. A mask's target is expanded once per thread and serves all its candidates.
 * source  Kirillov et al., PointRend (2020), section 3.1
 */
#include "base/rng.h"
#include "kernels/cpu/mask_loss.h"
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { POINT_BLOCK = 256 };

/* ---- bilinear reads ---- */

/* What one value is a weighted sum of, along one axis. */
typedef struct Taps {
    int64_t at[2];
    double weight[2];
} Taps;

static inline int64_t pixel_inside(int64_t at, int64_t size)
{
    return at < 0 ? 0 : tile_min(at, size - 1);
}

/* The pixels around the point u of an axis of `size` pixels, [0,1] long; outside, the weight is 0.
 * source  torch.nn.functional.grid_sample, zero padding, align_corners=False */
static inline Taps point_taps(double u, int64_t size)
{
    double s = u * (double)size - 0.5, lower = floor(s), t = s - lower;
    int64_t first = (int64_t)lower, second = first + 1;
    Taps taps = {.at = {pixel_inside(first, size), pixel_inside(second, size)}};
    taps.weight[0] = taps.at[0] == first ? 1.0 - t : 0.0;
    taps.weight[1] = taps.at[1] == second ? t : 0.0;
    return taps;
}

/* The map's rows (or columns) around row i of the up-sampled map. */
static inline Taps up_taps(int64_t i, int64_t n_src, int64_t n_dst)
{
    MaskTaps taps = mask_taps(i, n_src, n_dst);
    return (Taps){{taps.first, taps.second}, {1.0 - taps.weight, taps.weight}};
}

static inline double up_value(const float *logits, int64_t width, const Taps *row, const Taps *col)
{
    const float *above = logits + row->at[0] * width, *below = logits + row->at[1] * width;
    double sum = row->weight[0] * col->weight[0] * (double)above[col->at[0]];
    sum += row->weight[0] * col->weight[1] * (double)above[col->at[1]];
    sum += row->weight[1] * col->weight[0] * (double)below[col->at[0]];
    return sum + row->weight[1] * col->weight[1] * (double)below[col->at[1]];
}

/* The up-sampled logits at (u,v). */
static inline double logit_at(const MaskLoss *loss, const float *logits, double u, double v)
{
    Taps y = point_taps(v, loss->size), x = point_taps(u, loss->size);
    Taps row0 = up_taps(y.at[0], loss->height, loss->size);
    Taps row1 = up_taps(y.at[1], loss->height, loss->size);
    Taps col0 = up_taps(x.at[0], loss->width, loss->size);
    Taps col1 = up_taps(x.at[1], loss->width, loss->size);
    double sum = y.weight[0] * x.weight[0] * up_value(logits, loss->width, &row0, &col0);
    sum += y.weight[0] * x.weight[1] * up_value(logits, loss->width, &row0, &col1);
    sum += y.weight[1] * x.weight[0] * up_value(logits, loss->width, &row1, &col0);
    return sum + y.weight[1] * x.weight[1] * up_value(logits, loss->width, &row1, &col1);
}

/* Adds the gradient of logit_at to the map. */
static void logit_at_grad(const MaskLoss *loss, double u, double v, double gradient, float *dlogits)
{
    Taps y = point_taps(v, loss->size), x = point_taps(u, loss->size);
    for (int i = 0; i < 4; i++) {
        Taps row = up_taps(y.at[i / 2], loss->height, loss->size);
        Taps col = up_taps(x.at[i % 2], loss->width, loss->size);
        double d = gradient * y.weight[i / 2] * x.weight[i % 2];
        for (int j = 0; j < 4; j++)
            dlogits[row.at[j / 2] * loss->width + col.at[j % 2]] += (float)(d * row.weight[j / 2] *
                                                                            col.weight[j % 2]);
    }
}

static float target_at(const MaskLoss *loss, const float *map, double u, double v)
{
    Taps y = point_taps(v, loss->size), x = point_taps(u, loss->size);
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += y.weight[i / 2] * x.weight[i % 2] *
               (double)map[y.at[i / 2] * loss->size + x.at[i % 2]];
    return (float)sum;
}

/* ---- choice of the points ---- */

static int64_t n_drawn(const PointSampleAttr *attr)
{
    return (int64_t)floor(attr->oversample * (double)attr->n_points);
}

/* A thread's scratch: of each drawn point |logit| as ordered bits, and its place. */
typedef struct Drawn {
    uint64_t *magnitude;
    float *point;
} Drawn;

static size_t drawn_bytes(const PointSampleAttr *attr)
{
    return (size_t)tile_round(n_drawn(attr)) * (sizeof(uint64_t) + 2 * sizeof(float));
}

static void draw_point(RngKey key, int64_t index, float point[2])
{
    point[0] = (float)rng_uniform(key, 2 * (uint64_t)index);
    point[1] = (float)rng_uniform(key, 2 * (uint64_t)index + 1);
}

/* The k-th smallest of n values, k >= 1, byte by byte from the top. *n_equal: how many of the
 * values equal to it are among the k smallest. */
static uint64_t kth_smallest(const uint64_t *value, int64_t n, int64_t k, int64_t *n_equal)
{
    uint64_t prefix = 0, known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        int64_t count[256] = {0}, below = 0;
        for (int64_t i = 0; i < n; i++)
            count[(value[i] >> shift) & 255] += (value[i] & known) == prefix;
        uint64_t byte = 0;
        while (below + count[byte] < k) below += count[byte++];
        k -= below;
        prefix |= byte << shift;
        known |= (uint64_t)255 << shift;
    }
    *n_equal = k;
    return prefix;
}

static void rank_points(const MaskLoss *loss, const float *logits, int64_t n, Drawn *d)
{
    for (int64_t i = 0; i < n; i++) {
        double magnitude = fabs(logit_at(loss, logits, d->point[2 * i], d->point[2 * i + 1]));
        memcpy(&d->magnitude[i], &magnitude, sizeof magnitude);
    }
}

/* Copies the `kept` points of smallest |logit|, in the order of their draws; first of equals. */
static float *keep_points(const Drawn *d, int64_t n, int64_t kept, float *dst)
{
    if (kept == 0) return dst;
    int64_t n_equal;
    uint64_t limit = kth_smallest(d->magnitude, n, kept, &n_equal);
    for (int64_t i = 0; i < n; i++) {
        if (d->magnitude[i] > limit || (d->magnitude[i] == limit && n_equal-- <= 0)) continue;
        *dst++ = d->point[2 * i];
        *dst++ = d->point[2 * i + 1];
    }
    return dst;
}

static void sample_cell(const KernelCall *call, const MaskLoss *loss, int64_t cell, Drawn *d)
{
    const PointSampleAttr *attr = &call->attr->point_sample;
    int64_t prompt = cell / loss->candidates, candidate = cell % loss->candidates;
    const int32_t *word = (const int32_t *)call->src[1].data + 2 * prompt;
    RngKey key = {.seed = ((uint64_t)(uint32_t)word[1] << 32) | (uint32_t)word[0],
                  .purpose = RNG_LOSS_POINTS,
                  .epoch = (uint32_t)candidate};
    int64_t n = n_drawn(attr), kept = (int64_t)floor(attr->importance * (double)attr->n_points);
    float *points = (float *)call->dst[0].data + cell * attr->n_points * 2;
    for (int64_t i = 0; i < n; i++) draw_point(key, i, d->point + 2 * i);
    rank_points(loss, mask_logits(loss, prompt, candidate), n, d);
    float *dst = keep_points(d, n, kept, points);
    assert(dst == points + 2 * kept);
    for (int64_t i = kept; i < attr->n_points; i++, dst += 2) draw_point(key, n + i - kept, dst);
}

static void point_sample_run(const KernelCall *call)
{
    const PointSampleAttr *attr = &call->attr->point_sample;
    const Shape *shape = &call->src[0].shape;
    MaskLoss loss = {.prompts = shape->dim[0] * shape->dim[1],
                     .candidates = shape->dim[2],
                     .height = shape->dim[3],
                     .width = shape->dim[4],
                     .size = attr->size,
                     .logits = call->src[0].data};
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t begin, end;
        char *scratch = (char *)call->scratch + (size_t)t * drawn_bytes(attr);
        Drawn d = {.magnitude = (uint64_t *)scratch};
        d.point = (float *)(d.magnitude + tile_round(n_drawn(attr)));
        cpu_split(loss.prompts * loss.candidates, call->n_threads, t, &begin, &end);
        for (int64_t cell = begin; cell < end; cell++) sample_cell(call, &loss, cell, &d);
    }
}

Status cpu_point_sample(Backend *backend, KernelCall *call)
{
    (void)backend;
    const PointSampleAttr *attr = &call->attr->point_sample;
    assert(floor(attr->importance * (double)attr->n_points) <= (double)n_drawn(attr));
    call->run = point_sample_run;
    call->scratch_bytes = (size_t)call->n_threads * drawn_bytes(attr);
    return OK;
}

/* ---- cross entropy and Dice ---- */

/* One candidate's points; source 4 of both ops is points (N,M,C,P,2). */
typedef struct Cell {
    int64_t index, prompt, candidate, n_points;
    const float *points, *logits;
} Cell;

static Cell cell_of(const KernelCall *call, const MaskLoss *loss, int64_t index)
{
    int64_t n_points = call->src[4].shape.dim[3];
    Cell cell = {.index = index,
                 .prompt = index / loss->candidates,
                 .candidate = index % loss->candidates,
                 .n_points = n_points,
                 .points = (const float *)call->src[4].data + index * n_points * 2};
    cell.logits = mask_logits(loss, cell.prompt, cell.candidate);
    return cell;
}

/* A thread's expanded target and whose it is. */
typedef struct Target {
    float *map; /* (size, size) */
    int64_t prompt;
} Target;

static void expand_target(const MaskLoss *loss, int64_t prompt, Target *target)
{
    if (target->prompt == prompt) return;
    for (int64_t y = 0; y < loss->size; y++)
        mask_target_row(loss, prompt, y, target->map + y * loss->size);
    target->prompt = prompt;
}

/* Logits and targets of the n points from `first` on. */
static void read_points(const MaskLoss *loss, const Cell *cell, const Target *target, int64_t first,
                        int64_t n, float *logit, float *value)
{
    const float *point = cell->points + 2 * first;
    for (int64_t i = 0; i < n; i++)
        logit[i] = (float)logit_at(loss, cell->logits, point[2 * i], point[2 * i + 1]);
    for (int64_t i = 0; i < n; i++)
        value[i] = target_at(loss, target->map, point[2 * i], point[2 * i + 1]);
}

static void loss_cell(const KernelCall *call, const MaskLoss *loss, int64_t index, Target *target)
{
    Cell cell = cell_of(call, loss, index);
    float logit[POINT_BLOCK], value[POINT_BLOCK];
    double bce = 0, sum_pt = 0, sum_p_and_t = 0;
    if (!mask_takes_part(loss, cell.candidate)) {
        mask_set_no_terms(call, index);
        return;
    }
    expand_target(loss, cell.prompt, target);
    for (int64_t first = 0; first < cell.n_points; first += POINT_BLOCK) {
        int64_t n = tile_min(POINT_BLOCK, cell.n_points - first);
        float ce = 0.0f, pt = 0.0f, p_and_t = 0.0f;
        read_points(loss, &cell, target, first, n, logit, value);
#pragma omp simd reduction(+ : ce, pt, p_and_t)
        for (int64_t i = 0; i < n; i++) {
            MaskPixel pixel = mask_pixel(logit[i], value[i]);
            ce += pixel.ce;
            pt += pixel.p * value[i];
            p_and_t += pixel.p + value[i];
        }
        bce += ce;
        sum_pt += pt;
        sum_p_and_t += p_and_t;
    }
    mask_set_terms(call, index, bce / (double)cell.n_points, sum_pt, sum_p_and_t);
}

/* Sources 5 and 6: sums and dterms (N,M,C,2). */
static void grad_cell(const KernelCall *call, const MaskLoss *loss, int64_t index, Target *target)
{
    Cell cell = cell_of(call, loss, index);
    const float *sums = (const float *)call->src[5].data + 2 * index;
    const float *dterms = (const float *)call->src[6].data + 2 * index;
    float *dlogits = (float *)call->dst[0].data + index * mask_map_elems(loss);
    float logit[POINT_BLOCK], value[POINT_BLOCK];
    memset(dlogits, 0, (size_t)mask_map_elems(loss) * sizeof(float));
    if (!mask_takes_part(loss, cell.candidate) || (dterms[0] == 0.0f && dterms[1] == 0.0f)) return;
    float dbce = dterms[0] / (float)cell.n_points;
    MaskDice dice = mask_dice(sums, dterms[1]);
    expand_target(loss, cell.prompt, target);
    for (int64_t first = 0; first < cell.n_points; first += POINT_BLOCK) {
        int64_t n = tile_min(POINT_BLOCK, cell.n_points - first);
        read_points(loss, &cell, target, first, n, logit, value);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            MaskPixel pixel = mask_pixel(logit[i], value[i]);
            logit[i] = dbce * (pixel.p - value[i]) +
                       pixel.p * pixel.q * (dice.slope * value[i] + dice.base);
        }
        const float *point = cell.points + 2 * first;
        for (int64_t i = 0; i < n; i++)
            logit_at_grad(loss, point[2 * i], point[2 * i + 1], logit[i], dlogits);
    }
}

typedef void RunCell(const KernelCall *call, const MaskLoss *loss, int64_t index, Target *target);

static void run_cells(const KernelCall *call, RunCell *run_cell)
{
    MaskLoss loss = mask_loss_of(call, call->attr->bce_dice_points.size);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t begin, end;
        Target target = {.map = (float *)call->scratch + t * loss.size * loss.size, .prompt = -1};
        cpu_split(loss.prompts * loss.candidates, call->n_threads, t, &begin, &end);
        for (int64_t cell = begin; cell < end; cell++) run_cell(call, &loss, cell, &target);
    }
}

static void bce_dice_run(const KernelCall *call) { run_cells(call, loss_cell); }
static void bce_dice_grad_run(const KernelCall *call) { run_cells(call, grad_cell); }

static Status bind(KernelCall *call, void (*run)(const KernelCall *))
{
    int64_t size = call->attr->bce_dice_points.size;
    call->run = run;
    call->scratch_bytes = (size_t)(call->n_threads * size * size) * sizeof(float);
    return OK;
}

Status cpu_bce_dice_points(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind(call, bce_dice_run);
}

Status cpu_bce_dice_points_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind(call, bce_dice_grad_run);
}
