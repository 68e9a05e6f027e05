/* Register-blocked products of pairs. See tile_pairs.h; blocked as those of tile.c. */
#include "kernels/cpu/tile_pairs.h"

#include "kernels/cpu/math.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { BLOCK_ROWS = 8, BLOCK_VECS = 2 };

#ifdef __AVX512BF16__

/* One block of rows x 16 vecs results; `rows`, `vecs` and `trans` are constants where it is
 * inlined. */
ALWAYS_INLINE void block(int rows, int vecs, bool trans, int64_t k, const TilePair *a, int64_t lda,
                         const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    __m512 sum[BLOCK_ROWS][BLOCK_VECS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++)
            sum[i][j] = accumulate ? _mm512_loadu_ps(c + i * ldc + j * TILE_LANES)
                                   : _mm512_setzero_ps();
    for (int64_t p = 0; p < k; p++) {
        __m512bh right[BLOCK_VECS];
        for (int j = 0; j < vecs; j++)
            right[j] = (__m512bh)_mm512_loadu_si512(b + p * ldb + j * TILE_LANES);
        for (int i = 0; i < rows; i++) {
            TilePair pair = trans ? a[p * lda + i] : a[i * lda + p];
            __m512bh left = (__m512bh)_mm512_set1_epi32((int)pair);
            for (int j = 0; j < vecs; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) _mm512_storeu_ps(c + i * ldc + j * TILE_LANES, sum[i][j]);
}

#else

ALWAYS_INLINE float lower(TilePair pair) { return math_from_bits(pair << 16); }

ALWAYS_INLINE float upper(TilePair pair) { return math_from_bits(pair & 0xffff0000u); }

ALWAYS_INLINE void block(int rows, int vecs, bool trans, int64_t k, const TilePair *a, int64_t lda,
                         const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vecs * TILE_LANES; j++) {
            float sum = accumulate ? c[i * ldc + j] : 0.0f;
            for (int64_t p = 0; p < k; p++) {
                TilePair left = trans ? a[p * lda + i] : a[i * lda + p], right = b[p * ldb + j];
                sum += upper(left) * upper(right) + lower(left) * lower(right);
            }
            c[i * ldc + j] = sum;
        }
    }
}

#endif

ALWAYS_INLINE void panel(int rows, bool trans, int64_t n, int64_t k, const TilePair *a, int64_t lda,
                         const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    int64_t j = 0;
    for (; j + BLOCK_VECS * TILE_LANES <= n; j += BLOCK_VECS * TILE_LANES)
        block(rows, BLOCK_VECS, trans, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    for (; j < n; j += TILE_LANES)
        block(rows, 1, trans, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
}

ALWAYS_INLINE void product(bool trans, int64_t m, int64_t n, int64_t k, const TilePair *a,
                           int64_t lda, const TilePair *b, int64_t ldb, float *c, int64_t ldc,
                           bool accumulate)
{
    int64_t a_step = trans ? 1 : lda;
    int64_t i = 0;
    for (; i + BLOCK_ROWS <= m; i += BLOCK_ROWS)
        panel(BLOCK_ROWS, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
    for (; i < m; i++)
        panel(1, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
}

void tile_pairs_matmul(int64_t m, int64_t n, int64_t k, const TilePair *a, int64_t lda,
                       const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    product(false, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

void tile_pairs_matmul_ta(int64_t m, int64_t n, int64_t k, const TilePair *a, int64_t lda,
                          const TilePair *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    product(true, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

/* The bits of x with the lower half rounded away, to nearest, ties to even. */
ALWAYS_INLINE uint32_t rounded(float x)
{
    uint32_t bits = math_bits(x);
    return bits + 0x7fffu + (bits >> 16 & 1u);
}

void tile_pair_rows(int64_t n, const float *first, const float *second, TilePair *dst)
{
    if (second) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dst[i] = rounded(first[i]) >> 16 | (rounded(second[i]) & 0xffff0000u);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) dst[i] = rounded(first[i]) >> 16;
    }
}
