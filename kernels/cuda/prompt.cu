/* Positional codes of cells and of prompts, their gradient, and the counts of what was prompted.
 * source  SAM's PositionEmbeddingRandom and PromptEncoder
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/columns.cuh"

enum { LABEL_EMPTY = -2, LABEL_PADDING = -1, LABEL_BOX_FROM = 2, N_EMBEDDINGS = 5 };

/* Element `feature` of the code of a point (x,y) in [0,1]^2: sines first, then cosines, of
 * 2 pi (2x-1, 2y-1).G. Counted in turns, in double, and whole turns are taken off
 * before the sine: frequencies may be large. */
static __device__ __forceinline__ float position_code(const float *g, unsigned features,
                                                      unsigned feature, double x, double y)
{
    unsigned f = feature % features;
    double turns = (2.0 * x - 1.0) * (double)g[f] + (2.0 * y - 1.0) * (double)g[features + f];
    float angle = 6.2831853072f * (float)(turns - rint(turns));
    return feature < features ? sinf(angle) : cosf(angle);
}

/* ---- the grid of cell centres ---- */

static __global__ void pe_grid_kernel(float *dst, const float *g, unsigned features,
                                      unsigned height, unsigned width, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        unsigned feature = i % (2 * features), cell = i / (2 * features);
        double x = ((double)(cell % width) + 0.5) / (double)width;
        double y = ((double)(cell / width) + 0.5) / (double)height;
        dst[i] = position_code(g, features, feature, x, y);
    }
}

static void pe_grid_run(const KernelCall *call)
{
    const GridAttr *attr = &call->attr->pe_grid;
    unsigned n = (unsigned)shape_elems(call->dst[0].shape);
    if (n == 0) return;
    LAUNCH(call, pe_grid_kernel, flat_blocks(n), FLAT_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->src[0].data, (unsigned)call->src[0].shape.dim[1],
           (unsigned)attr->height, (unsigned)attr->width, n);
}

CUDA_BIND(pe_grid)

/* ---- points and box corners ---- */

/* e0 .. e3, not_a_point. */
typedef struct Embeddings {
    const float *of[N_EMBEDDINGS];
} Embeddings;

/* Which embedding a label takes; no run-time index, so that the table stays in the parameters. */
static __device__ __forceinline__ const float *embedding_of(const Embeddings &e, int label)
{
    return label == 0   ? e.of[0]
           : label == 1 ? e.of[1]
           : label == 2 ? e.of[2]
           : label == 3 ? e.of[3]
                        : e.of[4];
}

static __global__ void point_embed_kernel(float *dst, const float *coords, const int *labels,
                                          const float *g, const Embeddings embeddings,
                                          unsigned features, double frame, unsigned n)
{
    for (FLAT_LOOP(i, n)) {
        unsigned feature = i % (2 * features), point = i / (2 * features);
        int label = labels[point];
        float value = 0.0f;
        if (label != LABEL_EMPTY) value = embedding_of(embeddings, label)[feature];
        if (label >= 0) {
            double x = ((double)coords[2 * point] + 0.5) / frame;
            double y = ((double)coords[2 * point + 1] + 0.5) / frame;
            value += position_code(g, features, feature, x, y);
        }
        dst[i] = value;
    }
}

static void point_embed_run(const KernelCall *call)
{
    unsigned n = (unsigned)shape_elems(call->dst[0].shape);
    if (n == 0) return;
    Embeddings e;
    for (int i = 0; i < N_EMBEDDINGS; i++) e.of[i] = (const float *)call->src[3 + i].data;
    LAUNCH(call, point_embed_kernel, flat_blocks(n), FLAT_THREADS, 0, (float *)call->dst[0].data,
           (const float *)call->src[0].data, (const int *)call->src[1].data,
           (const float *)call->src[2].data, e, (unsigned)call->src[2].shape.dim[1],
           call->attr->point_embed.frame, n);
}

CUDA_BIND(point_embed)

/* Rows of ddst summed by their label. */
struct EmbedGradTerm {
    const float *ddst;
    const int *labels;
    unsigned dim;
    template <int N>
    __device__ void add(unsigned, unsigned point, unsigned column,
                        float (&sum)[N_EMBEDDINGS][N]) const
    {
        int label = labels[point];
        if (label == LABEL_EMPTY) return;
        float value[N];
        load_pack<N>(ddst + point * dim + column, value);
#pragma unroll
        for (int e = 0; e < N_EMBEDDINGS; e++) {
            bool own = e == (label == LABEL_PADDING ? N_EMBEDDINGS - 1 : label);
#pragma unroll
            for (int j = 0; j < N; j++) sum[e][j] += own ? value[j] : 0.0f;
        }
    }
};

struct EmbedGradFinish {
    float *dst[N_EMBEDDINGS];
    __device__ void finish(unsigned, unsigned column, const double (&sum)[N_EMBEDDINGS]) const
    {
#pragma unroll
        for (int e = 0; e < N_EMBEDDINGS; e++) dst[e][column] = (float)sum[e];
    }
};

static ColumnPlan embed_grad_plan(const KernelCall *call)
{
    return column_plan(1, shape_elems(call->src[0].shape),
                       shape_dim_from_end(call->src[1].shape, 1));
}

static void point_embed_grad_run(const KernelCall *call)
{
    ColumnPlan plan = embed_grad_plan(call);
    EmbedGradTerm term = {(const float *)call->src[1].data, (const int *)call->src[0].data,
                          plan.columns};
    EmbedGradFinish finish;
    for (int i = 0; i < N_EMBEDDINGS; i++) finish.dst[i] = (float *)call->dst[i].data;
    column_sums<float, N_EMBEDDINGS>(call, plan, CUDA_PACKS(plan.columns, &call->src[1]),
                                     (float *)call->scratch, term, finish);
}

extern "C" Status cuda_point_embed_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = point_embed_grad_run;
    return OK;
}

/* ---- counts ---- */

/* One warp; its lanes share an image's labels. */
static __global__ void prompt_counts_kernel(float *counts, const int *labels, unsigned images,
                                            unsigned slots)
{
    float points = 0.0f, boxes = 0.0f;
    for (unsigned n = 0; n < images; n++) {
        bool has_point = false, has_box = false;
        for (unsigned i = threadIdx.x; i < slots; i += WARP) {
            int label = labels[n * slots + i];
            has_point |= label >= 0 && label < LABEL_BOX_FROM;
            has_box |= label >= LABEL_BOX_FROM;
        }
        points += __any_sync((unsigned)FULL_WARP, has_point) ? 1.0f : 0.0f;
        boxes += __any_sync((unsigned)FULL_WARP, has_box) ? 1.0f : 0.0f;
    }
    if (threadIdx.x > 0) return;
    counts[0] += points;
    counts[1] += boxes;
}

static void prompt_counts_run(const KernelCall *call)
{
    Shape shape = call->src[0].shape;
    LAUNCH(call, prompt_counts_kernel, 1, WARP, 0, (float *)call->dst[0].data,
           (const int *)call->src[0].data, (unsigned)shape.dim[0],
           (unsigned)(shape.dim[1] * shape.dim[2]));
}

CUDA_BIND(prompt_counts)
