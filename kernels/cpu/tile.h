/* Small dense products and copies on tiles that lie in the first two cache levels: the inner loops
 * of attention and convolution. All in f32, row-major, `ld` elements from row to row.
 *
 * Called by attention.c, relpos.c, linear_attention.c, conv_tiles.c, conv_winograd.c and
 * conv_weight.c; for its vectors by conv_depthwise.c, and for its row access by resample.c.
 *
 * Widths that are multiples of TILE_LANES run at full speed, the others are right and slow. Nothing
 * here allocates or starts threads.
 */
#ifndef RETORT_KERNELS_CPU_TILE_H
#define RETORT_KERNELS_CPU_TILE_H

#include "kernels/cpu/cpu.h"

enum { TILE_LANES = 16 };

/* What the inner loops keep in registers: as wide as these are. GCC would hold a wider vector in
 * memory and load and store it at every use. */
#ifdef __AVX512F__
enum { TILE_VEC = 16 };
#else
enum { TILE_VEC = 8 };
#endif
typedef float TileVec __attribute__((vector_size(4 * TILE_VEC), aligned(4), may_alias));

static inline int64_t tile_round(int64_t n)
{
    return (n + TILE_LANES - 1) / TILE_LANES * TILE_LANES;
}

static inline int64_t tile_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* For inner loops whose bounds are constants only where they are inlined. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* One array of a thread's scratch. */
typedef struct TilePart {
    float **array;
    int64_t n_floats;
} TilePart;

/* tile_lay_out: points the arrays at memory one after the other from `base` on, each at a whole
 * vector; a NULL base only counts. returns the floats they take */
int64_t tile_lay_out(float *base, const TilePart *part, int n_parts);

/* tile_matmul: c (m,n) = a (m,k) b (k,n), added to what c holds if `accumulate`.
 * tile_matmul_ta: the same with a stored (k,m). */
void tile_matmul(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float *c, int64_t ldc, bool accumulate);
void tile_matmul_ta(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                    int64_t ldb, float *c, int64_t ldc, bool accumulate);

/* tile_transpose: dst (cols,rows) = src (rows,cols) transposed. */
void tile_transpose(int64_t rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                    int64_t ld_dst);

/* tile_load, tile_store: cpu_load and cpu_store for any number of elements that lie one after the
 * other; `tmp` holds n of them. tile_load gives a pointer into the tensor if that is f32. */
const float *tile_load(const Tensor *tensor, int64_t offset, int64_t n, float *tmp);
void tile_store(const Tensor *tensor, int64_t offset, int64_t n, const float *row);

/* tile_gather: dst (rows,cols) with ld cols = blocks of `cols` elements, `stride` apart from
 * `offset` on. tile_scatter: the way back. Used for one head of head-interleaved data. */
void tile_gather(const Tensor *tensor, int64_t offset, int64_t stride, int64_t rows, int64_t cols,
                 float *dst);
void tile_scatter(const Tensor *tensor, int64_t offset, int64_t stride, int64_t rows, int64_t cols,
                  const float *src);

/* tile_softmax: takes a tile of scores s (keys,lanes), a column per query, into a running softmax.
 * `max` and `sum` (lanes) describe the keys seen so far and are updated; s becomes exp(s - max);
 * correction (lanes) is what results over earlier keys must be multiplied by. At the start max is
 * -INFINITY and sum 0; a score of -INFINITY leaves a key out. */
void tile_softmax(int64_t keys, int64_t lanes, float *s, float *max, float *sum, float *correction);

/* tile_softmax_grad: s (keys,lanes) from scores to p = exp(s - lse); dp (keys,lanes) to
 * scale * p * (dp - delta), the gradient of the scores times `scale`. lse, delta (lanes). */
void tile_softmax_grad(int64_t keys, int64_t lanes, float *s, float *dp, const float *lse,
                       const float *delta, float scale);

#endif
