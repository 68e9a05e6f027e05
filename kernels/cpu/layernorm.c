/* LAYERNORM and its gradient, over the last axis, with the activation that follows.
 *
 * Called through cpu.c's table. A row is read once from memory and stays in the first cache level for its
 * mean, its variance (second pass, from the mean) and the result.
 */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/cpu/tile.h"

#include <math.h>

enum { N_ROW_BUFFERS = 3 };

static int64_t row_length(const KernelCall *call) { return shape_dim_from_end(call->src[0].shape, 1); }
static int64_t n_rows(const KernelCall *call) { return shape_elems(call->src[0].shape) / row_length(call); }

static size_t buffers_bytes(int64_t n) { return N_ROW_BUFFERS * norm_round((size_t)n * sizeof(float)); }

static void take_buffers(char **at, int64_t n, float *buffers[N_ROW_BUFFERS])
{
    for (int i = 0; i < N_ROW_BUFFERS; i++) buffers[i] = norm_take(at, n, sizeof(float));
}

static void row_statistics(int64_t n, const float *x, double eps, float *mean, float *rstd)
{
    float sum = 0, squares = 0;
    #pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    float centre = sum / (float)n;
    #pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += (x[i] - centre) * (x[i] - centre);
    *mean = centre;
    *rstd = (float)(1.0 / sqrt((double)squares / (double)n + eps));
}

static void normalise_row(int64_t n, const float *restrict x, float mean, float rstd, const float *restrict weight,
                          const float *restrict bias, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
}

static void layernorm_run(const KernelCall *call)
{
    const NormAttr *attr = &call->attr->layernorm;
    const float *weight = call->src[1].data, *bias = call->src[2].data;
    float *mean = call->dst[1].data, *rstd = call->dst[2].data;
    int64_t n = row_length(call);
    #pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        char *at = (char *)call->scratch + (size_t)t * buffers_bytes(n);
        float *buffers[N_ROW_BUFFERS];
        int64_t row, end;
        take_buffers(&at, n, buffers);
        cpu_split(n_rows(call), call->n_threads, t, &row, &end);
        for (; row < end; row++) {
            const float *x = tile_load(&call->src[0], row * n, n, buffers[0]);
            float *y = cpu_row(&call->dst[0], row * n, buffers[1]);
            row_statistics(n, x, attr->eps, &mean[row], &rstd[row]);
            normalise_row(n, x, mean[row], rstd[row], weight, bias, y);
            activation_row(attr->act, n, y, y);
            tile_store(&call->dst[0], row * n, n, y);
        }
    }
}

/* dx = rstd (g weight - mean(g weight) - xhat mean(g weight xhat)); sums += g xhat and g. */
static void grad_row(int64_t n, const float *restrict x, float mean, float rstd, const float *restrict weight,
                     const float *restrict g, NormSums *sums, float *restrict dx)
{
    float *restrict dweight = sums->part[0], *restrict dbias = sums->part[1];
    float sum = 0, sum_x = 0;
    #pragma omp simd reduction(+ : sum, sum_x)
    for (int64_t i = 0; i < n; i++) {
        float xhat = (x[i] - mean) * rstd, gw = g[i] * weight[i];
        sum += gw;
        sum_x += gw * xhat;
        dweight[i] += g[i] * xhat;
        dbias[i] += g[i];
    }
    float mean_g = sum / (float)n, mean_gx = sum_x / (float)n;
    for (int64_t i = 0; i < n; i++) {
        float xhat = (x[i] - mean) * rstd;
        dx[i] = rstd * (g[i] * weight[i] - mean_g - xhat * mean_gx);
    }
}

/* g = ddst * act'(normalised x): in `g`, or without activation where ddst lies. */
static const float *grad_before_act(const KernelCall *call, int64_t row, int64_t n, const float *x, float *pre, float *g)
{
    const float *mean = call->src[3].data, *rstd = call->src[4].data;
    Activation act = call->attr->layernorm_grad.act;
    const float *dy = tile_load(&call->src[5], row * n, n, g);
    if (act == ACT_NONE) return dy;
    normalise_row(n, x, mean[row], rstd[row], call->src[1].data, call->src[2].data, pre);
    activation_grad_row(act, n, pre, dy, g);
    return g;
}

static size_t grad_thread_bytes(int64_t n) { return norm_sums_bytes(n) + buffers_bytes(n); }

static void grad_rows(const KernelCall *call, int thread)
{
    const float *mean = call->src[3].data, *rstd = call->src[4].data, *weight = call->src[1].data;
    int64_t n = row_length(call), row, end;
    char *at = (char *)call->scratch + (size_t)thread * grad_thread_bytes(n);
    NormSums sums = norm_sums_take(&at, n);
    float *buffers[N_ROW_BUFFERS];
    take_buffers(&at, n, buffers);
    cpu_split(n_rows(call), call->n_threads, thread, &row, &end);
    for (; row < end; row++) {
        const float *x = tile_load(&call->src[0], row * n, n, buffers[0]);
        const float *g = grad_before_act(call, row, n, x, buffers[1], buffers[2]);
        float *dx = cpu_row(&call->dst[0], row * n, buffers[1]);
        grad_row(n, x, mean[row], rstd[row], weight, g, &sums, dx);
        norm_sums_row(&sums);
        tile_store(&call->dst[0], row * n, n, dx);
    }
    norm_sums_flush(&sums);
}

static void layernorm_grad_run(const KernelCall *call)
{
    float *out[] = {call->dst[1].data, call->dst[2].data};
    int64_t n = row_length(call);
    #pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) grad_rows(call, t);
    for (int which = 0; which < 2; which++) {
        const char *sums = (const char *)call->scratch + (size_t)which * (norm_sums_bytes(n) / 2);
        for (int64_t i = 0; i < n; i++) {
            double total = 0;
            for (int t = 0; t < call->n_threads; t++)
                total += ((const double *)(sums + (size_t)t * grad_thread_bytes(n)))[i];
            out[which][i] = (float)total;
        }
    }
}

Status cpu_layernorm(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = layernorm_run;
    call->scratch_bytes = (size_t)call->n_threads * buffers_bytes(row_length(call));
    return OK;
}

Status cpu_layernorm_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = layernorm_grad_run;
    call->scratch_bytes = (size_t)call->n_threads * grad_thread_bytes(row_length(call));
    return OK;
}
