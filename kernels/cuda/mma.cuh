/* The one wrapper of tensor cores: products of small matrices in shared memory, summed in f32
 * registers of a warp. Included by relpos.cu.
 *
 * c (16, 8 * NT) += a (16,16) b^T, b (8 * NT, 16), by the 32 lanes of a warp. Lane 4 g + t holds of
 * each 8 columns n the elements c[n] = (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1), as mma.m16n8k16
 * lays them out. Rows of a and b lie `lda` and `ldb` elements apart, both even. a may be f32 where
 * b is not: it is then taken as two values of b's dtype, the rounded one and what that lacks, in
 * two products.
 *
 * bf16 and f16 run on tensor cores. f32, and everything under g++, runs the loop twin, which makes
 * the same elements in the same lanes from the same memory.
 */
#ifndef RETORT_KERNELS_CUDA_MMA_CUH
#define RETORT_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/storage.cuh"

/* Rows and first column of what a lane holds. */
static __device__ __forceinline__ int mma_row(void) { return (int)threadIdx.x % WARP / 4; }
static __device__ __forceinline__ int mma_column(void) { return (int)threadIdx.x % 4 * 2; }

template <typename T> static __device__ __forceinline__ float mma_rounded(float value)
{
    T rounded;
    store(&rounded, value);
    return to_f32(rounded);
}

/* An element of a as the product sees it. */
template <typename T, typename A> static __device__ __forceinline__ float mma_value(A element)
{
    float value = to_f32(element), upper = mma_rounded<T>(value);
    return upper + mma_rounded<T>(value - upper);
}

/* ---- the loop twin ---- */

template <int NT, typename A, typename T>
static __device__ __forceinline__ void mma_loop(float (&c)[NT][4], const A *a, int lda, const T *b,
                                                int ldb)
{
    const A *upper = a + mma_row() * lda, *lower = upper + 8 * lda;
    const T *first = b + mma_column() * ldb, *second = first + ldb;
#pragma unroll 2
    for (int k = 0; k < 16; k++) {
        float up = mma_value<T>(upper[k]), low = mma_value<T>(lower[k]);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float left = to_f32(first[n * 8 * ldb + k]), right = to_f32(second[n * 8 * ldb + k]);
            c[n][0] += up * left;
            c[n][1] += up * right;
            c[n][2] += low * left;
            c[n][3] += low * right;
        }
    }
}

#ifdef __CUDACC__

/* ---- tensor cores ---- */

/* Two neighbours in one register, the first in the lower half. */
template <typename T> static __device__ __forceinline__ unsigned mma_pair(const T *at)
{
    return *reinterpret_cast<const unsigned *>(at);
}

/* Two neighbours of f32, rounded, and what they lack then. */
template <typename T>
static __device__ __forceinline__ void mma_split(const float *at, unsigned *upper, unsigned *rest)
{
    Pack<T, 2> pair, lack;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        store(&pair.at[i], at[i]);
        store(&lack.at[i], at[i] - to_f32(pair.at[i]));
    }
    *upper = mma_pair(pair.at);
    *rest = mma_pair(lack.at);
}

static __device__ __forceinline__ void mma_instruction(float (&c)[4], const unsigned (&a)[4],
                                                       const unsigned (&b)[2], __nv_bfloat16)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma_instruction(float (&c)[4], const unsigned (&a)[4],
                                                       const unsigned (&b)[2], __half)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The eights of columns that a lane reads of b. */
template <typename T>
static __device__ __forceinline__ void mma_load_b(unsigned (&b)[2], const T *row)
{
    b[0] = mma_pair(row);
    b[1] = mma_pair(row + 8);
}

template <int NT, typename T>
static __device__ __forceinline__ void mma_step(float (&c)[NT][4], const T *a, int lda, const T *b,
                                                int ldb)
{
    const T *upper = a + mma_row() * lda + mma_column(), *lower = upper + 8 * lda;
    const T *row = b + mma_row() * ldb + mma_column();
    unsigned left[4] = {mma_pair(upper), mma_pair(lower), mma_pair(upper + 8), mma_pair(lower + 8)};
#pragma unroll
    for (int n = 0; n < NT; n++) {
        unsigned right[2];
        mma_load_b(right, row + n * 8 * ldb);
        mma_instruction(c[n], left, right, T());
    }
}

template <int NT, typename T>
static __device__ __forceinline__ void mma_step(float (&c)[NT][4], const float *a, int lda,
                                                const T *b, int ldb)
{
    const float *upper = a + mma_row() * lda + mma_column(), *lower = upper + 8 * lda;
    const T *row = b + mma_row() * ldb + mma_column();
    unsigned left[4], rest[4];
    mma_split<T>(upper, &left[0], &rest[0]);
    mma_split<T>(lower, &left[1], &rest[1]);
    mma_split<T>(upper + 8, &left[2], &rest[2]);
    mma_split<T>(lower + 8, &left[3], &rest[3]);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        unsigned right[2];
        mma_load_b(right, row + n * 8 * ldb);
        mma_instruction(c[n], left, right, T());
        mma_instruction(c[n], rest, right, T());
    }
}

template <int NT>
static __device__ __forceinline__ void mma_step(float (&c)[NT][4], const float *a, int lda,
                                                const float *b, int ldb)
{
    mma_loop<NT>(c, a, lda, b, ldb);
}

#else

template <int NT, typename A, typename T>
static __device__ __forceinline__ void mma_step(float (&c)[NT][4], const A *a, int lda, const T *b,
                                                int ldb)
{
    mma_loop<NT>(c, a, lda, b, ldb);
}

#endif

#endif
