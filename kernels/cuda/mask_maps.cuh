/* What the losses of masks share: logits (N,M,C,h,w) read as maps of S x S pixels, up-sampled
 * bilinearly where they are read, and targets as soft runs, expanded row by row into shared memory.
 * Included by focal_dice.cu, mask_errors.cu and points.cu. A cell is one candidate's map.
 */
#ifndef RETORT_KERNELS_CUDA_MASK_MAPS_CUH
#define RETORT_KERNELS_CUDA_MASK_MAPS_CUH

#include "base/soft_runs.h"
#include "kernels/cuda/storage.cuh"
#include "kernels/cuda/taps.cuh"

enum { MASK_THREADS = 256, MASK_MAX_SIZE = 3072 }; /* of S: rows of it lie in shared memory */

typedef struct MaskMaps {
    const float *logits;
    const unsigned *words;
    const int *rows, *mode;
    int cells, per_image, candidates;  /* per_image: prompts */
    int height, width, size, capacity; /* capacity: words of an image */
} MaskMaps;

/* Of a call whose sources begin with logits (N,M,C,h,w), words, rows, mode. */
static inline MaskMaps mask_maps(const KernelCall *call, int64_t size)
{
    const Shape *logits = &call->src[0].shape;
    MaskMaps maps = {};
    maps.logits = (const float *)call->src[0].data;
    maps.words = (const unsigned *)call->src[1].data;
    maps.rows = (const int *)call->src[2].data;
    maps.mode = (const int *)call->src[3].data;
    maps.cells = (int)(logits->dim[0] * logits->dim[1] * logits->dim[2]);
    maps.per_image = (int)logits->dim[1];
    maps.candidates = (int)logits->dim[2];
    maps.height = (int)logits->dim[3];
    maps.width = (int)logits->dim[4];
    maps.size = (int)size;
    maps.capacity = (int)call->src[1].shape.dim[1];
    return maps;
}

static inline Status mask_check_size(const KernelCall *call, int64_t size)
{
    if (size <= MASK_MAX_SIZE) return OK;
    return cuda_unsupported(call, "maps of %lld px; at most %d fit", (long long)size,
                            MASK_MAX_SIZE);
}

/* Mode 1: all candidates but the first; 0: the first alone. */
static __device__ __forceinline__ bool cell_takes_part(const MaskMaps &maps, int cell)
{
    int candidate = cell % maps.candidates;
    return *maps.mode == 1 ? candidate > 0 : candidate == 0;
}

static __device__ __forceinline__ const float *cell_logits(const MaskMaps &maps, int cell)
{
    return maps.logits + (size_t)cell * maps.height * maps.width;
}

/* The words of row y of a prompt's target: [*begin, *end). */
static __device__ __forceinline__ void target_words(const MaskMaps &maps, int prompt, int y,
                                                    const unsigned **begin, const unsigned **end)
{
    const unsigned *words = maps.words + (size_t)(prompt / maps.per_image) * maps.capacity;
    const int *rows = maps.rows + (size_t)prompt * (maps.size + 1);
    *begin = words + rows[y];
    *end = words + rows[y + 1];
}

/* All threads of the block walk the tokens of row y and share the pixels of each. A barrier must
 * follow before `target` (size) is read. */
static __device__ __forceinline__ void expand_target(const MaskMaps &maps, int prompt, int y,
                                                     float *target)
{
    const unsigned *word, *end;
    int x = 0, lane = (int)threadIdx.x, step = (int)blockDim.x;
    target_words(maps, prompt, y, &word, &end);
    while (word < end && x < maps.size) {
        unsigned kind = *word & SOFT_KIND_MASK;
        int n = min((int)(*word++ & SOFT_LENGTH_MASK), maps.size - x);
        const float *literal = (const float *)word;
        for (int i = lane; i < n; i += step)
            target[x + i] = kind == SOFT_LITERAL ? literal[i] : kind == SOFT_ONES ? 1.0f : 0.0f;
        if (kind == SOFT_LITERAL) word += n;
        x += n;
    }
    for (x += lane; x < maps.size; x += step) target[x] = 0.0f;
}

/* The columns of the up-sampling, made once per block: pixel x lies between first[x] and the next.
 */
typedef struct MaskColumns {
    int *first;
    float *t;
} MaskColumns;

/* Lays columns and `n_rows` rows of `size` floats into the dynamic shared memory. */
static inline size_t mask_shared_bytes(int64_t size, int n_rows)
{
    return (size_t)size * (size_t)(2 + n_rows) * sizeof(float);
}

static __device__ __forceinline__ MaskColumns mask_columns(const MaskMaps &maps, float *shared)
{
    MaskColumns columns = {(int *)shared, shared + maps.size};
    for (int x = (int)threadIdx.x; x < maps.size; x += (int)blockDim.x) {
        LinearTaps taps = linear_taps(x, maps.width, maps.size);
        columns.first[x] = taps.first;
        columns.t[x] = taps.t;
    }
    return columns;
}

/* A row of the up-sampled map: (1 - t) * above + t * below. */
typedef struct MaskRow {
    const float *above, *below;
    float t;
} MaskRow;

static __device__ __forceinline__ MaskRow mask_row(const MaskMaps &maps, const float *logits, int y)
{
    LinearTaps taps = linear_taps(y, maps.height, maps.size);
    MaskRow row = {logits + (size_t)taps.first * maps.width,
                   logits + (size_t)taps.second * maps.width, taps.t};
    return row;
}

/* Pixel x of the row. Products and sums are written out, so that every kernel rounds them alike: a
 * click looks again for the pixel that was counted. */
static __device__ __forceinline__ float mask_pixel(const MaskMaps &maps, const MaskRow &row,
                                                   const MaskColumns &columns, int x)
{
    int first = columns.first[x], second = min(first + 1, maps.width - 1);
    float t = columns.t[x];
    float above = fmaf(t, row.above[second] - row.above[first], row.above[first]);
    float below = fmaf(t, row.below[second] - row.below[first], row.below[first]);
    return fmaf(row.t, below - above, above);
}

/* p = sigmoid(x), q = 1 - p without cancellation, and the cross entropy of x against t. */
typedef struct PixelTerms {
    float p, q, ce;
} PixelTerms;

static __device__ __forceinline__ PixelTerms pixel_terms(float x, float t)
{
    float e = expf(-fabsf(x)), large = 1.0f / (1.0f + e), small = e * large;
    PixelTerms terms = {x >= 0.0f ? large : small, x >= 0.0f ? small : large,
                        fmaxf(x, 0.0f) - x * t + log1pf(e)};
    return terms;
}

/* d(Dice)/d(logit) = -p q (2 t / S - I / S^2), with I and S the sums of the op table. */
static __device__ __forceinline__ float dice_slope(const PixelTerms &terms, float t, float inverse,
                                                   float ratio)
{
    return -terms.p * terms.q * inverse * (2.0f * t - ratio);
}

#endif
