/* Batch norms with the activation that follows: training, frozen, their gradients, and the
 * statistics: alone, and running.
 *
 * Maps are (rows, C) matrices with rows = N*H*W. Statistics and the gradients of weight and bias
 * are column sums (columns.cuh), the statistics in double, so that a large mean does not swallow a
 * small variance. The pre-activation is recomputed in the backward pass rather than stored.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/columns.cuh"

/* What normalises: the statistics, weight and bias of C channels. */
typedef struct ChannelNorm {
    const float *weight, *bias, *mean, *var;
    float eps;
    Activation act;
    unsigned channels;
} ChannelNorm;

/* The parameters of N neighbouring channels. */
template <int N> struct NormPack {
    float weight[N], bias[N], mean[N], rstd[N];
};

template <int N>
static __device__ __forceinline__ NormPack<N> norm_pack(const ChannelNorm &norm, unsigned channel)
{
    NormPack<N> pack;
    load_pack<N>(norm.weight + channel, pack.weight);
    load_pack<N>(norm.bias + channel, pack.bias);
    load_pack<N>(norm.mean + channel, pack.mean);
    load_pack<N>(norm.var + channel, pack.rstd);
#pragma unroll
    for (int j = 0; j < N; j++) pack.rstd[j] = rsqrtf(pack.rstd[j] + norm.eps);
    return pack;
}

/* src normalised and the gradient at the pre-activation, in place of src and ddst. */
template <int N>
static __device__ __forceinline__ void norm_unit_and_slope(const NormPack<N> &norm, Activation act,
                                                           float (&x)[N], float (&gradient)[N])
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        x[j] = (x[j] - norm.mean[j]) * norm.rstd[j];
        gradient[j] *= act_slope(act, x[j] * norm.weight[j] + norm.bias[j]);
    }
}

static ChannelNorm channel_norm(const KernelCall *call, const NormAttr *attr, const Tensor *mean,
                                const Tensor *var)
{
    ChannelNorm norm = {(const float *)call->src[1].data,
                        (const float *)call->src[2].data,
                        (const float *)mean->data,
                        (const float *)var->data,
                        (float)attr->eps,
                        attr->act,
                        (unsigned)shape_dim_from_end(call->src[0].shape, 1)};
    return norm;
}

static ColumnPlan norm_plan(const KernelCall *call)
{
    int64_t channels = shape_dim_from_end(call->src[0].shape, 1);
    return column_plan(1, shape_elems(call->src[0].shape) / channels, channels);
}

/* ---- forward ---- */

template <typename T, int N>
static __global__ void normalise_kernel(T *dst, const T *src, ChannelNorm norm, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        NormPack<N> pack = norm_pack<N>(norm, i * N % norm.channels);
        float x[N];
        load_pack<N>(src + i * N, x);
#pragma unroll
        for (int j = 0; j < N; j++)
            x[j] = act_value(norm.act,
                             (x[j] - pack.mean[j]) * pack.rstd[j] * pack.weight[j] + pack.bias[j]);
        store_pack<N>(dst + i * N, x);
    }
}

static void normalise(const KernelCall *call, const ChannelNorm &norm)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    int64_t n = shape_elems(dst->shape);
    WITH_PACKS(
        CUDA_PACKS(norm.channels, src, dst, &call->src[1], &call->src[2]), N,
        WITH_STORAGE(src->dtype, T,
                     LAUNCH(call, (normalise_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS, 0,
                            (T *)dst->data, (const T *)src->data, norm, (unsigned)(n / N))));
}

/* Sums of x and x^2 of each channel. */
template <typename T> struct Moments {
    const T *src;
    unsigned channels;
    template <int N>
    __device__ void add(unsigned, unsigned row, unsigned channel, double (&sum)[2][N]) const
    {
        float x[N];
        load_pack<N>(src + row * channels + channel, x);
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum[0][j] += (double)x[j];
            sum[1][j] += (double)x[j] * (double)x[j];
        }
    }
};

struct MomentsFinish {
    float *mean, *var;
    double rows;
    __device__ void finish(unsigned, unsigned channel, const double (&sum)[2]) const
    {
        double centre = sum[0] / rows, spread = sum[1] / rows - centre * centre;
        mean[channel] = (float)centre;
        var[channel] = spread > 0 ? (float)spread : 0.0f;
    }
};

static void take_moments(const KernelCall *call, float *mean, float *var)
{
    const Tensor *src = &call->src[0];
    ColumnPlan plan = norm_plan(call);
    MomentsFinish finish = {mean, var, (double)plan.rows};
    WITH_STORAGE(src->dtype, T, Moments<T> term = {(const T *)src->data, plan.columns};
                 column_sums<double, 2>(call, plan, CUDA_PACKS(plan.columns, src),
                                        (double *)call->scratch, term, finish));
}

static void bn_moments_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    float *mean = (float *)call->dst[0].data;
    take_moments(call, mean, mean + shape_dim_from_end(call->src[0].shape, 1));
}

CUDA_BIND(bn_moments)

static void batchnorm_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    take_moments(call, (float *)call->dst[1].data, (float *)call->dst[2].data);
    normalise(call, channel_norm(call, &call->attr->batchnorm, &call->dst[1], &call->dst[2]));
}

extern "C" Status cuda_batchnorm(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = batchnorm_run;
    return OK;
}

static void batchnorm_frozen_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    normalise(call,
              channel_norm(call, &call->attr->batchnorm_frozen, &call->src[3], &call->src[4]));
}

CUDA_BIND(batchnorm_frozen)

/* ---- backward ---- */

/* Sums that give dweight and dbias. */
template <typename T> struct NormGradTerm {
    const T *src;
    AnyFloat ddst;
    ChannelNorm norm;
    template <int N>
    __device__ void add(unsigned, unsigned row, unsigned channel, float (&sum)[2][N]) const
    {
        NormPack<N> pack = norm_pack<N>(norm, channel);
        float x[N], gradient[N];
        load_pack<N>(src + row * norm.channels + channel, x);
        load_any<N>(ddst, row * norm.channels + channel, gradient);
        norm_unit_and_slope<N>(pack, norm.act, x, gradient);
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum[0][j] += gradient[j] * x[j];
            sum[1][j] += gradient[j];
        }
    }
};

/* Of a kernel that sums two values per column into two vectors. */
struct PairFinish {
    float *first, *second;
    __device__ void finish(unsigned, unsigned column, const double (&sum)[2]) const
    {
        first[column] = (float)sum[0];
        second[column] = (float)sum[1];
    }
};

/* per_row: 1 / rows where the statistics came from src, so that the gradient through them is taken
 * off; 0 where they are given. */
template <typename T, int N>
static __global__ void norm_dsrc_kernel(T *dsrc, const T *src, AnyFloat ddst, ChannelNorm norm,
                                        const float *dweight, const float *dbias, float per_row,
                                        unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        unsigned channel = i * N % norm.channels;
        NormPack<N> pack = norm_pack<N>(norm, channel);
        float x[N], gradient[N], dw[N], db[N];
        load_pack<N>(src + i * N, x);
        load_any<N>(ddst, i * N, gradient);
        load_pack<N>(dweight + channel, dw);
        load_pack<N>(dbias + channel, db);
        norm_unit_and_slope<N>(pack, norm.act, x, gradient);
#pragma unroll
        for (int j = 0; j < N; j++) {
            gradient[j] -= (db[j] + x[j] * dw[j]) * per_row;
            gradient[j] *= pack.weight[j] * pack.rstd[j];
        }
        store_pack<N>(dsrc + i * N, gradient);
    }
}

static void norm_grad(const KernelCall *call, const NormAttr *attr, bool learned)
{
    const Tensor *src = &call->src[0], *ddst = &call->src[5], *dsrc = &call->dst[0];
    int64_t n = shape_elems(src->shape);
    if (n == 0) return;
    ColumnPlan plan = norm_plan(call);
    ChannelNorm norm = channel_norm(call, attr, &call->src[3], &call->src[4]);
    PairFinish finish = {(float *)call->dst[1].data, (float *)call->dst[2].data};
    int packs = CUDA_PACKS(norm.channels, src, ddst, dsrc, &call->src[1], &call->src[2],
                           &call->src[3], &call->src[4], &call->dst[1], &call->dst[2]);
    WITH_STORAGE(src->dtype, T,
                 NormGradTerm<T> term = {(const T *)src->data, any_float(ddst), norm};
                 column_sums<float, 2>(call, plan, packs, (float *)call->scratch, term, finish));
    float per_row = learned ? 1.0f / (float)plan.rows : 0.0f;
    WITH_PACKS(packs, N,
               WITH_STORAGE(src->dtype, T,
                            LAUNCH(call, (norm_dsrc_kernel<T, N>), flat_blocks(n / N), FLAT_THREADS,
                                   0, (T *)dsrc->data, (const T *)src->data, any_float(ddst), norm,
                                   (const float *)finish.first, (const float *)finish.second,
                                   per_row, (unsigned)(n / N))));
}

static void batchnorm_grad_run(const KernelCall *call)
{
    norm_grad(call, &call->attr->batchnorm_grad, true);
}

static void batchnorm_frozen_grad_run(const KernelCall *call)
{
    norm_grad(call, &call->attr->batchnorm_frozen_grad, false);
}

extern "C" Status cuda_batchnorm_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = batchnorm_grad_run;
    return OK;
}

extern "C" Status cuda_batchnorm_frozen_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = batchnorm_frozen_grad_run;
    return OK;
}

/* dsrc = (dmean + 2 dvar (src - mean)) / n */
template <typename T, int N>
static __global__ void moments_grad_kernel(T *dsrc, const T *src, const float *mean,
                                           const float *dmean, const float *dvar, float part,
                                           unsigned channels, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        unsigned channel = i * N % channels;
        float x[N], centre[N], dm[N], dv[N];
        load_pack<N>(src + i * N, x);
        load_pack<N>(mean + channel, centre);
        load_pack<N>(dmean + channel, dm);
        load_pack<N>(dvar + channel, dv);
#pragma unroll
        for (int j = 0; j < N; j++) x[j] = (dm[j] + 2.0f * dv[j] * (x[j] - centre[j])) * part;
        store_pack<N>(dsrc + i * N, x);
    }
}

static void bn_moments_grad_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dsrc = &call->dst[0];
    const float *mean = (const float *)call->src[1].data, *dmean = (const float *)call->src[2].data;
    int64_t n = shape_elems(src->shape), channels = shape_dim_from_end(src->shape, 1);
    if (n == 0) return;
    float part = (float)channels / (float)n;
    WITH_PACKS(CUDA_PACKS(channels, src, dsrc, &call->src[1], &call->src[2]), N,
               WITH_STORAGE(src->dtype, T,
                            LAUNCH(call, (moments_grad_kernel<T, N>), flat_blocks(n / N),
                                   FLAT_THREADS, 0, (T *)dsrc->data, (const T *)src->data, mean,
                                   dmean, dmean + channels, part, (unsigned)channels,
                                   (unsigned)(n / N))));
}

CUDA_BIND(bn_moments_grad)

/* ---- running statistics ---- */

static __global__ void bn_update_kernel(float *running_mean, float *running_var, int64_t *tracked,
                                        const float *means, const float *vars, const float *ok,
                                        float momentum, float unbiased, unsigned updates,
                                        unsigned channels)
{
    if (*ok == 0.0f) return;
    unsigned c = blockIdx.x * FLAT_THREADS + threadIdx.x;
    if (c == 0) *tracked += updates;
    if (c >= channels) return;
    float mean = running_mean[c], var = running_var[c];
    for (unsigned i = 0; i < updates; i++) {
        mean += momentum * (means[i * channels + c] - mean);
        var += momentum * (unbiased * vars[i * channels + c] - var);
    }
    running_mean[c] = mean;
    running_var[c] = var;
}

static void bn_update_run(const KernelCall *call)
{
    const BnUpdateAttr *attr = &call->attr->bn_update;
    Shape means = call->src[0].shape;
    double unbiased = (double)attr->n_values / (double)(attr->n_values - 1);
    LAUNCH(call, bn_update_kernel, cuda_blocks(means.dim[1], FLAT_THREADS), FLAT_THREADS, 0,
           (float *)call->dst[0].data, (float *)call->dst[1].data, (int64_t *)call->dst[2].data,
           (const float *)call->src[0].data, (const float *)call->src[1].data,
           (const float *)call->src[2].data, (float)attr->momentum, (float)unbiased,
           (unsigned)means.dim[0], (unsigned)means.dim[1]);
}

CUDA_BIND(bn_update)
