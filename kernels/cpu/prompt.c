/* Embedding of point and box prompts, its gradient, and the counts of prompt kinds that open
 * parameters' gates. Small work: up to a few thousand tokens of 256 channels.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/turns.h"

#include <assert.h>
#include <string.h>

enum { LABEL_EMPTY = -2, LABEL_NOT_A_POINT = -1, N_POINT_LABELS = 4, N_EMBEDDINGS = 5 };

/* Sources 3..6 of POINT_EMBED are e0..e3, source 7 not_a_point. */
static void embed_point(const KernelCall *call, int64_t point, float *dst)
{
    int64_t half = call->src[2].shape.dim[1], width = 2 * half;
    int32_t label = ((const int32_t *)call->src[1].data)[point];
    if (label == LABEL_EMPTY) {
        memset(dst, 0, (size_t)width * sizeof(float));
    } else if (label == LABEL_NOT_A_POINT) {
        memcpy(dst, call->src[7].data, (size_t)width * sizeof(float));
    } else {
        assert(label >= 0 && label < N_POINT_LABELS);
        const float *coord = (const float *)call->src[0].data + 2 * point;
        const float *embedding = call->src[3 + label].data;
        double frame = call->attr->point_embed.frame;
        turns_code(2 * (coord[0] + 0.5) / frame - 1, 2 * (coord[1] + 0.5) / frame - 1,
                   call->src[2].data, half, dst);
        for (int64_t i = 0; i < width; i++) dst[i] += embedding[i];
    }
}

static void point_embed_run(const KernelCall *call)
{
    int64_t width = 2 * call->src[2].shape.dim[1];
    int64_t n_points = shape_elems(call->src[1].shape);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int64_t point = 0; point < n_points; point++)
        embed_point(call, point, (float *)call->dst[0].data + point * width);
}

Status cpu_point_embed(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = point_embed_run;
    return OK;
}

/* Adds one thread's points into sums (N_EMBEDDINGS, width): e0..e3, not_a_point. */
static void sum_points(const KernelCall *call, int64_t begin, int64_t end, int64_t width,
                       double *sums)
{
    memset(sums, 0, (size_t)(N_EMBEDDINGS * width) * sizeof(double));
    for (int64_t point = begin; point < end; point++) {
        int32_t label = ((const int32_t *)call->src[0].data)[point];
        if (label == LABEL_EMPTY) continue;
        double *sum = sums + (label == LABEL_NOT_A_POINT ? N_POINT_LABELS : label) * width;
        const float *grad = (const float *)call->src[1].data + point * width;
        for (int64_t i = 0; i < width; i++) sum[i] += grad[i];
    }
}

static void point_embed_grad_run(const KernelCall *call)
{
    int64_t width = call->src[1].shape.dim[3], n_points = shape_elems(call->src[0].shape);
    double *sums = call->scratch;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t begin, end;
        cpu_split(n_points, call->n_threads, t, &begin, &end);
        sum_points(call, begin, end, width, sums + t * N_EMBEDDINGS * width);
    }
    for (int64_t e = 0; e < N_EMBEDDINGS; e++) {
        float *dst = call->dst[e].data;
        for (int64_t i = 0; i < width; i++) {
            double total = 0;
            for (int t = 0; t < call->n_threads; t++)
                total += sums[(t * N_EMBEDDINGS + e) * width + i];
            dst[i] = (float)total;
        }
    }
}

Status cpu_point_embed_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = point_embed_grad_run;
    call->scratch_bytes = (size_t)(call->n_threads * N_EMBEDDINGS * call->src[1].shape.dim[3]) *
                          sizeof(double);
    return OK;
}

/* A few hundred labels: no threads. */
static void prompt_counts_run(const KernelCall *call)
{
    const Shape *shape = &call->src[0].shape;
    int64_t per_image = shape->dim[1] * shape->dim[2];
    const int32_t *label = call->src[0].data;
    float *counts = call->dst[0].data;
    for (int64_t n = 0; n < shape->dim[0]; n++, label += per_image) {
        bool has_point = false, has_box = false;
        for (int64_t i = 0; i < per_image; i++) {
            has_point |= label[i] == 0 || label[i] == 1;
            has_box |= label[i] == 2 || label[i] == 3;
        }
        counts[0] += has_point;
        counts[1] += has_box;
    }
}

Status cpu_prompt_counts(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = prompt_counts_run;
    return OK;
}
