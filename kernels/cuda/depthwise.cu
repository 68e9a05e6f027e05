/* Depthwise convolutions of 3x3 and 5x5 on N,H,W,C maps: forward, data and weights.
 *
 * Bound by memory, so what counts is that a value is loaded rarely. Forward: a thread makes OUTPUTS
 * neighbouring pixels of a pack of channels and hands each loaded value to all of them. Data,
 * stride 1: the same with the kernel turned round; with larger strides a gather of the outputs that
 * read a pixel. Weights: a thread owns one row of taps of a pack of channels, walks along image
 * rows with the window in registers and writes a partial sum; the parts are added in order.
 *
 * Weights are first laid out as f32 (taps, C) in the scratch: read by all, in packs of channels.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/conv.h"
#include "kernels/cuda/storage.cuh"

enum { OUTPUTS = 4 };

/* ---- weights as (taps, C) ---- */

template <typename T>
static __global__ void lay_out_weight_kernel(float *dst, const T *weight, int channels, int taps,
                                             bool turned, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        int channel = (int)i % channels, tap = (int)i / channels;
        dst[i] = to_f32(weight[channel * taps + (turned ? taps - 1 - tap : tap)]);
    }
}

static void lay_out_weight(const KernelCall *call, const ConvDims &d, bool turned)
{
    unsigned n = (unsigned)(d.c * d.r * d.s);
    WITH_STORAGE(call->src[1].dtype, T,
                 LAUNCH(call, lay_out_weight_kernel<T>, flat_blocks(n), FLAT_THREADS, 0,
                        (float *)call->scratch, (const T *)call->src[1].data, d.c, d.r * d.s,
                        turned, n));
}

/* ---- forward ---- */

/* A pack of pixel (y,x), zeros outside of the map. */
template <int N, typename T>
static __device__ __forceinline__ void load_pixel(const T *image, int y, int x, int h, int w,
                                                  int channels, float (&value)[N])
{
    if (y >= 0 && y < h && x >= 0 && x < w) {
        load_pack<N>(image + ((size_t)y * w + x) * channels, value);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++) value[j] = 0.0f;
}

/* Adds one row of taps to OUTPUTS pixels from x on, the source's column of the first tap. */
template <int K, int STRIDE, int N, typename T>
static __device__ __forceinline__ void add_tap_row(const T *image, const ConvDims &d, int y, int x,
                                                   const float *weight, float (&sum)[OUTPUTS][N])
{
    float tap[K][N];
#pragma unroll
    for (int s = 0; s < K; s++) load_pack<N>(weight + s * d.c, tap[s]);
#pragma unroll
    for (int column = 0; column < (OUTPUTS - 1) * STRIDE + K; column++) {
        float value[N];
        load_pixel<N>(image, y, x + column, d.h, d.w, d.c, value);
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            if (column < o * STRIDE || column >= o * STRIDE + K) continue;
#pragma unroll
            for (int j = 0; j < N; j++) sum[o][j] += value[j] * tap[column - o * STRIDE][j];
        }
    }
}

template <typename T, int N, int K, int STRIDE>
static __global__ void __launch_bounds__(FLAT_THREADS, 2)
    depthwise_kernel(T *dst, const T *src, const float *weight, const float *bias, ConvDims d,
                     unsigned n)
{
    unsigned packs = d.c / N, tiles = (d.out_w + OUTPUTS - 1) / OUTPUTS;
    for (FLAT_LOOP(i, n)) {
        int channel = (int)(i % packs) * N, tile = (int)(i / packs);
        int x = tile % (int)tiles * OUTPUTS, y = tile / (int)tiles % d.out_h;
        int image = tile / (int)tiles / d.out_h;
        const T *from = src + (size_t)image * d.h * d.w * d.c + channel;
        float sum[OUTPUTS][N] = {};
        for (int r = 0; r < K; r++)
            add_tap_row<K, STRIDE, N>(from, d, y * STRIDE - d.pad + r, x * STRIDE - d.pad,
                                      weight + r * K * d.c + channel, sum);
        float shift[N] = {};
        if (bias) load_pack<N>(bias + channel, shift);
        T *to = dst + (((size_t)image * d.out_h + y) * d.out_w + x) * d.c + channel;
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            if (x + o >= d.out_w) continue;
#pragma unroll
            for (int j = 0; j < N; j++) sum[o][j] += shift[j];
            store_pack<N>(to + o * d.c, sum[o]);
        }
    }
}

/* Runs depthwise_kernel for the sizes `d` with weights that lie in the scratch. */
template <int K, int STRIDE>
static void convolve(const KernelCall *call, const ConvDims &d, const Tensor *src,
                     const Tensor *bias)
{
    const Tensor *dst = &call->dst[0], *first = bias ? bias : dst;
    int tiles = (d.out_w + OUTPUTS - 1) / OUTPUTS;
    const float *shift = bias ? (const float *)bias->data : NULL;
    WITH_PACKS(CUDA_PACKS(d.c, src, dst, first), N,
               unsigned n = (unsigned)(d.c / N * tiles * d.out_h * d.n);
               WITH_STORAGE(dst->dtype, T,
                            LAUNCH(call, (depthwise_kernel<T, N, K, STRIDE>), flat_blocks(n),
                                   FLAT_THREADS, 0, (T *)dst->data, (const T *)src->data,
                                   (const float *)call->scratch, shift, d, n)));
}

static void forward_run(const KernelCall *call)
{
    ConvDims d = conv_dims(call);
    if (shape_elems(call->dst[0].shape) == 0) return;
    const Tensor *src = &call->src[0];
    const Tensor *bias = conv_bias(call);
    lay_out_weight(call, d, false);
    if (d.r == 3 && d.stride == 1) convolve<3, 1>(call, d, src, bias);
    if (d.r == 3 && d.stride == 2) convolve<3, 2>(call, d, src, bias);
    if (d.r == 5 && d.stride == 1) convolve<5, 1>(call, d, src, bias);
    if (d.r == 5 && d.stride == 2) convolve<5, 2>(call, d, src, bias);
}

/* ---- data ---- */

/* The output whose tap r reads `at`, or -1. */
static __device__ __forceinline__ int reading_output(int at, int pad, int r, int stride, int n_out)
{
    int reached = at + pad - r;
    if (reached < 0 || reached % stride != 0) return -1;
    return reached / stride < n_out ? reached / stride : -1;
}

template <typename T, int N>
static __global__ void __launch_bounds__(FLAT_THREADS, 2)
    gather_data_kernel(T *dsrc, const T *ddst, const float *weight, ConvDims d, unsigned n_packs)
{
    for (FLAT_LOOP(i, n_packs)) {
        int channel = (int)(i * N % (unsigned)d.c), pixel = (int)(i * N / (unsigned)d.c);
        int x = pixel % d.w, y = pixel / d.w % d.h, image = pixel / d.w / d.h;
        const T *from = ddst + (size_t)image * d.out_h * d.out_w * d.c + channel;
        float sum[N] = {};
        for (int tap = 0; tap < d.r * d.s; tap++) {
            int oy = reading_output(y, d.pad, tap / d.s, d.stride, d.out_h);
            int ox = reading_output(x, d.pad, tap % d.s, d.stride, d.out_w);
            if (oy < 0 || ox < 0) continue;
            float value[N], factor[N];
            load_pack<N>(from + ((size_t)oy * d.out_w + ox) * d.c, value);
            load_pack<N>(weight + tap * d.c + channel, factor);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += value[j] * factor[j];
        }
        store_pack<N>(dsrc + i * N, sum);
    }
}

static void gather_data(const KernelCall *call, const ConvDims &d)
{
    const Tensor *ddst = &call->src[0], *dsrc = &call->dst[0];
    int64_t n = shape_elems(dsrc->shape);
    lay_out_weight(call, d, false);
    WITH_PACKS(CUDA_PACKS(d.c, ddst, dsrc), N,
               WITH_STORAGE(dsrc->dtype, T,
                            LAUNCH(call, (gather_data_kernel<T, N>), flat_blocks(n / N),
                                   FLAT_THREADS, 0, (T *)dsrc->data, (const T *)ddst->data,
                                   (const float *)call->scratch, d, (unsigned)(n / N))));
}

/* With stride 1 the transposed map is a convolution of ddst with the kernel turned round. */
static void data_run(const KernelCall *call)
{
    ConvDims d = conv_dims(call), turned = d;
    if (shape_elems(call->dst[0].shape) == 0) return;
    if (d.stride != 1) {
        gather_data(call, d);
        return;
    }
    turned.h = d.out_h;
    turned.w = d.out_w;
    turned.out_h = d.h;
    turned.out_w = d.w;
    turned.pad = d.r - 1 - d.pad;
    lay_out_weight(call, d, true);
    if (d.r == 3)
        convolve<3, 1>(call, turned, &call->src[0], NULL);
    else
        convolve<5, 1>(call, turned, &call->src[0], NULL);
}

/* ---- weights ---- */

/* Adds one output row to a row of taps: ddst[x] times the K source pixels that it read, which move
 * through the window as x advances. */
template <int K, int STRIDE, int N, typename T>
static __device__ __forceinline__ void add_weight_row(const T *src, const T *ddst,
                                                      const ConvDims &d, float (&sum)[K][N])
{
    float window[K][N];
#pragma unroll
    for (int s = 0; s < K - STRIDE; s++)
        load_pixel<N>(src, 0, s - d.pad, 1, d.w, d.c, window[s + STRIDE]);
    for (int x = 0; x < d.out_w; x++) {
        float gradient[N];
#pragma unroll
        for (int s = 0; s < K; s++) {
            if (s + STRIDE < K) {
#pragma unroll
                for (int j = 0; j < N; j++) window[s][j] = window[s + STRIDE][j];
            } else {
                load_pixel<N>(src, 0, x * STRIDE - d.pad + s, 1, d.w, d.c, window[s]);
            }
        }
        load_pack<N>(ddst + (size_t)x * d.c, gradient);
#pragma unroll
        for (int s = 0; s < K; s++)
#pragma unroll
            for (int j = 0; j < N; j++) sum[s][j] += gradient[j] * window[s][j];
    }
}

/* Thread (pack of channels, row of taps, part): parts (part, taps, C) of dweight over its image
 * rows. */
template <typename T, int N, int K, int STRIDE>
static __global__ void __launch_bounds__(FLAT_THREADS, 2)
    depthwise_weight_kernel(float *parts, const T *src, const T *ddst, ConvDims d, int n_parts,
                            unsigned n)
{
    unsigned packs = d.c / N;
    for (FLAT_LOOP(i, n)) {
        int channel = (int)(i % packs) * N, r = (int)(i / packs) % K, part = (int)(i / packs) / K;
        float sum[K][N] = {};
        for (int row = part; row < d.n * d.out_h; row += n_parts) {
            int y = row % d.out_h * STRIDE - d.pad + r, image = row / d.out_h;
            if (y < 0 || y >= d.h) continue;
            add_weight_row<K, STRIDE, N>(src + ((size_t)image * d.h + y) * d.w * d.c + channel,
                                         ddst + (size_t)row * d.out_w * d.c + channel, d, sum);
        }
#pragma unroll
        for (int s = 0; s < K; s++)
            store_pack<N>(parts + ((size_t)(part * K + r) * K + s) * d.c + channel, sum[s]);
    }
}

/* dweight (C, taps) = the sum over the parts (part, taps, C). */
static __global__ void finish_weight_kernel(float *dweight, const float *parts, int channels,
                                            int taps, int n_parts, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        double sum = 0;
        for (int part = 0; part < n_parts; part++) sum += (double)parts[(size_t)part * n + i];
        dweight[i % channels * taps + i / channels] = (float)sum;
    }
}

template <int K, int STRIDE> static void convolve_weight(const KernelCall *call, const ConvDims &d)
{
    const Tensor *src = &call->src[0], *ddst = &call->src[1];
    int n_parts = depthwise_parts(d.n, d.out_h);
    WITH_PACKS(CUDA_PACKS(d.c, src, ddst), N, unsigned n = (unsigned)(d.c / N * K * n_parts);
               WITH_STORAGE(src->dtype, T,
                            LAUNCH(call, (depthwise_weight_kernel<T, N, K, STRIDE>), flat_blocks(n),
                                   FLAT_THREADS, 0, (float *)call->scratch, (const T *)src->data,
                                   (const T *)ddst->data, d, n_parts, n)));
}

static void weight_run(const KernelCall *call)
{
    ConvDims d = conv_dims(call);
    unsigned n = (unsigned)(d.c * d.r * d.s);
    if (n == 0) return;
    if (d.r == 3 && d.stride == 1) convolve_weight<3, 1>(call, d);
    if (d.r == 3 && d.stride == 2) convolve_weight<3, 2>(call, d);
    if (d.r == 5 && d.stride == 1) convolve_weight<5, 1>(call, d);
    if (d.r == 5 && d.stride == 2) convolve_weight<5, 2>(call, d);
    LAUNCH(call, finish_weight_kernel, flat_blocks(n), FLAT_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->scratch, d.c, d.r * d.s, depthwise_parts(d.n, d.out_h), n);
}

/* ---- bind ---- */

Status depthwise_bind(KernelCall *call)
{
    call->run = call->op == OP_CONV2D             ? forward_run
                : call->op == OP_CONV2D_GRAD_DATA ? data_run
                                                  : weight_run;
    return OK;
}
