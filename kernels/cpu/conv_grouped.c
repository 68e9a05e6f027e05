/* 1x1 convolutions in groups, stride 1: per pixel and group a small matrix times a vector.
 *
 * Called by conv.c; LiteMLA has 3*heads groups of 16 or 32 channels. Blocks of pixels times one
 * group's matrix are small dense products; f32 maps are used in place, others through blocks
 * converted to f32.
 */
#include "kernels/cpu/conv.h"
#include "kernels/cpu/tile.h"

#include <string.h>

enum { BLOCK_PIXELS = 64 };

typedef struct Grouped {
    int64_t pixels, groups, k, c; /* k, c per group */
    int64_t n_weights;
} Grouped;

static Grouped grouped_make(const KernelCall *call)
{
    ConvShape s = conv_shape(call);
    return (Grouped){.pixels = s.n * s.h * s.w,
                     .groups = s.groups,
                     .k = s.k / s.groups,
                     .c = s.c / s.groups,
                     .n_weights = s.k * (s.c / s.groups)};
}

/* Scratch: the weights in f32 (for the gradient: one partial sum per thread), then two row blocks
 * per thread. */
static float *weights_at(const KernelCall *call, const Grouped *g, int thread)
{
    return (float *)call->scratch + thread * tile_round(g->n_weights);
}

static float *block_at(const KernelCall *call, const Grouped *g, int n_weight_sets, int thread,
                       int which)
{
    int64_t in = BLOCK_PIXELS * g->groups * g->c, out = BLOCK_PIXELS * g->groups * g->k;
    float *blocks = weights_at(call, g, n_weight_sets) +
                    thread * (tile_round(in) + tile_round(out));
    return which ? blocks + tile_round(in) : blocks;
}

static size_t scratch_bytes(const KernelCall *call, const Grouped *g, int n_weight_sets)
{
    return (size_t)(block_at(call, g, n_weight_sets, call->n_threads, 0) - (float *)call->scratch) *
           sizeof(float);
}

/* Weights (K,1,1,C/G) in f32 and per group as the right factor: (k,c) for the data pass, (c,k)
 * forward. */
static void load_weights(const KernelCall *call, const Grouped *g, bool transpose)
{
    float *weights = weights_at(call, g, 0), tmp[CPU_BLOCK];
    int64_t n = g->k * g->c;
    for (int64_t row = 0; row < g->groups * g->k; row++) {
        int64_t group = row / g->k, i = row % g->k;
        for (int64_t begin = 0; begin < g->c; begin += CPU_BLOCK) {
            int64_t length = g->c - begin < CPU_BLOCK ? g->c - begin : CPU_BLOCK;
            const float *from = cpu_load(&call->src[1], row * g->c + begin, length, tmp);
            for (int64_t j = 0; j < length; j++)
                weights[group * n + (transpose ? (begin + j) * g->k + i : i * g->c + begin + j)] =
                    from[j];
        }
    }
}

static void add_bias(const KernelCall *call, int64_t rows, int64_t n, float *row)
{
    const float *bias = call->src[2].data;
    for (int64_t i = 0; i < rows; i++, row += n)
        for (int64_t j = 0; j < n; j++) row[j] += bias[j];
}

/* out rows = in rows times the block-diagonal matrix; `in` and `out` are channels per group. */
static void map_pixels(const KernelCall *call, const Grouped *g, int64_t in, int64_t out, bool bias,
                       int thread)
{
    int64_t pixel, end, width_in = g->groups * in, width_out = g->groups * out;
    const float *weights = weights_at(call, g, 0);
    bool forward = call->op == OP_CONV2D;
    cpu_split(g->pixels, call->n_threads, thread, &pixel, &end);
    for (; pixel < end; pixel += BLOCK_PIXELS) {
        int64_t n = end - pixel < BLOCK_PIXELS ? end - pixel : BLOCK_PIXELS;
        const float *from = tile_load(&call->src[0], pixel * width_in, n * width_in,
                                      block_at(call, g, 1, thread, !forward));
        float *to = cpu_row(&call->dst[0], pixel * width_out,
                            block_at(call, g, 1, thread, forward));
        for (int64_t group = 0; group < g->groups; group++)
            tile_matmul(n, out, in, from + group * in, width_in, weights + group * in * out, out,
                        to + group * out, width_out, false);
        if (bias) add_bias(call, n, width_out, to);
        tile_store(&call->dst[0], pixel * width_out, n * width_out, to);
    }
}

static void forward_run(const KernelCall *call)
{
    Grouped g = grouped_make(call);
    load_weights(call, &g, true);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++)
        map_pixels(call, &g, g.c, g.k, conv_shape(call).bias, t);
}

static void data_run(const KernelCall *call)
{
    Grouped g = grouped_make(call);
    load_weights(call, &g, false);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) map_pixels(call, &g, g.k, g.c, false, t);
}

/* dw of one thread's pixels: per group ddst^T src. */
static void sum_weights(const KernelCall *call, const Grouped *g, int thread)
{
    int64_t pixel, end, width_c = g->groups * g->c, width_k = g->groups * g->k;
    float *dw = weights_at(call, g, thread);
    memset(dw, 0, (size_t)g->n_weights * sizeof *dw);
    cpu_split(g->pixels, call->n_threads, thread, &pixel, &end);
    for (; pixel < end; pixel += BLOCK_PIXELS) {
        int64_t n = end - pixel < BLOCK_PIXELS ? end - pixel : BLOCK_PIXELS;
        const float *src = tile_load(&call->src[0], pixel * width_c, n * width_c,
                                     block_at(call, g, call->n_threads, thread, 0));
        const float *ddst = tile_load(&call->src[1], pixel * width_k, n * width_k,
                                      block_at(call, g, call->n_threads, thread, 1));
        for (int64_t group = 0; group < g->groups; group++)
            tile_matmul_ta(g->k, g->c, n, ddst + group * g->k, width_k, src + group * g->c, width_c,
                           dw + group * g->k * g->c, g->c, true);
    }
}

static void weight_run(const KernelCall *call)
{
    Grouped g = grouped_make(call);
    float *total = call->dst[0].data;
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) sum_weights(call, &g, t);
    memcpy(total, weights_at(call, &g, 0), (size_t)g.n_weights * sizeof *total);
    for (int t = 1; t < call->n_threads; t++) {
        const float *part = weights_at(call, &g, t);
        for (int64_t i = 0; i < g.n_weights; i++) total[i] += part[i];
    }
}

Status conv_grouped_bind(KernelCall *call)
{
    ConvPass pass = conv_shape(call).pass;
    Grouped g = grouped_make(call);
    call->run = pass == CONV_FORWARD ? forward_run : pass == CONV_DATA ? data_run : weight_run;
    call->scratch_bytes = scratch_bytes(call, &g, pass == CONV_WEIGHT ? call->n_threads : 1);
    return OK;
}
