/* Distillation's squared error, the choice of the best candidate among the mask losses, and the
 * error of the IoU head. */
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <string.h>

/* ---- mean squared error ---- */

/* Kept rows and values per row of image n; the factor 1 / (images * kept values) of its squares. */
static double mse_extent(const KernelCall *call, int64_t n, int64_t *rows, int64_t *row_values)
{
    const Shape *shape = &call->src[0].shape;
    const int32_t *keep = cpu_present(&call->src[2]) ? call->src[2].data : NULL;
    int64_t cols = keep ? keep[2 * n + 1] : shape->dim[2];
    *rows = keep ? keep[2 * n] : shape->dim[1];
    *row_values = cols * shape->dim[3];
    assert(*rows >= 0 && *rows <= shape->dim[1] && cols >= 0 && cols <= shape->dim[2]);
    int64_t values = *rows * *row_values;
    return values > 0 ? 1.0 / ((double)shape->dim[0] * (double)values) : 0.0;
}

static double squared_distance(const float *a, const float *b, int64_t n)
{
    double total = 0;
    for (int64_t first = 0; first < n; first += CPU_BLOCK) {
        float sum = 0.0f;
        int64_t end = tile_min(n, first + CPU_BLOCK);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < end; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
        total += sum;
    }
    return total;
}

/* Sums of map rows go to the scratch and are added up in order. */
static void mse_run(const KernelCall *call)
{
    const Shape *shape = &call->src[0].shape;
    const float *src = call->src[0].data, *target = call->src[1].data;
    int64_t height = shape->dim[1], row_elems = shape->dim[2] * shape->dim[3];
    double *sums = call->scratch, loss = 0;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t row = 0; row < shape->dim[0] * height; row++) {
        int64_t rows, values, at = row * row_elems;
        double factor = mse_extent(call, row / height, &rows, &values);
        sums[row] = row % height < rows ? factor * squared_distance(src + at, target + at, values)
                                        : 0.0;
    }
    for (int64_t row = 0; row < shape->dim[0] * height; row++) loss += sums[row];
    ((float *)call->dst[0].data)[0] = (float)(call->attr->mse.scale * loss);
}

Status cpu_mse(Backend *backend, KernelCall *call)
{
    (void)backend;
    const Shape *shape = &call->src[0].shape;
    call->run = mse_run;
    call->scratch_bytes = (size_t)(shape->dim[0] * shape->dim[1]) * sizeof(double);
    return OK;
}

static void mse_grad_run(const KernelCall *call)
{
    const Shape *shape = &call->src[0].shape;
    int64_t height = shape->dim[1], row_elems = shape->dim[2] * shape->dim[3];
    double dloss = ((const float *)call->src[3].data)[0] * call->attr->mse_grad.scale;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t row = 0; row < shape->dim[0] * height; row++) {
        int64_t rows, values, at = row * row_elems;
        float factor = (float)(2 * dloss * mse_extent(call, row / height, &rows, &values));
        const float *src = (const float *)call->src[0].data + at;
        const float *target = (const float *)call->src[1].data + at;
        float *dst = (float *)call->dst[0].data + at;
        if (row % height >= rows) values = 0;
#pragma omp simd
        for (int64_t i = 0; i < values; i++) dst[i] = factor * (src[i] - target[i]);
        memset(dst + values, 0, (size_t)(row_elems - values) * sizeof(float));
    }
}

Status cpu_mse_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = mse_grad_run;
    return OK;
}

/* ---- the best candidate: a few hundred numbers, no threads ---- */

static void min_candidate_run(const KernelCall *call)
{
    const CandidateAttr *attr = &call->attr->min_candidate;
    int64_t n = call->src[0].shape.dim[2], prompts = shape_elems(call->src[2].shape);
    bool many = *(const int32_t *)call->src[1].data == 1;
    const float *terms = call->src[0].data, *weight = call->src[2].data;
    float *candidates = call->dst[1].data;
    double loss = 0;
    for (int64_t m = 0; m < prompts; m++, terms += 2 * n, candidates += n) {
        int64_t best = many;
        for (int64_t c = 0; c < n; c++)
            candidates[c] = (float)(attr->mask_weight * terms[2 * c] +
                                    attr->dice_weight * terms[2 * c + 1]);
        for (int64_t c = 2; many && c < n; c++)
            if (candidates[c] < candidates[best]) best = c;
        ((int32_t *)call->dst[2].data)[m] = (int32_t)best;
        loss += (double)weight[m] * candidates[best];
    }
    ((float *)call->dst[0].data)[0] = (float)loss;
}

Status cpu_min_candidate(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = min_candidate_run;
    return OK;
}

static void min_candidate_grad_run(const KernelCall *call)
{
    const CandidateAttr *attr = &call->attr->min_candidate_grad;
    int64_t n = call->src[0].shape.dim[2], prompts = shape_elems(call->src[1].shape);
    const float *weight = call->src[1].data;
    const int32_t *best = call->src[2].data;
    double dloss = ((const float *)call->src[3].data)[0];
    float *dterms = call->dst[0].data;
    memset(dterms, 0, (size_t)(prompts * n * 2) * sizeof(float));
    for (int64_t m = 0; m < prompts; m++) {
        dterms[2 * (m * n + best[m])] = (float)(dloss * weight[m] * attr->mask_weight);
        dterms[2 * (m * n + best[m]) + 1] = (float)(dloss * weight[m] * attr->dice_weight);
    }
}

Status cpu_min_candidate_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = min_candidate_grad_run;
    return OK;
}

/* ---- the IoU head: as few numbers ---- */

/* The candidates that take part: [*begin, returned). */
static int64_t mode_candidates(const KernelCall *call, int64_t *begin)
{
    bool many = *(const int32_t *)call->src[2].data == 1;
    *begin = many;
    return many ? call->src[0].shape.dim[2] : 1;
}

static void iou_mse_run(const KernelCall *call)
{
    int64_t n = call->src[0].shape.dim[2], prompts = shape_elems(call->src[3].shape), begin;
    int64_t end = mode_candidates(call, &begin);
    const float *pred = call->src[0].data, *iou = call->src[1].data, *weight = call->src[3].data;
    double loss = 0;
    for (int64_t m = 0; m < prompts; m++, pred += n, iou += n) {
        double sum = 0;
        for (int64_t c = begin; c < end; c++)
            sum += ((double)pred[c] - iou[c]) * ((double)pred[c] - iou[c]);
        loss += weight[m] * sum / (double)(end - begin);
    }
    ((float *)call->dst[0].data)[0] = (float)(call->attr->iou_mse.scale * loss);
}

static void iou_mse_grad_run(const KernelCall *call)
{
    int64_t n = call->src[0].shape.dim[2], prompts = shape_elems(call->src[3].shape), begin;
    int64_t end = mode_candidates(call, &begin);
    const float *pred = call->src[0].data, *iou = call->src[1].data, *weight = call->src[3].data;
    double dloss = ((const float *)call->src[4].data)[0] * call->attr->iou_mse_grad.scale;
    float *dpred = call->dst[0].data;
    memset(dpred, 0, (size_t)(prompts * n) * sizeof(float));
    for (int64_t m = 0; m < prompts; m++, pred += n, iou += n, dpred += n)
        for (int64_t c = begin; c < end; c++)
            dpred[c] = (float)(dloss * weight[m] * 2 * ((double)pred[c] - iou[c]) /
                               (double)(end - begin));
}

CPU_BIND(iou_mse)
CPU_BIND(iou_mse_grad)
