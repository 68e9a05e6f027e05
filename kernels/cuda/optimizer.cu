/* Clipping, AdamW and the moving average of the weights; the norm itself is SUMSQ in reduce.cu.
 *
 * Whether a step happens is decided from scalars on the device (ok, gate). AdamW is two launches:
 * one thread advances the step count and folds all scalars into one record, then all elements read
 * it; in one launch some blocks would read the count before and some after it is advanced.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/storage.cuh"

/* ---- clip ---- */

static __global__ void clip_kernel(float *ok, float *norm, float *scale, const float *sumsq,
                                   const float *loss, const float *loss_scale, double max_norm)
{
    double unscaled = sqrt((double)*sumsq) / (double)*loss_scale;
    double shrink = max_norm > 0 && unscaled > max_norm ? max_norm / unscaled : 1.0;
    *ok = isfinite(*loss) && isfinite(unscaled) ? 1.0f : 0.0f;
    *norm = (float)unscaled;
    *scale = (float)(shrink / (double)*loss_scale);
}

static void clip_run(const KernelCall *call)
{
    LAUNCH(call, clip_kernel, 1, 1, 0, (float *)call->dst[0].data, (float *)call->dst[1].data,
           (float *)call->dst[2].data, (const float *)call->src[0].data,
           (const float *)call->src[1].data, (const float *)call->src[2].data,
           call->attr->clip.max_norm);
}

CUDA_BIND(clip)

/* ---- AdamW ---- */

/* The update with all scalars folded: m, v as usual, then
 * param = keep * param - rate * m / (sqrt(v) * root + eps); nothing if `on` is 0. */
/* Its size is booked by kernels/plan/scratch.c. */
typedef struct Update {
    int on;
    float scale, keep, rate, root;
} Update;

static __global__ void adamw_scalars_kernel(Update *update, float *step, const float *lr,
                                            const float *ok, const float *scale, const float *gate,
                                            AdamwAttr attr)
{
    if (*ok == 0.0f || (gate && *gate == 0.0f)) {
        update->on = 0;
        return;
    }
    double count = (double)*step + 1.0, rate = (double)*lr * attr.lr_scale;
    *step = (float)count;
    update->on = 1;
    update->scale = *scale;
    update->keep = (float)(1.0 - rate * attr.weight_decay);
    update->rate = (float)(rate / (1.0 - pow(attr.beta1, count)));
    update->root = (float)(1.0 / sqrt(1.0 - pow(attr.beta2, count)));
}

/* What of the attributes every element needs, in f32. */
typedef struct Betas {
    float beta1, rest1, beta2, rest2, eps, limit; /* limit: the gradient's largest magnitude */
} Betas;

template <int N>
static __global__ void adamw_kernel(float *param, float *exp_avg, float *exp_avg_sq,
                                    const float *grad, const Update *update, Betas b,
                                    unsigned n_packs)
{
    if (!update->on) return;
    float scale = update->scale, keep = update->keep, rate = update->rate, root = update->root;
    for (FLAT_LOOP(i, n_packs)) {
        float g[N], p[N], m[N], v[N];
        load_pack<N>(grad + i * N, g);
        load_pack<N>(param + i * N, p);
        load_pack<N>(exp_avg + i * N, m);
        load_pack<N>(exp_avg_sq + i * N, v);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float clamped = fminf(fmaxf(g[j] * scale, -b.limit), b.limit);
            m[j] = b.beta1 * m[j] + b.rest1 * clamped;
            v[j] = b.beta2 * v[j] + b.rest2 * (clamped * clamped);
            p[j] = keep * p[j] - rate * m[j] / (sqrtf(v[j]) * root + b.eps);
        }
        store_pack<N>(param + i * N, p);
        store_pack<N>(exp_avg + i * N, m);
        store_pack<N>(exp_avg_sq + i * N, v);
    }
}

static void adamw_run(const KernelCall *call)
{
    const AdamwAttr *a = &call->attr->adamw;
    const Tensor *grad = &call->src[0], *param = &call->dst[0];
    const Tensor *exp_avg = &call->dst[1], *exp_avg_sq = &call->dst[2];
    bool gated = call->n_src > 4 && cuda_present(&call->src[4]);
    int64_t n = shape_elems(param->shape);
    Update *update = (Update *)call->scratch;
    Betas betas = {(float)a->beta1, (float)(1 - a->beta1),
                   (float)a->beta2, (float)(1 - a->beta2),
                   (float)a->eps,   a->clip_value > 0 ? (float)a->clip_value : INFINITY};
    LAUNCH(call, adamw_scalars_kernel, 1, 1, 0, update, (float *)call->dst[3].data,
           (const float *)call->src[1].data, (const float *)call->src[2].data,
           (const float *)call->src[3].data, gated ? (const float *)call->src[4].data : NULL, *a);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, grad, param, exp_avg, exp_avg_sq), N,
               LAUNCH(call, adamw_kernel<N>, flat_blocks(n / N), FLAT_THREADS, 0,
                      (float *)param->data, (float *)exp_avg->data, (float *)exp_avg_sq->data,
                      (const float *)grad->data, update, betas, (unsigned)(n / N)));
}

extern "C" Status cuda_adamw(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = adamw_run;
    return OK;
}

/* ---- moving average ---- */

template <int N>
static __global__ void ema_kernel(float *ema, const float *param, const float *ok, float decay,
                                  float rest, unsigned n_packs)
{
    if (*ok == 0.0f) return;
    for (FLAT_LOOP(i, n_packs)) {
        float average[N], value[N];
        load_pack<N>(ema + i * N, average);
        load_pack<N>(param + i * N, value);
#pragma unroll
        for (int j = 0; j < N; j++) average[j] = decay * average[j] + rest * value[j];
        store_pack<N>(ema + i * N, average);
    }
}

static void ema_run(const KernelCall *call)
{
    const Tensor *param = &call->src[0], *ema = &call->dst[0];
    double decay = call->attr->ema.decay;
    int64_t n = shape_elems(ema->shape);
    if (n == 0) return;
    WITH_PACKS(CUDA_PACKS(n, param, ema), N,
               LAUNCH(call, ema_kernel<N>, flat_blocks(n / N), FLAT_THREADS, 0, (float *)ema->data,
                      (const float *)param->data, (const float *)call->src[1].data, (float)decay,
                      (float)(1 - decay), (unsigned)(n / N)));
}

CUDA_BIND(ema)
