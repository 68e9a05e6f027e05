/* Norm of the gradients, clipping, AdamW and the moving average of the weights.
 *
 * Bound by memory: each runs once over its arrays, threads sharing blocks. Whether a step happens
 * is decided from scalars that earlier kernels wrote (ok, gate), never by the host.
 */
#include "kernels/cpu/tile.h"

#include <math.h>

/* ---- norm and clipping ---- */

/* Sums of blocks in f32 add up in double: per thread, then over the threads in order. */
static double sum_squares(const Tensor *src, int64_t begin, int64_t end)
{
    float tmp[CPU_BLOCK];
    double total = 0;
    for (int64_t first = begin; first < end; first += CPU_BLOCK) {
        int64_t n = tile_min(CPU_BLOCK, end - first);
        const float *row = cpu_load(src, first, n, tmp);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += row[i] * row[i];
        total += sum;
    }
    return total;
}

static void sumsq_run(const KernelCall *call)
{
    int64_t n = shape_elems(call->src[0].shape);
    double *sums = call->scratch, total = 0;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t begin, end;
        cpu_split(n, call->n_threads, t, &begin, &end);
        sums[t] = sum_squares(&call->src[0], begin, end);
    }
    for (int t = 0; t < call->n_threads; t++) total += sums[t];
    ((float *)call->dst[0].data)[0] += (float)total;
}

Status cpu_sumsq(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = sumsq_run;
    call->scratch_bytes = (size_t)call->n_threads * sizeof(double);
    return OK;
}

static float scalar(const Tensor *tensor) { return ((const float *)tensor->data)[0]; }

static void clip_run(const KernelCall *call)
{
    double max_norm = call->attr->clip.max_norm, loss_scale = scalar(&call->src[2]);
    double norm = sqrt(scalar(&call->src[0])) / loss_scale;
    double shrink = max_norm > 0 && norm > max_norm ? max_norm / norm : 1;
    ((float *)call->dst[0].data)[0] = isfinite(scalar(&call->src[1])) && isfinite(norm);
    ((float *)call->dst[1].data)[0] = (float)norm;
    ((float *)call->dst[2].data)[0] = (float)(shrink / loss_scale);
}

Status cpu_clip(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = clip_run;
    return OK;
}

/* ---- AdamW ---- */

/* The update with all scalars folded: m, v as usual, then
 * param = keep * param - rate * m / (sqrt(v) * root + eps) */
typedef struct Update {
    float scale, limit; /* of the gradient; limit: its largest magnitude */
    float beta1, rest1, beta2, rest2;
    float keep, rate, root, eps;
} Update;

static Update update_of(const KernelCall *call, double step)
{
    const AdamwAttr *a = &call->attr->adamw;
    double lr = scalar(&call->src[1]) * a->lr_scale;
    return (Update){
        .scale = scalar(&call->src[3]),
        .limit = a->clip_value > 0 ? (float)a->clip_value : INFINITY,
        .beta1 = (float)a->beta1,
        .rest1 = (float)(1 - a->beta1),
        .beta2 = (float)a->beta2,
        .rest2 = (float)(1 - a->beta2),
        .keep = (float)(1 - lr * a->weight_decay),
        .rate = (float)(lr / (1 - pow(a->beta1, step))),
        .root = (float)(1 / sqrt(1 - pow(a->beta2, step))),
        .eps = (float)a->eps,
    };
}

static void adamw_block(const Update *u, int64_t n, const float *restrict grad,
                        float *restrict param, float *restrict exp_avg, float *restrict exp_avg_sq)
{
    Update k = *u;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * k.scale;
        g = g > k.limit ? k.limit : g;
        g = g < -k.limit ? -k.limit : g;
        float m = k.beta1 * exp_avg[i] + k.rest1 * g;
        float v = k.beta2 * exp_avg_sq[i] + k.rest2 * (g * g);
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = k.keep * param[i] - k.rate * m / (sqrtf(v) * k.root + k.eps);
    }
}

static void adamw_run(const KernelCall *call)
{
    bool gate_open = !cpu_present(&call->src[4]) || scalar(&call->src[4]) != 0.0f;
    if (scalar(&call->src[2]) == 0.0f || !gate_open) return;
    float *step = call->dst[3].data;
    Update update = update_of(call, *step += 1.0f);
    int64_t n = shape_elems(call->dst[0].shape);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        int64_t begin, end;
        cpu_split(n, call->n_threads, t, &begin, &end);
        adamw_block(&update, end - begin, (const float *)call->src[0].data + begin,
                    (float *)call->dst[0].data + begin, (float *)call->dst[1].data + begin,
                    (float *)call->dst[2].data + begin);
    }
}

/* A bias of a few values is not worth waking the threads for. */
enum { WORTH_THREADS = 1 << 14 };

static void few_threads(KernelCall *call, int64_t n)
{
    if (n < WORTH_THREADS) call->n_threads = 1;
}

Status cpu_adamw(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = adamw_run;
    few_threads(call, shape_elems(call->dst[0].shape));
    return OK;
}

/* ---- moving average ---- */

static void ema_run(const KernelCall *call)
{
    if (scalar(&call->src[1]) == 0.0f) return;
    const float *param = call->src[0].data;
    float *ema = call->dst[0].data;
    float decay = (float)call->attr->ema.decay, rest = (float)(1 - call->attr->ema.decay);
#pragma omp parallel for simd num_threads(call->n_threads) schedule(static)
    for (int64_t i = 0; i < shape_elems(call->dst[0].shape); i++)
        ema[i] = decay * ema[i] + rest * param[i];
}

Status cpu_ema(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = ema_run;
    few_threads(call, shape_elems(call->dst[0].shape));
    return OK;
}
