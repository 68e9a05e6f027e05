/* Losses that are sums over few or plain values: MSE, the choice of the best candidate, the IoU
 * head's error, and their gradients. The masks' losses are in focal_dice.cu and points.cu.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/storage.cuh"
#include "kernels/cuda/sums.cuh"

/* ---- mean squared error ---- */

/* Images of height x row values (row: width * channels), of which the top left is kept. */
typedef struct Kept {
    const int *keep; /* (N,2), or NULL: everything */
    unsigned images, height, width, channels;
} Kept;

static Kept kept_of(const KernelCall *call)
{
    Shape shape = call->src[0].shape;
    bool limited = call->n_src > 2 && cuda_present(&call->src[2]);
    Kept kept = {limited ? (const int *)call->src[2].data : NULL, (unsigned)shape.dim[0],
                 (unsigned)shape.dim[1], (unsigned)shape.dim[2], (unsigned)shape.dim[3]};
    return kept;
}

static __device__ __forceinline__ bool is_kept(const Kept &kept, unsigned image, unsigned i)
{
    if (!kept.keep) return true;
    unsigned pixel = i / kept.channels;
    return pixel / kept.width < (unsigned)kept.keep[2 * image] &&
           pixel % kept.width < (unsigned)kept.keep[2 * image + 1];
}

/* Factor of each squared difference of an image: 1 / (images * kept values). */
static __device__ __forceinline__ double kept_factor(const Kept &kept, unsigned image)
{
    double rows = kept.keep ? kept.keep[2 * image] : (int)kept.height;
    double cols = kept.keep ? kept.keep[2 * image + 1] : (int)kept.width;
    double values = rows * cols * kept.channels;
    return values > 0 ? 1.0 / (kept.images * values) : 0.0;
}

struct SquaredError {
    const float *src, *target;
    Kept kept;
    unsigned per_image;
    __device__ float at(unsigned image, unsigned i) const
    {
        if (!is_kept(kept, image, i)) return 0.0f;
        float difference = src[image * per_image + i] - target[image * per_image + i];
        return difference * difference;
    }
};

/* One thread: images are few, and their parts are added in order. */
static __global__ void mse_finish_kernel(float *loss, const double *parts, unsigned n_parts,
                                         Kept kept, double scale)
{
    double total = 0;
    for (unsigned image = 0; image < kept.images; image++) {
        double sum = 0;
        for (unsigned part = 0; part < n_parts; part++) sum += parts[image * n_parts + part];
        total += kept_factor(kept, image) * sum;
    }
    *loss = (float)(scale * total);
}

static unsigned per_image(const Kept &kept) { return kept.height * kept.width * kept.channels; }

static void mse_run(const KernelCall *call)
{
    Kept kept = kept_of(call);
    SquaredError value = {(const float *)call->src[0].data, (const float *)call->src[1].data, kept,
                          per_image(kept)};
    unsigned n_parts = sum_parts(kept.images, value.per_image);
    double *parts = (double *)call->scratch;
    LAUNCH(call, sum_kernel<SquaredError>, dim3(kept.images, n_parts), SUM_THREADS, 0, parts, value,
           value.per_image);
    LAUNCH(call, mse_finish_kernel, 1, 1, 0, (float *)call->dst[0].data, (const double *)parts,
           n_parts, kept, call->attr->mse.scale);
}

extern "C" Status cuda_mse(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = mse_run;
    return OK;
}

static __global__ void mse_grad_kernel(float *dsrc, const float *src, const float *target,
                                       const float *dloss, Kept kept, unsigned per_image,
                                       double scale)
{
    unsigned image = blockIdx.y, base = image * per_image;
    float factor = (float)(2.0 * scale * (double)*dloss * kept_factor(kept, image));
    for (FLAT_LOOP(i, per_image)) {
        float difference = src[base + i] - target[base + i];
        dsrc[base + i] = is_kept(kept, image, i) ? factor * difference : 0.0f;
    }
}

static void mse_grad_run(const KernelCall *call)
{
    Kept kept = kept_of(call);
    unsigned n = per_image(kept);
    if (n == 0 || kept.images == 0) return;
    LAUNCH(call, mse_grad_kernel, dim3(flat_blocks(n), kept.images), FLAT_THREADS, 0,
           (float *)call->dst[0].data, (const float *)call->src[0].data,
           (const float *)call->src[1].data, (const float *)call->src[3].data, kept, n,
           call->attr->mse_grad.scale);
}

CUDA_BIND(mse_grad)

/* ---- candidates ---- */

enum { CANDIDATE_THREADS = 256 };

/* The candidates that take part: [begin, end). */
typedef struct Part {
    unsigned begin, end;
} Part;

static __device__ __forceinline__ Part part_of(const int *mode, unsigned n_candidates)
{
    return *mode == 1 ? Part{1, n_candidates} : Part{0, 1};
}

/* One block: prompts are few, and the loss is one sum. */
static __global__ void __launch_bounds__(CANDIDATE_THREADS)
    min_candidate_kernel(float *loss, float *candidates, int *best, const float *terms,
                         const int *mode, const float *weight, float mask_weight, float dice_weight,
                         unsigned n_candidates, unsigned prompts)
{
    __shared__ double partial[WARP];
    Part part = part_of(mode, n_candidates);
    double sum = 0;
    for (unsigned prompt = threadIdx.x; prompt < prompts; prompt += CANDIDATE_THREADS) {
        float least = 0.0f;
        unsigned chosen = part.begin;
        for (unsigned c = 0; c < n_candidates; c++) {
            unsigned at = prompt * n_candidates + c;
            float value = mask_weight * terms[2 * at] + dice_weight * terms[2 * at + 1];
            candidates[at] = value;
            if (c < part.begin || c >= part.end) continue;
            if (c > part.begin && !(value < least)) continue;
            least = value;
            chosen = c;
        }
        best[prompt] = (int)chosen;
        sum += (double)weight[prompt] * (double)least;
    }
    sum = block_sum_double(sum, partial);
    if (threadIdx.x == 0) *loss = (float)sum;
}

static void min_candidate_run(const KernelCall *call)
{
    const CandidateAttr *attr = &call->attr->min_candidate;
    LAUNCH(call, min_candidate_kernel, 1, CANDIDATE_THREADS, 0, (float *)call->dst[0].data,
           (float *)call->dst[1].data, (int *)call->dst[2].data, (const float *)call->src[0].data,
           (const int *)call->src[1].data, (const float *)call->src[2].data,
           (float)attr->mask_weight, (float)attr->dice_weight, (unsigned)call->src[0].shape.dim[2],
           (unsigned)shape_elems(call->src[2].shape));
}

CUDA_BIND(min_candidate)

static __global__ void min_candidate_grad_kernel(float2 *dterms, const float *weight,
                                                 const int *best, const float *dloss,
                                                 float mask_weight, float dice_weight,
                                                 unsigned n_candidates, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        unsigned prompt = i / n_candidates;
        bool chosen = i % n_candidates == (unsigned)best[prompt];
        float d = chosen ? *dloss * weight[prompt] : 0.0f;
        dterms[i] = make_float2(d * mask_weight, d * dice_weight);
    }
}

static void min_candidate_grad_run(const KernelCall *call)
{
    const CandidateAttr *attr = &call->attr->min_candidate_grad;
    unsigned n = (unsigned)shape_elems(call->src[0].shape);
    if (n == 0) return;
    LAUNCH(call, min_candidate_grad_kernel, flat_blocks(n), FLAT_THREADS, 0,
           (float2 *)call->dst[0].data, (const float *)call->src[1].data,
           (const int *)call->src[2].data, (const float *)call->src[3].data,
           (float)attr->mask_weight, (float)attr->dice_weight, (unsigned)call->src[0].shape.dim[2],
           n);
}

CUDA_BIND(min_candidate_grad)

/* ---- the IoU head ---- */

static __global__ void __launch_bounds__(CANDIDATE_THREADS)
    iou_mse_kernel(float *loss, const float *pred, const float *iou, const int *mode,
                   const float *weight, double scale, unsigned n_candidates, unsigned n)
{
    __shared__ double partial[WARP];
    Part part = part_of(mode, n_candidates);
    double sum = 0;
    for (unsigned i = threadIdx.x; i < n; i += CANDIDATE_THREADS) {
        unsigned c = i % n_candidates;
        if (c < part.begin || c >= part.end) continue;
        double difference = (double)pred[i] - (double)iou[i];
        sum += (double)weight[i / n_candidates] * difference * difference;
    }
    sum = block_sum_double(sum, partial);
    if (threadIdx.x == 0) *loss = (float)(scale * sum / (part.end - part.begin));
}

static void iou_mse_run(const KernelCall *call)
{
    LAUNCH(call, iou_mse_kernel, 1, CANDIDATE_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->src[0].data, (const float *)call->src[1].data,
           (const int *)call->src[2].data, (const float *)call->src[3].data,
           call->attr->iou_mse.scale, (unsigned)call->src[0].shape.dim[2],
           (unsigned)shape_elems(call->src[0].shape));
}

CUDA_BIND(iou_mse)

static __global__ void iou_mse_grad_kernel(float *dpred, const float *pred, const float *iou,
                                           const int *mode, const float *weight, const float *dloss,
                                           float scale, unsigned n_candidates, unsigned n)
{
    Part part = part_of(mode, n_candidates);
    float factor = 2.0f * scale * *dloss / (float)(part.end - part.begin);
    for (FLAT_LOOP(i, n)) {
        unsigned c = i % n_candidates;
        bool takes_part = c >= part.begin && c < part.end;
        dpred[i] = takes_part ? factor * weight[i / n_candidates] * (pred[i] - iou[i]) : 0.0f;
    }
}

static void iou_mse_grad_run(const KernelCall *call)
{
    unsigned n = (unsigned)shape_elems(call->src[0].shape);
    if (n == 0) return;
    LAUNCH(call, iou_mse_grad_kernel, flat_blocks(n), FLAT_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->src[0].data, (const float *)call->src[1].data,
           (const int *)call->src[2].data, (const float *)call->src[3].data,
           (const float *)call->src[4].data, (float)call->attr->iou_mse_grad.scale,
           (unsigned)call->src[0].shape.dim[2], n);
}

CUDA_BIND(iou_mse_grad)
