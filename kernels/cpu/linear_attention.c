/* LiteMLA's core, linear attention with ReLU features, and its gradient.
 *
 * Per image and group, with q, k through ReLU and v given a column of ones:
 *   S (d, d+1) = sum over pixels of k^T [v 1]      O = q S      out[j] = O[j] / (O[d] + eps)
 * so the numerator and the normaliser come from the same products. The ones fill a vector of their
 * own (columns d+1.. are 0), which keeps all widths whole vectors for the usual d of 16 and 32.
 *
 * Products over a block of pixels are in f32; blocks are added in double: maps have up to 4096
 * pixels, the sums are not normalised, and where the normaliser is tiny the gradient is huge.
 * Threads share the (image, group) pairs; no two write one element.
 */
#include "kernels/cpu/math.h"
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <string.h>

enum { PIXEL_BLOCK = 128 };

typedef struct Sizes {
    int64_t images, pixels, groups, dim;
    int64_t aug; /* columns of [v 1 0 ..]: dim and one more vector */
    float eps;
} Sizes;

static Sizes sizes_of(const KernelCall *call)
{
    const Shape *src = &call->src[0].shape;
    int64_t dim = call->attr->linear_attention.head_dim;
    return (Sizes){.images = src->dim[0],
                   .pixels = src->dim[1] * src->dim[2],
                   .dim = dim,
                   .groups = src->dim[3] / (3 * dim),
                   .aug = dim + TILE_LANES,
                   .eps = (float)call->attr->linear_attention.eps};
}

/* A thread's scratch. Small matrices are (dim, aug); blocks have PIXEL_BLOCK rows. */
typedef struct Work {
    float *q, *k, *v;     /* blocks (dim), (dim), (aug); q and k through ReLU */
    float *out;           /* block (aug): O, then its gradient */
    float *dout;          /* one pixel (dim) of ddst */
    float *dq, *dk, *dv;  /* blocks (dim) */
    float *s, *ds, *part; /* S, dS, the product of one block */
    float *s_t, *ds_t;    /* (aug, dim) */
    float *sum;           /* (dim, aug) of double */
} Work;

static int64_t layout(const Sizes *z, float *base, Work *w)
{
    int64_t narrow = PIXEL_BLOCK * z->dim, wide = PIXEL_BLOCK * z->aug, matrix = z->dim * z->aug;
    TilePart part[] = {
        {&w->q, narrow},    {&w->k, narrow},       {&w->v, wide},      {&w->out, wide},
        {&w->dout, z->dim}, {&w->dq, narrow},      {&w->dk, narrow},   {&w->dv, narrow},
        {&w->s, matrix},    {&w->ds, matrix},      {&w->part, matrix}, {&w->s_t, matrix},
        {&w->ds_t, matrix}, {&w->sum, 2 * matrix},
    };
    return tile_lay_out(base, part, sizeof part / sizeof *part);
}

/* A block of pixels of one group. */
typedef struct Block {
    int64_t n, group, first, rows;
} Block;

static int64_t pixel(const Sizes *z, const Block *b, int64_t i)
{
    return b->n * z->pixels + b->first + i;
}

/* dst (rows,dim) = q or k (part 0, 1) through ReLU. */
static void load_features(const KernelCall *call, const Sizes *z, const Block *b, int part,
                          float *dst)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float *to = dst + i * z->dim;
        int64_t offset = ((pixel(z, b, i) * z->groups + b->group) * 3 + part) * z->dim;
        const float *row = tile_load(&call->src[0], offset, z->dim, to);
#pragma omp simd
        for (int64_t c = 0; c < z->dim; c++) to[c] = math_relu(row[c]);
    }
}

/* dst (rows,aug) = [v 1 0 ..] */
static void load_values(const KernelCall *call, const Sizes *z, const Block *b, float *dst)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float *to = dst + i * z->aug;
        int64_t offset = ((pixel(z, b, i) * z->groups + b->group) * 3 + 2) * z->dim;
        const float *row = tile_load(&call->src[0], offset, z->dim, to);
        if (row != to) memcpy(to, row, (size_t)z->dim * sizeof(float));
        memset(to + z->dim, 0, TILE_LANES * sizeof(float));
        to[z->dim] = 1.0f;
    }
}

static Block block_at(const Sizes *z, int64_t unit, int64_t first)
{
    return (Block){unit / z->groups, unit % z->groups, first,
                   tile_min(PIXEL_BLOCK, z->pixels - first)};
}

static void sum_clear(const Sizes *z, Work *w)
{
    memset(w->sum, 0, (size_t)(z->dim * z->aug) * sizeof(double));
}

/* sum += a^T b of one block; a (rows,dim), b (rows,aug). */
static void sum_add(const Sizes *z, const Block *b, const float *a, const float *values, Work *w)
{
    double *sum = (double *)w->sum;
    tile_matmul_ta(z->dim, z->aug, b->rows, a, z->dim, values, z->aug, w->part, z->aug, false);
    for (int64_t i = 0; i < z->dim * z->aug; i++) sum[i] += w->part[i];
}

static void sum_read(const Sizes *z, const Work *w, float *dst)
{
    const double *sum = (const double *)w->sum;
    for (int64_t i = 0; i < z->dim * z->aug; i++) dst[i] = (float)sum[i];
}

/* w->s = S of one (image, group). */
static void make_state(const KernelCall *call, const Sizes *z, int64_t unit, Work *w)
{
    sum_clear(z, w);
    for (int64_t first = 0; first < z->pixels; first += PIXEL_BLOCK) {
        Block b = block_at(z, unit, first);
        load_features(call, z, &b, 1, w->k);
        load_values(call, z, &b, w->v);
        sum_add(z, &b, w->k, w->v, w);
    }
    sum_read(z, w, w->s);
}

/* w->out (rows,aug) = q S, w->q loaded. */
static void apply_state(const KernelCall *call, const Sizes *z, const Block *b, Work *w)
{
    load_features(call, z, b, 0, w->q);
    tile_matmul(b->rows, z->aug, z->dim, w->q, z->dim, w->s, z->aug, w->out, z->aug, false);
}

static void forward_block(const KernelCall *call, const Sizes *z, const Block *b, Work *w)
{
    apply_state(call, z, b, w);
    for (int64_t i = 0; i < b->rows; i++) {
        float *row = w->out + i * z->aug, normaliser = row[z->dim] + z->eps;
#pragma omp simd
        for (int64_t c = 0; c < z->dim; c++) row[c] /= normaliser;
        tile_store(&call->dst[0], (pixel(z, b, i) * z->groups + b->group) * z->dim, z->dim, row);
    }
}

/* The gradient of O from that of out, with D = O[d] + eps:
 * dO[j] = g[j] / D, dO[d] = -sum_j g[j] out[j] / D. */
static void gradient_of_product(const KernelCall *call, const Sizes *z, const Block *b, Work *w)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float *row = w->out + i * z->aug, normaliser = row[z->dim] + z->eps, sum = 0.0f;
        int64_t offset = (pixel(z, b, i) * z->groups + b->group) * z->dim;
        const float *grad = tile_load(&call->src[1], offset, z->dim, w->dout);
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < z->dim; c++) {
            float scaled = grad[c] / normaliser;
            sum += scaled * (row[c] / normaliser);
            row[c] = scaled;
        }
        row[z->dim] = -sum;
    }
}

/* Zero where the feature was cut off by ReLU, then to part 0, 1 (q, k) of dsrc; v has no ReLU. */
static void store_part(const KernelCall *call, const Sizes *z, const Block *b, int part,
                       const float *feature, float *grad)
{
    for (int64_t i = 0; i < b->rows; i++) {
        float *row = grad + i * z->dim;
        for (int64_t c = 0; feature && c < z->dim; c++)
            row[c] = feature[i * z->dim + c] > 0.0f ? row[c] : 0.0f;
        tile_store(&call->dst[0], ((pixel(z, b, i) * z->groups + b->group) * 3 + part) * z->dim,
                   z->dim, row);
    }
}

/* dq = dO S^T and dS += q^T dO. */
static void gradient_queries(const KernelCall *call, const Sizes *z, int64_t unit, Work *w)
{
    tile_transpose(z->dim, z->aug, w->s, z->aug, w->s_t, z->dim);
    sum_clear(z, w);
    for (int64_t first = 0; first < z->pixels; first += PIXEL_BLOCK) {
        Block b = block_at(z, unit, first);
        apply_state(call, z, &b, w);
        gradient_of_product(call, z, &b, w);
        tile_matmul(b.rows, z->dim, z->dim + 1, w->out, z->aug, w->s_t, z->dim, w->dq, z->dim,
                    false);
        store_part(call, z, &b, 0, w->q, w->dq);
        sum_add(z, &b, w->q, w->out, w);
    }
    sum_read(z, w, w->ds);
}

/* dk = [v 1] dS^T and dv = k dS. */
static void gradient_keys(const KernelCall *call, const Sizes *z, int64_t unit, Work *w)
{
    tile_transpose(z->dim, z->aug, w->ds, z->aug, w->ds_t, z->dim);
    for (int64_t first = 0; first < z->pixels; first += PIXEL_BLOCK) {
        Block b = block_at(z, unit, first);
        load_features(call, z, &b, 1, w->k);
        load_values(call, z, &b, w->v);
        tile_matmul(b.rows, z->dim, z->dim + 1, w->v, z->aug, w->ds_t, z->dim, w->dk, z->dim,
                    false);
        tile_matmul(b.rows, z->dim, z->dim, w->k, z->dim, w->ds, z->aug, w->dv, z->dim, false);
        store_part(call, z, &b, 1, w->k, w->dk);
        store_part(call, z, &b, 2, NULL, w->dv);
    }
}

static void forward_unit(const KernelCall *call, const Sizes *z, int64_t unit, Work *w)
{
    make_state(call, z, unit, w);
    for (int64_t first = 0; first < z->pixels; first += PIXEL_BLOCK) {
        Block b = block_at(z, unit, first);
        forward_block(call, z, &b, w);
    }
}

static void gradient_unit(const KernelCall *call, const Sizes *z, int64_t unit, Work *w)
{
    make_state(call, z, unit, w);
    gradient_queries(call, z, unit, w);
    gradient_keys(call, z, unit, w);
}

static void run_units(const KernelCall *call,
                      void (*run_unit)(const KernelCall *, const Sizes *, int64_t unit, Work *))
{
    Sizes z = sizes_of(call);
    Work sizes;
    int64_t n_floats = layout(&z, NULL, &sizes);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Work w;
        int64_t begin, end;
        layout(&z, (float *)call->scratch + t * n_floats, &w);
        cpu_split(z.images * z.groups, call->n_threads, t, &begin, &end);
        for (int64_t unit = begin; unit < end; unit++) run_unit(call, &z, unit, &w);
    }
}

static void linear_attention_run(const KernelCall *call) { run_units(call, forward_unit); }
static void linear_attention_grad_run(const KernelCall *call) { run_units(call, gradient_unit); }

static Status bind(KernelCall *call, void (*run)(const KernelCall *))
{
    Sizes z = sizes_of(call);
    Work sizes;
    assert(z.groups * 3 * z.dim == call->src[0].shape.dim[3]);
    call->run = run;
    call->scratch_bytes = (size_t)(call->n_threads * layout(&z, NULL, &sizes)) * sizeof(float);
    return OK;
}

Status cpu_linear_attention(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind(call, linear_attention_run);
}

Status cpu_linear_attention_grad(Backend *backend, KernelCall *call)
{
    (void)backend;
    return bind(call, linear_attention_grad_run);
}
