/* What becomes of the statistics of batch norms that ranks share: those of several maps together,
 * and the gradients there. Vectors of C channels, a thread each. Sums over maps are in double.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/storage.cuh"

/* src (maps,2,channels): of each map the means, then the variances. */
static __global__ void merge_kernel(float *mean, float *var, const float *src, unsigned maps,
                                    unsigned channels)
{
    unsigned c = blockIdx.x * FLAT_THREADS + threadIdx.x;
    double centre = 0, spread = 0;
    if (c >= channels) return;
    for (unsigned r = 0; r < maps; r++) centre += (double)src[2 * r * channels + c];
    centre /= (double)maps;
    for (unsigned r = 0; r < maps; r++) {
        double off = (double)src[2 * r * channels + c] - centre;
        spread += (double)src[(2 * r + 1) * channels + c] + off * off;
    }
    mean[c] = (float)centre;
    var[c] = (float)(spread / (double)maps);
}

static void bn_merge_run(const KernelCall *call)
{
    const int64_t *dim = call->src[0].shape.dim;
    float *mean = (float *)call->dst[0].data;
    if (dim[2] == 0) return;
    LAUNCH(call, merge_kernel, cuda_blocks(dim[2], FLAT_THREADS), FLAT_THREADS, 0, mean,
           mean + dim[2], (const float *)call->src[0].data, (unsigned)dim[0], (unsigned)dim[2]);
}

CUDA_BIND(bn_merge)

static __global__ void merge_grad_kernel(float *dsrc, const float *src, const float *mean,
                                         const float *dmean, const float *dvar, float part,
                                         unsigned channels, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        unsigned map = i / channels, c = i % channels, at = 2 * map * channels + c;
        dsrc[at] = (dmean[c] + 2.0f * dvar[c] * (src[at] - mean[c])) * part;
        dsrc[at + channels] = dvar[c] * part;
    }
}

static void bn_merge_grad_run(const KernelCall *call)
{
    const int64_t *dim = call->src[0].shape.dim;
    const float *dmean = (const float *)call->src[2].data;
    int64_t n = dim[0] * dim[2];
    if (n == 0) return;
    LAUNCH(call, merge_grad_kernel, flat_blocks(n), FLAT_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->src[0].data, (const float *)call->src[1].data, dmean,
           dmean + dim[2], 1.0f / (float)dim[0], (unsigned)dim[2], (unsigned)n);
}

CUDA_BIND(bn_merge_grad)

/* Of dst = act((src - mean) / sqrt(var + eps) * weight + bias), from its dweight and dbias. */
static __global__ void moments_of_norm_kernel(float *dmean, float *dvar, const float *weight,
                                              const float *var, const float *dweight,
                                              const float *dbias, float eps, unsigned channels)
{
    for (FLAT_LOOP(c, channels)) {
        float rstd = rsqrtf(var[c] + eps), scale = weight[c] * rstd;
        dmean[c] = -scale * dbias[c];
        dvar[c] = -0.5f * scale * rstd * dweight[c];
    }
}

static void batchnorm_moments_grad_run(const KernelCall *call)
{
    int64_t channels = shape_elems(call->src[0].shape);
    if (channels == 0) return;
    LAUNCH(call, moments_of_norm_kernel, flat_blocks(channels), FLAT_THREADS, 0,
           (float *)call->dst[0].data, (float *)call->dst[1].data, (const float *)call->src[0].data,
           (const float *)call->src[1].data, (const float *)call->src[2].data,
           (const float *)call->src[3].data, (float)call->attr->batchnorm_moments_grad.eps,
           (unsigned)channels);
}

CUDA_BIND(batchnorm_moments_grad)
