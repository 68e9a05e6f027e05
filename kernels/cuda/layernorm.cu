/* LayerNorm over the last axis, with the activation that follows, and its gradient; on N,H,W,C maps
 * this is LayerNorm2d over channels.
 *
 * A warp handles a row: its lanes read packs that lie next to each other, and the second and third
 * look at a row find it in the cache. dweight and dbias are column sums (columns.cuh).
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/columns.cuh"

enum { WARPS = 8 }; /* rows of a block */

typedef struct RowNorm {
    const float *weight, *bias;
    float eps;
    Activation act;
    unsigned rows, channels;
} RowNorm;

static RowNorm row_norm(const KernelCall *call, const NormAttr *attr)
{
    int64_t channels = shape_dim_from_end(call->src[0].shape, 1);
    RowNorm norm = {(const float *)call->src[1].data,
                    (const float *)call->src[2].data,
                    (float)attr->eps,
                    attr->act,
                    (unsigned)(shape_elems(call->src[0].shape) / channels),
                    (unsigned)channels};
    return norm;
}

/* ---- forward ---- */

/* Sum over a row of (x - centre)^power, power 1 or 2, in all lanes. */
template <int N, bool SQUARED, typename T>
static __device__ __forceinline__ float row_sum(const T *row, unsigned channels, unsigned lane,
                                                float centre)
{
    float sum = 0.0f;
    for (unsigned c = lane * N; c < channels; c += WARP * N) {
        float x[N];
        load_pack<N>(row + c, x);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float centred = x[j] - centre;
            sum += SQUARED ? centred * centred : centred;
        }
    }
    return warp_sum(sum);
}

template <typename T, int N>
static __global__ void __launch_bounds__(WARPS *WARP)
    layernorm_kernel(T *dst, float *means, float *rstds, const T *src, RowNorm norm)
{
    unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= norm.rows) return;
    const T *from = src + row * norm.channels;
    float per_channel = 1.0f / (float)norm.channels;
    float mean = row_sum<N, false>(from, norm.channels, lane, 0.0f) * per_channel;
    float var = row_sum<N, true>(from, norm.channels, lane, mean) * per_channel;
    float rstd = 1.0f / sqrtf(var + norm.eps);
    if (lane == 0) {
        means[row] = mean;
        rstds[row] = rstd;
    }
    for (unsigned c = lane * N; c < norm.channels; c += WARP * N) {
        float x[N], weight[N], bias[N];
        load_pack<N>(from + c, x);
        load_pack<N>(norm.weight + c, weight);
        load_pack<N>(norm.bias + c, bias);
#pragma unroll
        for (int j = 0; j < N; j++)
            x[j] = act_value(norm.act, (x[j] - mean) * rstd * weight[j] + bias[j]);
        store_pack<N>(dst + row * norm.channels + c, x);
    }
}

static void layernorm_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    if (shape_elems(src->shape) == 0) return;
    RowNorm norm = row_norm(call, &call->attr->layernorm);
    WITH_PACKS(CUDA_PACKS(norm.channels, src, dst, &call->src[1], &call->src[2]), N,
               WITH_STORAGE(src->dtype, T,
                            LAUNCH(call, (layernorm_kernel<T, N>), cuda_blocks(norm.rows, WARPS),
                                   WARPS * WARP, 0, (T *)dst->data, (float *)call->dst[1].data,
                                   (float *)call->dst[2].data, (const T *)src->data, norm)));
}

CUDA_BIND(layernorm)

/* ---- backward ---- */

/* Operands of the gradient: unit = (src - mean) * rstd, dpre = ddst * act'(pre-activation). */
template <typename T> struct RowGrad {
    const T *src;
    AnyFloat ddst;
    const float *means, *rstds;
    RowNorm norm;

    template <int N>
    __device__ __forceinline__ void load(unsigned row, unsigned channel, float (&unit)[N],
                                         float (&dpre)[N], float (&weight)[N]) const
    {
        float mean = means[row], rstd = rstds[row], bias[N];
        load_pack<N>(src + row * norm.channels + channel, unit);
        load_any<N>(ddst, row * norm.channels + channel, dpre);
        load_pack<N>(norm.weight + channel, weight);
        load_pack<N>(norm.bias + channel, bias);
#pragma unroll
        for (int j = 0; j < N; j++) {
            unit[j] = (unit[j] - mean) * rstd;
            dpre[j] *= act_slope(norm.act, unit[j] * weight[j] + bias[j]);
        }
    }

    /* the term of column_sums that gives dweight and dbias */
    template <int N>
    __device__ void add(unsigned, unsigned row, unsigned channel, float (&sum)[2][N]) const
    {
        float unit[N], dpre[N], weight[N];
        load<N>(row, channel, unit, dpre, weight);
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum[0][j] += dpre[j] * unit[j];
            sum[1][j] += dpre[j];
        }
    }
};

struct WeightFinish {
    float *dweight, *dbias;
    __device__ void finish(unsigned, unsigned channel, const double (&sum)[2]) const
    {
        dweight[channel] = (float)sum[0];
        dbias[channel] = (float)sum[1];
    }
};

template <typename T, int N>
static __global__ void __launch_bounds__(WARPS *WARP)
    layernorm_dsrc_kernel(T *dsrc, RowGrad<T> grad)
{
    unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    unsigned channels = grad.norm.channels;
    if (row >= grad.norm.rows) return;
    float unit[N], dpre[N], weight[N], sum = 0.0f, sum_unit = 0.0f;
    for (unsigned c = lane * N; c < channels; c += WARP * N) {
        grad.template load<N>(row, c, unit, dpre, weight);
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum += dpre[j] * weight[j];
            sum_unit += dpre[j] * weight[j] * unit[j];
        }
    }
    sum = warp_sum(sum) / (float)channels;
    sum_unit = warp_sum(sum_unit) / (float)channels;
    float rstd = grad.rstds[row];
    for (unsigned c = lane * N; c < channels; c += WARP * N) {
        grad.template load<N>(row, c, unit, dpre, weight);
#pragma unroll
        for (int j = 0; j < N; j++)
            dpre[j] = rstd * (dpre[j] * weight[j] - sum - unit[j] * sum_unit);
        store_pack<N>(dsrc + row * channels + c, dpre);
    }
}

template <typename T> static void layernorm_grad_typed(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *ddst = &call->src[5], *dsrc = &call->dst[0];
    RowNorm norm = row_norm(call, &call->attr->layernorm_grad);
    RowGrad<T> grad = {(const T *)src->data, any_float(ddst), (const float *)call->src[3].data,
                       (const float *)call->src[4].data, norm};
    WeightFinish finish = {(float *)call->dst[1].data, (float *)call->dst[2].data};
    int packs = CUDA_PACKS(norm.channels, src, ddst, dsrc, &call->src[1], &call->src[2]);
    column_sums<float, 2>(call, column_plan(1, norm.rows, norm.channels), packs,
                          (float *)call->scratch, grad, finish);
    WITH_PACKS(packs, N,
               LAUNCH(call, (layernorm_dsrc_kernel<T, N>), cuda_blocks(norm.rows, WARPS),
                      WARPS * WARP, 0, (T *)dsrc->data, grad));
}

static void layernorm_grad_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    WITH_STORAGE(call->src[0].dtype, T, layernorm_grad_typed<T>(call));
}

extern "C" Status cuda_layernorm_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = layernorm_grad_run;
    return OK;
}
