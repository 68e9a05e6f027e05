/* What becomes of the statistics of batch norms: running ones, those of several maps together, and
 * the gradients there. Called through cpu.c's table. Vectors of C, so one thread does each; sums
 * over maps are in double.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

static void bn_update_run(const KernelCall *call)
{
    const BnUpdateAttr *attr = &call->attr->bn_update;
    const float *means = call->src[0].data, *vars = call->src[1].data, *ok = call->src[2].data;
    float *running_mean = call->dst[0].data, *running_var = call->dst[1].data;
    int64_t channels = shape_dim_from_end(call->src[0].shape, 1);
    int64_t n = shape_elems(call->src[0].shape) / channels;
    double unbiased = (double)attr->n_values / (double)(attr->n_values - 1),
           keep = 1.0 - attr->momentum;
    if (ok[0] == 0.0f) return;
    for (int64_t i = 0; i < n * channels; i++) {
        int64_t c = i % channels;
        running_mean[c] = (float)(keep * running_mean[c] + attr->momentum * means[i]);
        running_var[c] = (float)(keep * running_var[c] + attr->momentum * unbiased * vars[i]);
    }
    *(int64_t *)call->dst[2].data += n;
}

CPU_BIND(bn_update)

/* ---- of several maps ---- */

static void bn_merge_run(const KernelCall *call)
{
    const float *src = call->src[0].data;
    float *mean = call->dst[0].data;
    int64_t maps = call->src[0].shape.dim[0], channels = call->src[0].shape.dim[2];
    float *var = mean + channels;
    for (int64_t c = 0; c < channels; c++) {
        double centre = 0, spread = 0;
        for (int64_t r = 0; r < maps; r++) centre += src[2 * r * channels + c];
        centre /= (double)maps;
        for (int64_t r = 0; r < maps; r++) {
            double off = src[2 * r * channels + c] - centre;
            spread += src[(2 * r + 1) * channels + c] + off * off;
        }
        mean[c] = (float)centre;
        var[c] = (float)(spread / (double)maps);
    }
}

static void bn_merge_grad_run(const KernelCall *call)
{
    const float *src = call->src[0].data, *mean = call->src[1].data, *dmean = call->src[2].data;
    int64_t maps = call->src[0].shape.dim[0], channels = call->src[0].shape.dim[2];
    const float *dvar = dmean + channels;
    float *dsrc = call->dst[0].data, part = 1.0f / (float)maps;
    for (int64_t r = 0; r < maps; r++, src += 2 * channels, dsrc += 2 * channels)
        for (int64_t c = 0; c < channels; c++) {
            dsrc[c] = (dmean[c] + 2.0f * dvar[c] * (src[c] - mean[c])) * part;
            dsrc[channels + c] = dvar[c] * part;
        }
}

/* Of dst = act((src - mean) / sqrt(var + eps) * weight + bias), from its dweight and dbias. */
static void batchnorm_moments_grad_run(const KernelCall *call)
{
    const float *weight = call->src[0].data, *var = call->src[1].data;
    const float *dweight = call->src[2].data, *dbias = call->src[3].data;
    float *dmean = call->dst[0].data, *dvar = call->dst[1].data;
    double eps = call->attr->batchnorm_moments_grad.eps;
    for (int64_t c = 0, n = shape_elems(call->src[0].shape); c < n; c++) {
        double rstd = 1.0 / sqrt(var[c] + eps), scale = weight[c] * rstd;
        dmean[c] = (float)(-scale * dbias[c]);
        dvar[c] = (float)(-0.5 * scale * rstd * dweight[c]);
    }
}

CPU_BIND(bn_merge)
CPU_BIND(bn_merge_grad)
CPU_BIND(batchnorm_moments_grad)
