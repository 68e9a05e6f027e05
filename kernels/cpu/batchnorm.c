/* BATCHNORM, BATCHNORM_FROZEN, BN_MOMENTS and their gradients.
 *
 * Called through cpu.c's table. A map N,H,W,C is n_values rows of C channels. Bound by memory, so
 * the passes over the map are as few as can be: statistics + application forward, sums +
 * application backward, and one for each of the frozen forms. Backward, g = ddst * act'(input of
 * the activation) is needed in both passes: the first leaves it in dsrc if that is f32; rounded to
 * 16 bits it would spoil the result, so there it is computed twice.
 *
 * Narrow maps are folded: `fold` neighbouring rows count as one of fold*C columns, with the
 * parameters repeated, so that inner loops run over about CPU_BLOCK elements for any C.
 *
 * Statistics: sums of (x - pivot) and its square, in f32 over a few rows, then in double. The
 * pivot, the mean of a sample of rows, lies within the spread of the values, so the variance does
 * not cancel even where it is tiny beside the mean (LiteMLA's is 5e-4). They are applied as they
 * are given out, so that the frozen form with them gives the same bits.
 */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/cpu/tile.h"

#include <math.h>
#include <string.h>

enum { PIVOT_ROWS = 16 };

typedef struct Fold {
    int64_t channels, fold, width; /* width = fold * channels */
    int64_t n_rows;                /* of `width` elements */
    double n_values;               /* per channel */
} Fold;

static Fold fold_make(Shape shape)
{
    int64_t channels = shape_dim_from_end(shape, 1), rows = shape_elems(shape) / channels;
    Fold f = {.channels = channels,
              .fold = 1,
              .width = channels,
              .n_rows = rows,
              .n_values = (double)rows};
    while (f.n_rows % 2 == 0 && 2 * f.width <= CPU_BLOCK) {
        f.fold *= 2;
        f.width *= 2;
        f.n_rows /= 2;
    }
    return f;
}

/* What a row of the map meets: per column, repeated over the fold. */
typedef struct Params {
    float *mean;  /* or the pivot, while statistics are taken */
    float *scale; /* weight / sqrt(var + eps) */
    float *bias;
    float *mean_g; /* gradient only: mean of g, and factor of (x - mean) */
    float *slope;
} Params;

typedef struct Plan {
    Fold fold;
    Params params;
    char *threads; /* of thread t: threads + t * thread_bytes */
    size_t thread_bytes;
} Plan;

enum { N_PARAMS = 5, N_ROW_BUFFERS = 3 };

static Plan plan_make(const KernelCall *call)
{
    Plan plan = {.fold = fold_make(call->src[0].shape)};
    char *at = call->scratch;
    float **params[N_PARAMS] = {&plan.params.mean, &plan.params.scale, &plan.params.bias,
                                &plan.params.mean_g, &plan.params.slope};
    for (int i = 0; i < N_PARAMS; i++) *params[i] = norm_take(&at, plan.fold.width, sizeof(float));
    plan.threads = at;
    plan.thread_bytes = norm_sums_bytes(plan.fold.width) +
                        N_ROW_BUFFERS * norm_round((size_t)plan.fold.width * sizeof(float));
    return plan;
}

static size_t plan_bytes(const KernelCall *call)
{
    Fold fold = fold_make(call->src[0].shape);
    size_t row_bytes = norm_round((size_t)fold.width * sizeof(float));
    return N_PARAMS * row_bytes +
           (size_t)call->n_threads * (norm_sums_bytes(fold.width) + N_ROW_BUFFERS * row_bytes);
}

/* One thread's share of the scratch and of the rows. */
typedef struct Share {
    NormSums sums;
    float *buffer[N_ROW_BUFFERS];
    int64_t begin, end;
} Share;

static Share share_take(const Plan *plan, int thread, int n_threads)
{
    char *at = plan->threads + (size_t)thread * plan->thread_bytes;
    Share share = {.sums = norm_sums_take(&at, plan->fold.width)};
    for (int i = 0; i < N_ROW_BUFFERS; i++)
        share.buffer[i] = norm_take(&at, plan->fold.width, sizeof(float));
    cpu_split(plan->fold.n_rows, n_threads, thread, &share.begin, &share.end);
    return share;
}

/* The totals of all threads and of all fold copies of one channel, in order. */
static double channel_total(const Plan *plan, int n_threads, int which, int64_t channel)
{
    double total = 0;
    for (int t = 0; t < n_threads; t++) {
        const char *sums = plan->threads + (size_t)t * plan->thread_bytes;
        sums += (size_t)which * (norm_sums_bytes(plan->fold.width) / 2);
        for (int64_t i = channel; i < plan->fold.width; i += plan->fold.channels)
            total += ((const double *)sums)[i];
    }
    return total;
}

static void set_param(const Fold *fold, float *param, int64_t channel, double value)
{
    for (int64_t i = channel; i < fold->width; i += fold->channels) param[i] = (float)value;
}

static const float *f32_data(const Tensor *tensor) { return tensor->data; }

/* mean, scale and bias from the operands weight, bias and the given statistics. */
static void set_affine(const KernelCall *call, const Plan *plan, double eps, int64_t channel,
                       double mean, double var)
{
    const Params *p = &plan->params;
    set_param(&plan->fold, p->mean, channel, mean);
    set_param(&plan->fold, p->scale, channel, f32_data(&call->src[1])[channel] / sqrt(var + eps));
    set_param(&plan->fold, p->bias, channel, f32_data(&call->src[2])[channel]);
}

/* ---- rows ---- */

static void normalise_row(int64_t n, const Params *p, const float *x, float *y)
{
    const float *mean = p->mean, *scale = p->scale, *bias = p->bias;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean[i]) * scale[i] + bias[i];
}

static void sum_row(int64_t n, const float *restrict x, const float *restrict pivot,
                    float *restrict sum, float *restrict squares)
{
    for (int64_t i = 0; i < n; i++) {
        float d = x[i] - pivot[i];
        sum[i] += d;
        squares[i] += d * d;
    }
}

static void sum_grad_row(int64_t n, const float *restrict x, const float *restrict mean,
                         const float *restrict g, float *restrict sum_g, float *restrict sum_gd)
{
    for (int64_t i = 0; i < n; i++) {
        sum_g[i] += g[i];
        sum_gd[i] += g[i] * (x[i] - mean[i]);
    }
}

static void frozen_dsrc_row(int64_t n, const Params *p, const float *g, float *dx)
{
    const float *scale = p->scale;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) dx[i] = g[i] * scale[i];
}

static void dsrc_row(int64_t n, const Params *p, const float *x, const float *g, float *dx)
{
    const float *mean = p->mean, *scale = p->scale, *mean_g = p->mean_g, *slope = p->slope;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++)
        dx[i] = scale[i] * (g[i] - mean_g[i]) - slope[i] * (x[i] - mean[i]);
}

/* ---- forward ---- */

/* The mean of some rows spread over the map, as pivot of the sums to come. */
static void choose_pivot(const KernelCall *call, const Plan *plan)
{
    const Fold *fold = &plan->fold;
    Share share = share_take(plan, 0, 1);
    int64_t n = fold->n_rows < PIVOT_ROWS ? fold->n_rows : PIVOT_ROWS;
    memset(plan->params.mean, 0, (size_t)fold->width * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        const float *x = tile_load(&call->src[0], i * fold->n_rows / n * fold->width, fold->width,
                                   share.buffer[0]);
        sum_row(fold->width, x, plan->params.mean, share.sums.part[0], share.sums.part[1]);
    }
    norm_sums_flush(&share.sums);
    for (int64_t c = 0; c < fold->channels; c++)
        set_param(fold, plan->params.mean, c,
                  channel_total(plan, 1, 0, c) / (double)(n * fold->fold));
}

static void take_statistics(const KernelCall *call, const Plan *plan)
{
    int64_t width = plan->fold.width;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Share share = share_take(plan, t, call->n_threads);
        for (int64_t row = share.begin; row < share.end; row++) {
            const float *x = tile_load(&call->src[0], row * width, width, share.buffer[0]);
            sum_row(width, x, plan->params.mean, share.sums.part[0], share.sums.part[1]);
            norm_sums_row(&share.sums);
        }
        norm_sums_flush(&share.sums);
    }
}

static void apply_rows(const KernelCall *call, const Plan *plan, Activation act)
{
    int64_t width = plan->fold.width;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Share share = share_take(plan, t, call->n_threads);
        for (int64_t row = share.begin; row < share.end; row++) {
            const float *x = tile_load(&call->src[0], row * width, width, share.buffer[0]);
            float *y = cpu_row(&call->dst[0], row * width, share.buffer[1]);
            normalise_row(width, &plan->params, x, y);
            activation_row(act, width, y, y);
            tile_store(&call->dst[0], row * width, width, y);
        }
    }
}

/* mean, var (C) of source 0. */
static void moments(const KernelCall *call, const Plan *plan, float *mean, float *var)
{
    choose_pivot(call, plan);
    take_statistics(call, plan);
    for (int64_t c = 0; c < plan->fold.channels; c++) {
        double shift = channel_total(plan, call->n_threads, 0, c) / plan->fold.n_values;
        double square = channel_total(plan, call->n_threads, 1, c) / plan->fold.n_values;
        double exact_var = square - shift * shift;
        mean[c] = (float)(plan->params.mean[c] + shift);
        var[c] = exact_var < 0 ? 0 : (float)exact_var;
    }
}

static void batchnorm_run(const KernelCall *call)
{
    Plan plan = plan_make(call);
    float *mean = call->dst[1].data, *var = call->dst[2].data;
    moments(call, &plan, mean, var);
    for (int64_t c = 0; c < plan.fold.channels; c++)
        set_affine(call, &plan, call->attr->batchnorm.eps, c, mean[c], var[c]);
    apply_rows(call, &plan, call->attr->batchnorm.act);
}

static void bn_moments_run(const KernelCall *call)
{
    Plan plan = plan_make(call);
    float *mean = call->dst[0].data;
    moments(call, &plan, mean, mean + plan.fold.channels);
}

static void batchnorm_frozen_run(const KernelCall *call)
{
    Plan plan = plan_make(call);
    const float *mean = call->src[3].data, *var = call->src[4].data;
    for (int64_t c = 0; c < plan.fold.channels; c++)
        set_affine(call, &plan, call->attr->batchnorm_frozen.eps, c, mean[c], var[c]);
    apply_rows(call, &plan, call->attr->batchnorm_frozen.act);
}

/* ---- gradients ---- */

/* g of one row: in `g`, or without activation where ddst lies. */
static const float *grad_before_act(const KernelCall *call, const Plan *plan, Activation act,
                                    int64_t row, const float *x, float *pre, float *g)
{
    int64_t width = plan->fold.width;
    const float *dy = tile_load(&call->src[5], row * width, width, g);
    if (act == ACT_NONE) return dy;
    normalise_row(width, &plan->params, x, pre);
    activation_grad_row(act, width, pre, dy, g);
    return g;
}

/* Sums of g and g (x - mean). The frozen form has its dsrc at once, the other leaves g there if it
 * can. */
static void sum_gradients(const KernelCall *call, const Plan *plan, Activation act, bool frozen)
{
    int64_t width = plan->fold.width;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Share share = share_take(plan, t, call->n_threads);
        for (int64_t row = share.begin; row < share.end; row++) {
            const float *x = tile_load(&call->src[0], row * width, width, share.buffer[0]);
            float *dx = cpu_row(&call->dst[0], row * width, share.buffer[1]);
            float *kept = frozen ? share.buffer[2]
                                 : cpu_row(&call->dst[0], row * width, share.buffer[2]);
            const float *g = grad_before_act(call, plan, act, row, x, share.buffer[1], kept);
            sum_grad_row(width, x, plan->params.mean, g, share.sums.part[0], share.sums.part[1]);
            norm_sums_row(&share.sums);
            if (!frozen) continue;
            frozen_dsrc_row(width, &plan->params, g, dx);
            tile_store(&call->dst[0], row * width, width, dx);
        }
        norm_sums_flush(&share.sums);
    }
}

static void apply_gradients(const KernelCall *call, const Plan *plan, Activation act)
{
    int64_t width = plan->fold.width;
    bool kept = act != ACT_NONE && call->dst[0].dtype == DT_F32;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Share share = share_take(plan, t, call->n_threads);
        for (int64_t row = share.begin; row < share.end; row++) {
            const float *x = tile_load(&call->src[0], row * width, width, share.buffer[0]);
            float *dx = cpu_row(&call->dst[0], row * width, share.buffer[1]);
            const float *g = kept ? dx
                                  : grad_before_act(call, plan, act, row, x, share.buffer[1],
                                                    share.buffer[2]);
            dsrc_row(width, &plan->params, x, g, dx);
            tile_store(&call->dst[0], row * width, width, dx);
        }
    }
}

static void grad_run(const KernelCall *call, double eps, Activation act, bool frozen)
{
    Plan plan = plan_make(call);
    const float *mean = call->src[3].data, *var = call->src[4].data;
    float *dweight = call->dst[1].data, *dbias = call->dst[2].data;
    for (int64_t c = 0; c < plan.fold.channels; c++)
        set_affine(call, &plan, eps, c, mean[c], var[c]);
    sum_gradients(call, &plan, act, frozen);
    for (int64_t c = 0; c < plan.fold.channels; c++) {
        double rstd = 1.0 / sqrt(var[c] + eps);
        double sum_g = channel_total(&plan, call->n_threads, 0, c);
        double sum_gd = channel_total(&plan, call->n_threads, 1, c);
        dweight[c] = (float)(sum_gd * rstd);
        dbias[c] = (float)sum_g;
        set_param(&plan.fold, plan.params.mean_g, c, sum_g / plan.fold.n_values);
        double weight = f32_data(&call->src[1])[c];
        set_param(&plan.fold, plan.params.slope, c,
                  weight * rstd * rstd * rstd * sum_gd / plan.fold.n_values);
    }
    if (!frozen) apply_gradients(call, &plan, act);
}

static void batchnorm_grad_run(const KernelCall *call)
{
    const NormAttr *attr = &call->attr->batchnorm_grad;
    grad_run(call, attr->eps, attr->act, false);
}

static void batchnorm_frozen_grad_run(const KernelCall *call)
{
    const NormAttr *attr = &call->attr->batchnorm_frozen_grad;
    grad_run(call, attr->eps, attr->act, true);
}

/* dsrc = (dmean + 2 dvar (src - mean)) / n, which a row of a map meets as any other norm. */
static void bn_moments_grad_run(const KernelCall *call)
{
    Plan plan = plan_make(call);
    const float *mean = call->src[1].data, *dmean = call->src[2].data;
    const float *dvar = dmean + plan.fold.channels;
    for (int64_t c = 0; c < plan.fold.channels; c++) {
        set_param(&plan.fold, plan.params.mean, c, mean[c]);
        set_param(&plan.fold, plan.params.scale, c, 2.0 * dvar[c] / plan.fold.n_values);
        set_param(&plan.fold, plan.params.bias, c, dmean[c] / plan.fold.n_values);
    }
    apply_rows(call, &plan, ACT_NONE);
}

/* ---- bind ---- */

static Status bind_norm(KernelCall *call, void (*run)(const KernelCall *call))
{
    call->run = run;
    call->scratch_bytes = plan_bytes(call);
    return OK;
}

Status cpu_batchnorm(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, batchnorm_run);
}

Status cpu_batchnorm_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, batchnorm_grad_run);
}

Status cpu_batchnorm_frozen(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, batchnorm_frozen_run);
}

Status cpu_batchnorm_frozen_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, batchnorm_frozen_grad_run);
}

Status cpu_bn_moments(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, bn_moments_run);
}

Status cpu_bn_moments_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind_norm(call, bn_moments_grad_run);
}
