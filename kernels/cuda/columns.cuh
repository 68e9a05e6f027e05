/* Sums over the rows of a matrix, column by column, in two launches: parts of the rows by many
 * blocks, then the parts in order. What is summed is a functor, so that the statistics of batch
 * norms, the gradients of norm weights and of biases share the code.
 *
 * Included by norm.cu and reduce.cu. Deterministic: the parts follow from the sizes alone. A thread
 * sums its rows of a part in `Sum` (float or double); the parts are added in double.
 */
#ifndef RETORT_KERNELS_CUDA_COLUMNS_CUH
#define RETORT_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/storage.cuh"

enum { COLUMN_ROWS = 8 }; /* threads that share a column's rows */

/* Blocks along the columns of one batch, where a lane takes N columns. */
static __host__ __device__ __forceinline__ unsigned column_blocks(const ColumnPlan &plan, int n)
{
    return (plan.columns + COLUMN_LANES * n - 1) / (COLUMN_LANES * n);
}

/* Term: `template <int N> __device__ void add(unsigned batch, unsigned row, unsigned column,
 * Sum (&sum)[K][N]) const` adds the values of N neighbouring columns of a row. */
template <typename Sum, int K, int N, class Term>
static __global__ void __launch_bounds__(COLUMN_LANES *COLUMN_ROWS)
    column_parts_kernel(Sum *parts, Term term, ColumnPlan plan)
{
    __shared__ Sum shared[COLUMN_ROWS][K * N][COLUMN_LANES];
    unsigned lane = threadIdx.x % COLUMN_LANES, lead = threadIdx.x / COLUMN_LANES;
    unsigned blocks = column_blocks(plan, N), part = blockIdx.y;
    unsigned batch = blockIdx.x / blocks;
    unsigned column = (blockIdx.x % blocks * COLUMN_LANES + lane) * N;
    unsigned end = min(plan.rows, (part + 1) * plan.rows_per_part);
    Sum sum[K][N] = {};
    if (column < plan.columns)
        for (unsigned row = part * plan.rows_per_part + lead; row < end; row += COLUMN_ROWS)
            term.template add<N>(batch, row, column, sum);
#pragma unroll
    for (int k = 0; k < K * N; k++) shared[lead][k][lane] = sum[k / N][k % N];
    __syncthreads();
    if (column >= plan.columns) return;
    Sum *dst = parts + ((size_t)(batch * plan.parts + part) * K) * plan.columns + column;
    for (int k = (int)lead; k < K * N; k += COLUMN_ROWS) {
        Sum total = 0;
#pragma unroll
        for (int i = 0; i < COLUMN_ROWS; i++) total += shared[i][k][lane];
        dst[(size_t)(k / N) * plan.columns + k % N] = total;
    }
}

/* Finish: `__device__ void finish(unsigned batch, unsigned column, const double (&sum)[K]) const`
 * makes a column's results of its sums. */
template <typename Sum, int K, class Finish>
static __global__ void __launch_bounds__(COLUMN_LANES *COLUMN_ROWS)
    column_finish_kernel(const Sum *parts, Finish finish, ColumnPlan plan)
{
    __shared__ double shared[COLUMN_ROWS][K][COLUMN_LANES];
    unsigned lane = threadIdx.x % COLUMN_LANES, lead = threadIdx.x / COLUMN_LANES;
    unsigned blocks = column_blocks(plan, 1), batch = blockIdx.x / blocks;
    unsigned column = blockIdx.x % blocks * COLUMN_LANES + lane;
    double sum[K] = {};
    if (column < plan.columns)
        for (unsigned part = lead; part < plan.parts; part += COLUMN_ROWS)
#pragma unroll
            for (int k = 0; k < K; k++)
                sum[k] += (double)
                    parts[((size_t)(batch * plan.parts + part) * K + k) * plan.columns + column];
#pragma unroll
    for (int k = 0; k < K; k++) shared[lead][k][lane] = sum[k];
    __syncthreads();
    if (lead > 0 || column >= plan.columns) return;
#pragma unroll
    for (int k = 0; k < K; k++)
        for (int i = 1; i < COLUMN_ROWS; i++) sum[k] += shared[i][k][lane];
    finish.finish(batch, column, sum);
}

/* column_sums: both launches. packs: as of cuda_packs_of for the rows that Term reads. */
template <typename Sum, int K, class Term, class Finish>
static void column_sums(const KernelCall *call, const ColumnPlan &plan, int packs, Sum *parts,
                        const Term &term, const Finish &finish)
{
    WITH_PACKS(packs, N,
               LAUNCH(call, (column_parts_kernel<Sum, K, N, Term>),
                      dim3(plan.batches * column_blocks(plan, N), plan.parts),
                      COLUMN_LANES * COLUMN_ROWS, 0, parts, term, plan));
    LAUNCH(call, (column_finish_kernel<Sum, K, Finish>), plan.batches * column_blocks(plan, 1),
           COLUMN_LANES * COLUMN_ROWS, 0, parts, finish, plan);
}

#endif
