/* RESIZE and its gradient, bilinear and bicubic.
 *
 * Forward: a thread makes a pack of channels of one pixel of its 2 x 2 or 4 x 4 taps. Backward: the
 * transposed map as a gather, along x into the scratch, then along y: a thread sums what reads its
 * element, in order, so there is nothing to be added atomically.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/storage.cuh"
#include "kernels/cuda/taps.cuh"

/* Sizes of a resize from (N,h,w,C) to (N,H,W,C). */
typedef struct ResizeDims {
    unsigned n, channels;
    int h, w, out_h, out_w;
} ResizeDims;

static ResizeDims resize_dims(Shape from, Shape to)
{
    ResizeDims d = {(unsigned)from.dim[0], (unsigned)from.dim[3], (int)from.dim[1],
                    (int)from.dim[2],      (int)to.dim[1],        (int)to.dim[2]};
    return d;
}

template <int N>
static __device__ __forceinline__ void add_scaled(float (&sum)[N], float weight,
                                                  const float (&value)[N])
{
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] += weight * value[j];
}

/* ---- forward ---- */

template <typename T, int N, ResizeMode MODE>
static __global__ void resize_kernel(T *dst, const T *src, ResizeDims d, unsigned n_packs)
{
    const int TAPS = MODE == RESIZE_BICUBIC ? 4 : 2;
    for (FLAT_LOOP(i, n_packs)) {
        unsigned channel = i * N % d.channels, pixel = i * N / d.channels;
        int x = (int)(pixel % d.out_w), y = (int)(pixel / d.out_w % d.out_h);
        const T *image = src + (size_t)(pixel / d.out_w / d.out_h) * d.h * d.w * d.channels;
        float sum[N] = {};
#pragma unroll
        for (int r = 0; r < TAPS; r++) {
            Tap row = resize_tap<MODE>(y, r, d.h, d.out_h);
            float along[N] = {};
#pragma unroll
            for (int s = 0; s < TAPS; s++) {
                Tap col = resize_tap<MODE>(x, s, d.w, d.out_w);
                float value[N];
                load_pack<N>(image + (size_t)(row.at * d.w + col.at) * d.channels + channel, value);
                add_scaled<N>(along, col.weight, value);
            }
            add_scaled<N>(sum, row.weight, along);
        }
        store_pack<N>(dst + i * N, sum);
    }
}

template <ResizeMode MODE> static void resize_mode(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    ResizeDims d = resize_dims(src->shape, dst->shape);
    int64_t n = shape_elems(dst->shape);
    if (n == 0) return;
    WITH_PACKS(
        CUDA_PACKS(d.channels, src, dst), N,
        WITH_STORAGE(dst->dtype, T,
                     LAUNCH(call, (resize_kernel<T, N, MODE>), flat_blocks(n / N), FLAT_THREADS, 0,
                            (T *)dst->data, (const T *)src->data, d, (unsigned)(n / N))));
}

static void resize_run(const KernelCall *call)
{
    if (call->attr->resize.mode == RESIZE_BICUBIC)
        resize_mode<RESIZE_BICUBIC>(call);
    else
        resize_mode<RESIZE_BILINEAR>(call);
}

CUDA_BIND(resize)

/* ---- backward ---- */

/* One axis: src (outer,out,inner) -> dst (outer,in,inner), each element the sum of the outputs that
 * read it times their weights. */
template <typename D, typename S, int N, ResizeMode MODE>
static __global__ void resize_grad_kernel(D *dst, const S *src, int in, int out, unsigned inner,
                                          unsigned n_packs)
{
    const int TAPS = MODE == RESIZE_BICUBIC ? 4 : 2;
    for (FLAT_LOOP(i, n_packs)) {
        unsigned at = i * N % inner, element = i * N / inner;
        int own = (int)(element % in), begin, end;
        const S *line = src + (size_t)(element / in) * out * inner + at;
        outputs_reading(own, in, out, &begin, &end);
        float sum[N] = {};
        for (int o = begin; o < end; o++) {
            float weight = 0.0f, value[N];
#pragma unroll
            for (int k = 0; k < TAPS; k++) {
                Tap tap = resize_tap<MODE>(o, k, in, out);
                weight += tap.at == own ? tap.weight : 0.0f;
            }
            if (weight == 0.0f) continue;
            load_pack<N>(line + (size_t)o * inner, value);
            add_scaled<N>(sum, weight, value);
        }
        store_pack<N>(dst + i * N, sum);
    }
}

template <ResizeMode MODE> static void resize_grad_mode(const KernelCall *call)
{
    const Tensor *ddst = &call->src[0], *dsrc = &call->dst[0];
    ResizeDims d = resize_dims(dsrc->shape, ddst->shape);
    float *rows = (float *)call->scratch; /* (N,H,w,C) */
    unsigned row = (unsigned)d.w * d.channels;
    int64_t n_rows = (int64_t)d.n * d.out_h * row, n = shape_elems(dsrc->shape);
    if (n_rows == 0) return;
    WITH_PACKS(
        CUDA_PACKS(d.channels, ddst, dsrc), N,
        WITH_STORAGE(ddst->dtype, T,
                     LAUNCH(call, (resize_grad_kernel<float, T, N, MODE>), flat_blocks(n_rows / N),
                            FLAT_THREADS, 0, rows, (const T *)ddst->data, d.w, d.out_w, d.channels,
                            (unsigned)(n_rows / N));
                     LAUNCH(call, (resize_grad_kernel<T, float, N, MODE>), flat_blocks(n / N),
                            FLAT_THREADS, 0, (T *)dsrc->data, (const float *)rows, d.h, d.out_h,
                            row, (unsigned)(n / N))));
}

static void resize_grad_run(const KernelCall *call)
{
    if (call->attr->resize_grad.mode == RESIZE_BICUBIC)
        resize_grad_mode<RESIZE_BICUBIC>(call);
    else
        resize_grad_mode<RESIZE_BILINEAR>(call);
}

extern "C" Status cuda_resize_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = resize_grad_run;
    return OK;
}
