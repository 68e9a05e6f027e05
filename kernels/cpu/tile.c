/* Register-blocked products of small tiles. See tile.h.
 *
 * A block of the result stays in vector registers while k runs: per step one or two vectors of b
 * and one broadcast of a for each of its rows, so that loads stay below the multiply-adds. Operands
 * are not packed: the callers' tiles are small enough to lie in cache as they are. What a product
 * is added to joins its sum at the end: the rounding of a sum grows with the square root of its
 * length, so one that is taken in pieces keeps the error of a piece.
 */
#include "kernels/cpu/tile.h"

#include "kernels/cpu/math.h"

#include <math.h>
#include <string.h>

int64_t tile_lay_out(float *base, const TilePart *part, int n_parts)
{
    int64_t total = 0;
    for (int i = 0; i < n_parts; i++) {
        *part[i].array = base ? base + total : NULL;
        total += tile_round(part[i].n_floats);
    }
    return total;
}

typedef int32_t VecIndex __attribute__((vector_size(4 * TILE_VEC)));

/* Accumulators fill the register file but for the operands: 32 vectors of 16, or 16 of 8. */
enum { BLOCK_ROWS = TILE_VEC == 16 ? 8 : 6, BLOCK_VECS = 2 };

/* One block of `rows` x `vecs` vectors; `rows`, `vecs` and `trans` are constants where it is
 * inlined. */
ALWAYS_INLINE void block(int rows, int vecs, bool trans, int64_t k, const float *a, int64_t lda,
                         const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    TileVec sum[BLOCK_ROWS][BLOCK_VECS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) sum[i][j] = (TileVec){0};
    for (int64_t p = 0; p < k; p++) {
        for (int i = 0; i < rows; i++) {
            float factor = trans ? a[p * lda + i] : a[i * lda + p];
            for (int j = 0; j < vecs; j++)
                sum[i][j] += factor * *(const TileVec *)(b + p * ldb + j * TILE_VEC);
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vecs; j++) {
            TileVec *out = (TileVec *)(c + i * ldc + j * TILE_VEC);
            if (accumulate) sum[i][j] += *out;
            *out = sum[i][j];
        }
    }
}

/* One column beyond the last whole vector. */
static void column(int rows, bool trans, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    for (int i = 0; i < rows; i++) {
        float sum = 0;
        for (int64_t p = 0; p < k; p++)
            sum += (trans ? a[p * lda + i] : a[i * lda + p]) * b[p * ldb];
        c[i * ldc] = accumulate ? c[i * ldc] + sum : sum;
    }
}

/* All columns of a few rows: a's part stays in the first cache level while b passes. */
ALWAYS_INLINE void panel(int rows, bool trans, int64_t n, int64_t k, const float *a, int64_t lda,
                         const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    int64_t j = 0;
    for (; j + BLOCK_VECS * TILE_VEC <= n; j += BLOCK_VECS * TILE_VEC)
        block(rows, BLOCK_VECS, trans, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    for (; j + TILE_VEC <= n; j += TILE_VEC)
        block(rows, 1, trans, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    for (; j < n; j++) column(rows, trans, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
}

ALWAYS_INLINE void product(bool trans, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                           const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    int64_t a_step = trans ? 1 : lda;
    int64_t i = 0;
    for (; i + BLOCK_ROWS <= m; i += BLOCK_ROWS)
        panel(BLOCK_ROWS, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
    for (; i + 4 <= m; i += 4)
        panel(4, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
    for (; i + 2 <= m; i += 2)
        panel(2, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
    if (i < m) panel(1, trans, n, k, a + i * a_step, lda, b, ldb, c + i * ldc, ldc, accumulate);
}

void tile_matmul(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    product(false, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

void tile_matmul_ta(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                    int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    product(true, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

/* The halves of a butterfly over `step`: lanes without the bit come from one row, those with it
 * from the other, moved by `step`. Such steps of 1, 2, 4 .. transpose a square block. */
ALWAYS_INLINE void butterfly(int step, VecIndex *lower, VecIndex *upper)
{
    for (int lane = 0; lane < TILE_VEC; lane++) {
        bool from_second = lane & step;
        (*lower)[lane] = from_second ? TILE_VEC + lane - step : lane;
        (*upper)[lane] = from_second ? TILE_VEC + lane : lane + step;
    }
}

static void transpose_block(const float *src, int64_t ld_src, float *dst, int64_t ld_dst)
{
    TileVec row[TILE_VEC];
    for (int i = 0; i < TILE_VEC; i++) row[i] = *(const TileVec *)(src + i * ld_src);
#pragma GCC unroll 4
    for (int step = 1; step < TILE_VEC; step *= 2) {
        VecIndex lower, upper;
        butterfly(step, &lower, &upper);
#pragma GCC unroll 16
        for (int i = 0; i < TILE_VEC; i++) {
            if (i & step) continue;
            TileVec first = row[i], second = row[i + step];
            row[i] = __builtin_shuffle(first, second, lower);
            row[i + step] = __builtin_shuffle(first, second, upper);
        }
    }
    for (int i = 0; i < TILE_VEC; i++) *(TileVec *)(dst + i * ld_dst) = row[i];
}

static void transpose_plain(int64_t rows, int64_t cols, const float *src, int64_t ld_src,
                            float *dst, int64_t ld_dst)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) dst[j * ld_dst + i] = src[i * ld_src + j];
}

void tile_transpose(int64_t rows, int64_t cols, const float *src, int64_t ld_src, float *dst,
                    int64_t ld_dst)
{
    for (int64_t i = 0; i < rows; i += TILE_VEC) {
        for (int64_t j = 0; j < cols; j += TILE_VEC) {
            const float *from = src + i * ld_src + j;
            float *to = dst + j * ld_dst + i;
            int64_t n_rows = rows - i < TILE_VEC ? rows - i : TILE_VEC;
            int64_t n_cols = cols - j < TILE_VEC ? cols - j : TILE_VEC;
            if (n_rows == TILE_VEC && n_cols == TILE_VEC)
                transpose_block(from, ld_src, to, ld_dst);
            else
                transpose_plain(n_rows, n_cols, from, ld_src, to, ld_dst);
        }
    }
}

const float *tile_load(const Tensor *tensor, int64_t offset, int64_t n, float *tmp)
{
    if (tensor->dtype == DT_F32) return (const float *)tensor->data + offset;
    for (int64_t i = 0; i < n; i += CPU_BLOCK)
        cpu_load(tensor, offset + i, n - i < CPU_BLOCK ? n - i : CPU_BLOCK, tmp + i);
    return tmp;
}

void tile_store(const Tensor *tensor, int64_t offset, int64_t n, const float *row)
{
    if (tensor->dtype == DT_F32) {
        float *dst = (float *)tensor->data + offset;
        if (dst != row) memcpy(dst, row, (size_t)n * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < n; i += CPU_BLOCK)
        cpu_store(tensor, offset + i, n - i < CPU_BLOCK ? n - i : CPU_BLOCK, row + i);
}

void tile_gather(const Tensor *tensor, int64_t offset, int64_t stride, int64_t rows, int64_t cols,
                 float *dst)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *row = tile_load(tensor, offset + i * stride, cols, dst + i * cols);
        if (row != dst + i * cols) memcpy(dst + i * cols, row, (size_t)cols * sizeof(float));
    }
}

void tile_scatter(const Tensor *tensor, int64_t offset, int64_t stride, int64_t rows, int64_t cols,
                  const float *src)
{
    for (int64_t i = 0; i < rows; i++)
        tile_store(tensor, offset + i * stride, cols, src + i * cols);
}

void tile_softmax(int64_t keys, int64_t lanes, float *s, float *max, float *sum, float *correction)
{
    for (int64_t j = 0; j < lanes; j += TILE_LANES) {
        float top[TILE_LANES], total[TILE_LANES], shift[TILE_LANES];
        for (int i = 0; i < TILE_LANES; i++) top[i] = max[j + i];
        for (int64_t key = 0; key < keys; key++) {
            const float *row = s + key * lanes + j;
#pragma omp simd
            for (int i = 0; i < TILE_LANES; i++) top[i] = row[i] > top[i] ? row[i] : top[i];
        }
#pragma omp simd
        for (int i = 0; i < TILE_LANES; i++) {
            shift[i] = top[i] == -INFINITY ? 0.0f : top[i]; /* all keys so far are left out */
            correction[j + i] = math_exp(max[j + i] - shift[i]);
            total[i] = sum[j + i] * correction[j + i];
            max[j + i] = top[i];
        }
        for (int64_t key = 0; key < keys; key++) {
            float *row = s + key * lanes + j;
#pragma omp simd
            for (int i = 0; i < TILE_LANES; i++) {
                row[i] = math_exp(row[i] - shift[i]);
                total[i] += row[i];
            }
        }
        for (int i = 0; i < TILE_LANES; i++) sum[j + i] = total[i];
    }
}

void tile_softmax_grad(int64_t keys, int64_t lanes, float *s, float *dp, const float *lse,
                       const float *delta, float scale)
{
    for (int64_t key = 0; key < keys; key++) {
        float *p = s + key * lanes, *ds = dp + key * lanes;
#pragma omp simd
        for (int64_t i = 0; i < lanes; i++) {
            p[i] = math_exp(p[i] - lse[i]);
            ds[i] = scale * p[i] * (ds[i] - delta[i]);
        }
    }
}
