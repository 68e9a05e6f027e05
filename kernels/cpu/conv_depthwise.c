/* Depthwise convolutions in three passes, own kernels over NHWC rows.
 *
 * Called by conv.c. Each thread takes a range of result rows and walks down them with a ring of the
 * R input rows it needs, packed by LANES channels, in f32, with the zero border in place. So the
 * inner loops know neither borders, dtypes, odd channel counts nor the cache conflicts of
 * power-of-two strides.
 *
 * The data pass is a forward pass from dst to src: the rows are spread out by the stride, the taps
 * flipped. The weight pass sums per thread, and then over the threads in order.
 *
 * Packed layouts:  a row [chunk][x][LANES]   weights [chunk][tap][LANES], tap = r*S + s
 */
#include "kernels/cpu/conv.h"
#include "kernels/cpu/tile.h"

#include <assert.h>
#include <string.h>

enum { CHUNK_VECS = 2, LANES = CHUNK_VECS * TILE_VEC, X_BLOCK = 4, MAX_KERNEL = 16 };

/* The convolution as it runs: from `in` rows to `out` rows. */
typedef struct Depthwise {
    ConvPass pass;
    int64_t n, channels, chunks, r, s, taps;
    int64_t in_h, in_w, out_h, out_w;
    int64_t stride; /* between the positions of neighbouring results */
    int64_t spread; /* between the positions of neighbouring inputs: the stride of the data pass */
    int64_t pad_h, pad_w; /* position of input 0 */
    int64_t row_w;        /* positions of a packed input row */
    bool bias;
} Depthwise;

static Depthwise depthwise_make(const KernelCall *call)
{
    ConvShape s = conv_shape(call);
    Depthwise d = {.pass = s.pass,
                   .n = s.n,
                   .channels = s.c,
                   .chunks = (s.c + LANES - 1) / LANES,
                   .r = s.r,
                   .s = s.s,
                   .taps = s.r * s.s,
                   .in_h = s.h,
                   .in_w = s.w,
                   .out_h = s.out_h,
                   .out_w = s.out_w,
                   .stride = s.stride,
                   .spread = 1,
                   .pad_h = s.pad_h,
                   .pad_w = s.pad_w,
                   .bias = s.bias};
    if (s.pass == CONV_DATA) {
        d.in_h = s.out_h, d.in_w = s.out_w, d.out_h = s.h, d.out_w = s.w;
        d.stride = 1;
        d.spread = s.stride;
        d.pad_h = s.r - 1 - s.pad_h;
        d.pad_w = s.s - 1 - s.pad_w;
    }
    d.row_w = (d.out_w - 1) * d.stride + d.s;
    return d;
}

/* ---- scratch: packed weights and bias, then per thread ring, one packed row, dw sums ---- */

typedef struct Share {
    float *ring, *row, *sums;
    int64_t loaded[MAX_KERNEL]; /* which input row a slot of the ring holds, -1: none */
} Share;

static int64_t weights_elems(const Depthwise *d) { return d->chunks * d->taps * LANES; }
static int64_t ring_row_elems(const Depthwise *d) { return d->chunks * d->row_w * LANES; }
static int64_t out_row_elems(const Depthwise *d) { return d->chunks * d->out_w * LANES; }
static float *bias_at(const KernelCall *call, const Depthwise *d)
{
    return (float *)call->scratch + weights_elems(d);
}

static int64_t share_elems(const Depthwise *d)
{
    return d->r * ring_row_elems(d) + out_row_elems(d) + weights_elems(d);
}

static Share share_take(const KernelCall *call, const Depthwise *d, int thread)
{
    Share share = {.ring = bias_at(call, d) + d->chunks * LANES + thread * share_elems(d)};
    share.row = share.ring + d->r * ring_row_elems(d);
    share.sums = share.row + out_row_elems(d);
    memset(share.ring, 0,
           (size_t)(d->r * ring_row_elems(d)) * sizeof(float)); /* the borders stay zero */
    for (int64_t i = 0; i < d->r; i++) share.loaded[i] = -1;
    return share;
}

/* ---- packing ---- */

/* Packs n channels of one position, from channel `first` (a multiple of LANES) on. */
static void pack_position(const float *from, int64_t first, int64_t n, int64_t chunk_stride,
                          float *to)
{
    for (int64_t i = 0; i < n; i += LANES) {
        float *chunk = to + (first + i) / LANES * chunk_stride;
        int64_t length = n - i < LANES ? n - i : LANES;
        if (length == LANES)
            for (int v = 0; v < CHUNK_VECS; v++)
                *(TileVec *)(chunk + v * TILE_VEC) = *(const TileVec *)(from + i + v * TILE_VEC);
        else
            for (int64_t j = 0; j < LANES; j++) chunk[j] = j < length ? from[i + j] : 0.0f;
    }
}

/* Packs row number `row` of a map of `width` pixels: pixel x goes to position pad + x*spread of
 * `positions`. */
static void pack_row(const Tensor *map, const Depthwise *d, int64_t row, int64_t width, int64_t pad,
                     int64_t spread, int64_t positions, float *to)
{
    float tmp[CPU_BLOCK];
    for (int64_t x = 0; x < width; x++) {
        int64_t position = pad + x * spread, pixel = (row * width + x) * d->channels;
        if (position < 0 || position >= positions) continue;
        for (int64_t c = 0; c < d->channels; c += CPU_BLOCK) {
            int64_t n = d->channels - c < CPU_BLOCK ? d->channels - c : CPU_BLOCK;
            pack_position(cpu_load(map, pixel + c, n, tmp), c, n, positions * LANES,
                          to + position * LANES);
        }
    }
}

/* The packed input row iy of an image, from the ring. */
static const float *ring_row(const KernelCall *call, const Depthwise *d, Share *share,
                             int64_t image, int64_t iy)
{
    int64_t slot = iy % d->r, row = image * d->in_h + iy;
    float *packed = share->ring + slot * ring_row_elems(d);
    if (share->loaded[slot] != row) {
        pack_row(&call->src[0], d, row, d->in_w, d->pad_w, d->spread, d->row_w, packed);
        share->loaded[slot] = row;
    }
    return packed;
}

/* The input rows under result row `oy`: rows[r], NULL where the tap meets the border or a gap. */
static void gather_rows(const KernelCall *call, const Depthwise *d, Share *share, int64_t row,
                        const float **rows)
{
    int64_t image = row / d->out_h, oy = row % d->out_h;
    for (int64_t r = 0; r < d->r; r++) {
        int64_t spread_y = oy * d->stride + r - d->pad_h, iy = spread_y / d->spread;
        bool there = spread_y >= 0 && spread_y % d->spread == 0 && iy < d->in_h;
        rows[r] = there ? ring_row(call, d, share, image, iy) : NULL;
    }
}

/* Weights (C,R,S,1) to [chunk][tap][LANES], flipped for the data pass; the bias likewise. */
static void pack_weights(const KernelCall *call, const Depthwise *d)
{
    float *weights = call->scratch, *bias = bias_at(call, d), tmp[CPU_BLOCK];
    memset(weights, 0, (size_t)(weights_elems(d) + d->chunks * LANES) * sizeof(float));
    for (int64_t c = 0; c < d->channels; c++) {
        const float *from = cpu_load(&call->src[1], c * d->taps, d->taps, tmp);
        float *to = weights + c / LANES * d->taps * LANES + c % LANES;
        for (int64_t tap = 0; tap < d->taps; tap++)
            to[tap * LANES] = from[d->pass == CONV_DATA ? d->taps - 1 - tap : tap];
    }
    if (d->bias) memcpy(bias, call->src[2].data, (size_t)d->channels * sizeof(float));
}

/* ---- forward and data ---- */

/* `count` neighbouring results of one chunk; count is a constant where this is inlined. */
static inline __attribute__((always_inline)) void convolve(const Depthwise *d, int count,
                                                           const float **rows, int64_t at,
                                                           const float *weights, const float *bias,
                                                           TileVec sum[X_BLOCK][CHUNK_VECS])
{
    for (int i = 0; i < count; i++)
        for (int v = 0; v < CHUNK_VECS; v++) sum[i][v] = *(const TileVec *)(bias + v * TILE_VEC);
    for (int64_t r = 0; r < d->r; r++) {
        if (!rows[r]) continue;
        const float *from = rows[r] + at, *w = weights + r * d->s * LANES;
        for (int64_t s = 0; s < d->s; s++, from += LANES, w += LANES)
            for (int v = 0; v < CHUNK_VECS; v++) {
                TileVec factor = *(const TileVec *)(w + v * TILE_VEC);
                for (int i = 0; i < count; i++)
                    sum[i][v] += factor *
                                 *(const TileVec *)(from + i * d->stride * LANES + v * TILE_VEC);
            }
    }
}

static void store_chunk(const TileVec *sum, int64_t n, float *to)
{
    if (n == LANES)
        for (int v = 0; v < CHUNK_VECS; v++) *(TileVec *)(to + v * TILE_VEC) = sum[v];
    else
        memcpy(to, sum, (size_t)n * sizeof *to);
}

/* One chunk of one result row; `to` is the row, pixel by pixel. */
static void convolve_chunk(const KernelCall *call, const Depthwise *d, const float **rows,
                           int64_t chunk, float *to)
{
    const float *weights = (const float *)call->scratch + chunk * d->taps * LANES;
    const float *bias = bias_at(call, d) + chunk * LANES;
    int64_t first = chunk * LANES, n = d->channels - first < LANES ? d->channels - first : LANES;
    int64_t base = chunk * d->row_w, x = 0;
    TileVec sum[X_BLOCK][CHUNK_VECS];
    for (; x + X_BLOCK <= d->out_w; x += X_BLOCK) {
        convolve(d, X_BLOCK, rows, (base + x * d->stride) * LANES, weights, bias, sum);
        for (int i = 0; i < X_BLOCK; i++)
            store_chunk(sum[i], n, to + (x + i) * d->channels + first);
    }
    for (; x < d->out_w; x++) {
        convolve(d, 1, rows, (base + x * d->stride) * LANES, weights, bias, sum);
        store_chunk(sum[0], n, to + x * d->channels + first);
    }
}

static void map_run(const KernelCall *call)
{
    Depthwise d = depthwise_make(call);
    pack_weights(call, &d);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) {
        Share share = share_take(call, &d, t);
        const float *rows[MAX_KERNEL];
        int64_t row, end, row_elems = d.out_w * d.channels;
        cpu_split(d.n * d.out_h, call->n_threads, t, &row, &end);
        for (; row < end; row++) {
            float *to = cpu_row(&call->dst[0], row * row_elems, share.row);
            gather_rows(call, &d, &share, row, rows);
            for (int64_t chunk = 0; chunk < d.chunks; chunk++)
                convolve_chunk(call, &d, rows, chunk, to);
            tile_store(&call->dst[0], row * row_elems, row_elems, to);
        }
    }
}

/* ---- weights ---- */

/* sums[s] += sum over x of src[x*stride + s] ddst[x], for `count` neighbouring taps s of one chunk.
 */
static inline __attribute__((always_inline)) void correlate(const Depthwise *d, int count,
                                                            const float *src, const float *ddst,
                                                            float *sums)
{
    TileVec sum[MAX_KERNEL][CHUNK_VECS];
    for (int s = 0; s < count; s++)
        for (int v = 0; v < CHUNK_VECS; v++)
            sum[s][v] = *(const TileVec *)(sums + s * LANES + v * TILE_VEC);
    for (int64_t x = 0; x < d->out_w; x++, ddst += LANES, src += d->stride * LANES)
        for (int v = 0; v < CHUNK_VECS; v++) {
            TileVec g = *(const TileVec *)(ddst + v * TILE_VEC);
            for (int s = 0; s < count; s++)
                sum[s][v] += g * *(const TileVec *)(src + s * LANES + v * TILE_VEC);
        }
    for (int s = 0; s < count; s++)
        for (int v = 0; v < CHUNK_VECS; v++)
            *(TileVec *)(sums + s * LANES + v * TILE_VEC) = sum[s][v];
}

static void correlate_row(const Depthwise *d, const float *src, const float *ddst, float *sums)
{
    if (d->s == 3) {
        correlate(d, 3, src, ddst, sums);
    } else if (d->s == 5) {
        correlate(d, 5, src, ddst, sums);
    } else {
        for (int64_t s = 0; s < d->s; s++) correlate(d, 1, src + s * LANES, ddst, sums + s * LANES);
    }
}

static void sum_weights(const KernelCall *call, const Depthwise *d, int thread)
{
    Share share = share_take(call, d, thread);
    const float *rows[MAX_KERNEL];
    int64_t row, end;
    memset(share.sums, 0, (size_t)weights_elems(d) * sizeof(float));
    cpu_split(d->n * d->out_h, call->n_threads, thread, &row, &end);
    for (; row < end; row++) {
        gather_rows(call, d, &share, row, rows);
        pack_row(&call->src[1], d, row, d->out_w, 0, 1, d->out_w, share.row);
        for (int64_t chunk = 0; chunk < d->chunks; chunk++)
            for (int64_t r = 0; r < d->r; r++)
                if (rows[r])
                    correlate_row(d, rows[r] + chunk * d->row_w * LANES,
                                  share.row + chunk * d->out_w * LANES,
                                  share.sums + (chunk * d->taps + r * d->s) * LANES);
    }
}

static void weight_run(const KernelCall *call)
{
    Depthwise d = depthwise_make(call);
    float *dw = call->dst[0].data;
    const float *sums = bias_at(call, &d) + d.chunks * LANES + d.r * ring_row_elems(&d) +
                        out_row_elems(&d);
#pragma omp parallel for num_threads(call->n_threads) schedule(static)
    for (int t = 0; t < call->n_threads; t++) sum_weights(call, &d, t);
    for (int64_t i = 0; i < d.channels * d.taps; i++) {
        int64_t c = i / d.taps, tap = i % d.taps;
        int64_t at = (c / LANES * d.taps + tap) * LANES + c % LANES;
        dw[i] = sums[at];
        for (int t = 1; t < call->n_threads; t++) dw[i] += sums[t * share_elems(&d) + at];
    }
}

Status conv_depthwise_bind(KernelCall *call)
{
    Depthwise d = depthwise_make(call);
    if (d.r > MAX_KERNEL)
        return cpu_unsupported(call, "depthwise kernel of %lld px, at most %d", (long long)d.r,
                               MAX_KERNEL);
    call->run = d.pass == CONV_WEIGHT ? weight_run : map_run;
    call->scratch_bytes = (size_t)(weights_elems(&d) + d.chunks * LANES +
                                   call->n_threads * share_elems(&d)) *
                          sizeof(float);
    return OK;
}
