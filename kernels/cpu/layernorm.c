/* LAYERNORM and its gradient, over the last axis, with the activation that follows.
 *
 * Called through cpu.c's table. A row is read once from memory and stays in the first cache level
 * for its mean, its variance (second pass, from the mean) and the result. Short rows are taken
 * several at a time, up to CPU_BLOCK elements, so that the activation has long runs.
 */
#include "kernels/cpu/activation.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/cpu/tile.h"

#include <math.h>

enum { N_ROW_BUFFERS = 3 };

/* The source as n_rows rows of n elements, `group` of them at a time. */
typedef struct Rows {
    int64_t n, n_rows, group;
} Rows;

static Rows rows_make(const KernelCall *call)
{
    Shape shape = call->src[0].shape;
    Rows r = {.n = shape_dim_from_end(shape, 1)};
    r.n_rows = shape_elems(shape) / r.n;
    r.group = r.n < CPU_BLOCK ? CPU_BLOCK / r.n : 1;
    return r;
}

static int64_t group_at(const Rows *rows, int64_t row, int64_t end)
{
    return end - row < rows->group ? end - row : rows->group;
}

static size_t buffers_bytes(const Rows *rows)
{
    return N_ROW_BUFFERS * norm_round((size_t)(rows->group * rows->n) * sizeof(float));
}

static void take_buffers(char **at, const Rows *rows, float *buffers[N_ROW_BUFFERS])
{
    for (int i = 0; i < N_ROW_BUFFERS; i++)
        buffers[i] = norm_take(at, rows->group * rows->n, sizeof(float));
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

static void normalise_row(int64_t n, const float *restrict x, float mean, float rstd,
                          const float *restrict weight, const float *restrict bias,
                          float *restrict y)
{
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
}

static void normalise_group(const KernelCall *call, int64_t n, int64_t row, int64_t count,
                            const float *mean, const float *rstd, const float *x, float *y)
{
    const float *weight = call->src[1].data, *bias = call->src[2].data;
    for (int64_t i = 0; i < count; i++)
        normalise_row(n, x + i * n, mean[row + i], rstd[row + i], weight, bias, y + i * n);
}

static void layernorm_rows(const KernelCall *call, int thread)
{
    const NormAttr *attr = &call->attr->layernorm;
    float *mean = call->dst[1].data, *rstd = call->dst[2].data;
    Rows rows = rows_make(call);
    char *at = (char *)call->scratch + (size_t)thread * buffers_bytes(&rows);
    float *buffers[N_ROW_BUFFERS];
    int64_t row, end, n = rows.n;
    take_buffers(&at, &rows, buffers);
    cpu_split(rows.n_rows, call->n_threads, thread, &row, &end);
    for (int64_t count; row < end; row += count) {
        count = group_at(&rows, row, end);
        const float *x = tile_load(&call->src[0], row * n, count * n, buffers[0]);
        float *y = cpu_row(&call->dst[0], row * n, buffers[1]);
        for (int64_t i = 0; i < count; i++)
            row_statistics(n, x + i * n, attr->eps, &mean[row + i], &rstd[row + i]);
        normalise_group(call, n, row, count, mean, rstd, x, y);
        activation_row(attr->act, count * n, y, y);
        tile_store(&call->dst[0], row * n, count * n, y);
    }
}

static void layernorm_run(const KernelCall *call)
{
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) layernorm_rows(call, t);
}

/* dx = rstd (g weight - mean(g weight) - xhat mean(g weight xhat)); sums += g xhat and g. The
 * product with the weight waits in dx, rounded as in the sum, so that equal terms cancel. */
static void grad_row(int64_t n, const float *restrict x, float mean, float rstd,
                     const float *restrict weight, const float *restrict g, NormSums *sums,
                     float *restrict dx)
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
        dx[i] = gw;
    }
    float mean_g = sum / (float)n, mean_gx = sum_x / (float)n;
    for (int64_t i = 0; i < n; i++) {
        float xhat = (x[i] - mean) * rstd;
        dx[i] = rstd * (dx[i] - mean_g - xhat * mean_gx);
    }
}

/* g = ddst * act'(normalised x) of some rows: in `g`, or without activation where ddst lies. */
static const float *grad_before_act(const KernelCall *call, int64_t n, int64_t row, int64_t count,
                                    const float *x, float *pre, float *g)
{
    Activation act = call->attr->layernorm_grad.act;
    const float *dy = tile_load(&call->src[5], row * n, count * n, g);
    if (act == ACT_NONE) return dy;
    normalise_group(call, n, row, count, call->src[3].data, call->src[4].data, x, pre);
    activation_grad_row(act, count * n, pre, dy, g);
    return g;
}

static size_t grad_thread_bytes(const Rows *rows)
{
    return norm_sums_bytes(rows->n) + buffers_bytes(rows);
}

static void grad_rows(const KernelCall *call, int thread)
{
    const float *mean = call->src[3].data, *rstd = call->src[4].data, *weight = call->src[1].data;
    Rows rows = rows_make(call);
    char *at = (char *)call->scratch + (size_t)thread * grad_thread_bytes(&rows);
    NormSums sums = norm_sums_take(&at, rows.n);
    float *buffers[N_ROW_BUFFERS];
    int64_t row, end, n = rows.n;
    take_buffers(&at, &rows, buffers);
    cpu_split(rows.n_rows, call->n_threads, thread, &row, &end);
    for (int64_t count; row < end; row += count) {
        count = group_at(&rows, row, end);
        const float *x = tile_load(&call->src[0], row * n, count * n, buffers[0]);
        const float *g = grad_before_act(call, n, row, count, x, buffers[1], buffers[2]);
        float *dx = cpu_row(&call->dst[0], row * n, buffers[1]);
        for (int64_t i = 0; i < count; i++) {
            grad_row(n, x + i * n, mean[row + i], rstd[row + i], weight, g + i * n, &sums,
                     dx + i * n);
            norm_sums_row(&sums);
        }
        tile_store(&call->dst[0], row * n, count * n, dx);
    }
    norm_sums_flush(&sums);
}

static void layernorm_grad_run(const KernelCall *call)
{
    float *out[] = {call->dst[1].data, call->dst[2].data};
    Rows rows = rows_make(call);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) grad_rows(call, t);
    for (int which = 0; which < 2; which++) {
        const char *sums = (const char *)call->scratch +
                           (size_t)which * (norm_sums_bytes(rows.n) / 2);
        for (int64_t i = 0; i < rows.n; i++) {
            double total = 0;
            for (int t = 0; t < call->n_threads; t++)
                total += ((const double *)(sums + (size_t)t * grad_thread_bytes(&rows)))[i];
            out[which][i] = (float)total;
        }
    }
}

Status cpu_layernorm(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = layernorm_run;
    Rows rows = rows_make(call);
    call->scratch_bytes = (size_t)call->n_threads * buffers_bytes(&rows);
    return OK;
}

Status cpu_layernorm_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = layernorm_grad_run;
    Rows rows = rows_make(call);
    call->scratch_bytes = (size_t)call->n_threads * grad_thread_bytes(&rows);
    return OK;
}
