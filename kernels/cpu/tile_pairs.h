/* Products of small tiles in bf16 with sums in f32, two multiply-adds per lane: what processors
 * with AVX512-BF16 do at twice the rate of f32.
 *
 * Called by relpos.c. Operands hold pairs: two bf16 numbers in 32 bits that meet in one dot
 * product, the first in the lower half, as two neighbours lie in memory. Compiled for a processor
 * without such products, plain loops do the same. Nothing here allocates or starts threads.
 */
#ifndef RETORT_KERNELS_CPU_TILE_PAIRS_H
#define RETORT_KERNELS_CPU_TILE_PAIRS_H

#include "kernels/cpu/tile.h"

typedef uint32_t TilePair __attribute__((may_alias)); /* lies in scratch made of floats */

/* tile_pairs_matmul: c (m,n) = a (m,2k) b (2k,n), with a as pairs (m,k) and b as pairs of its rows
 * (k,n); added to what c holds if `accumulate`. n is a multiple of TILE_LANES.
 * tile_pairs_matmul_ta: the same with a's pairs stored (k,m). */
void tile_pairs_matmul(int64_t m, int64_t n, int64_t k, const TilePair *a, int64_t lda,
                       const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate);
void tile_pairs_matmul_ta(int64_t m, int64_t n, int64_t k, const TilePair *a, int64_t lda,
                          const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate);

/* tile_pair_rows: dst (n) = the pairs of two rows, rounded to bf16 (to nearest, ties to even);
 * second NULL: a row of zeros. Numbers are finite. */
void tile_pair_rows(int64_t n, const float *first, const float *second, TilePair *dst);

#endif
