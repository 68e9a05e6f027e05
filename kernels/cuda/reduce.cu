/* Sums: REDUCE_SUM, the adjoint of broadcasting; SUMSQ; and the sum of parts that other ops use.
 *
 * REDUCE_SUM is one of two: where the innermost axis stays, columns are summed (columns.cuh); where
 * it goes, a block sums one result. Both in two launches with partial sums in the scratch, so that
 * few results do not leave the device idle.
 */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/passes.h"
#include "kernels/cuda/sums.cuh"

/* ---- axes ---- */

/* Axes of one kind, from the innermost out, and how far one step leads in the source. */
typedef struct Axes {
    int rank;
    unsigned n, dim[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK];
} Axes;

static void axes_take(Axes *axes, unsigned dim, unsigned stride)
{
    int last = axes->rank - 1;
    axes->n *= dim;
    if (last >= 0 && stride == axes->stride[last] * axes->dim[last]) {
        axes->dim[last] *= dim;
        return;
    }
    axes->dim[axes->rank] = dim;
    axes->stride[axes->rank++] = stride;
}

static __device__ __forceinline__ unsigned axes_offset(const Axes &axes, unsigned flat)
{
    unsigned offset = 0;
    for (int i = 0; i < axes.rank; i++) {
        offset += flat % axes.dim[i] * axes.stride[i];
        flat /= axes.dim[i];
    }
    return offset;
}

/* The source as kept x reduced axes. by_column: the innermost axis is kept, `columns` of them, and
 * is no part of `kept`. */
typedef struct Reduction {
    Axes kept, reduced;
    unsigned columns;
    bool by_column;
} Reduction;

static Reduction reduction_make(Shape src, Shape dst)
{
    Reduction r = {};
    unsigned stride = 1;
    r.kept.n = r.reduced.n = r.columns = 1;
    for (int back = 1; back <= src.rank; back++) {
        unsigned dim = (unsigned)shape_dim_from_end(src, back);
        bool kept = shape_dim_from_end(dst, back) == dim;
        if (dim == 1) continue;
        if (stride == 1) r.by_column = kept;
        bool innermost = r.by_column && kept && r.reduced.rank == 0;
        if (innermost)
            r.columns *= dim;
        else
            axes_take(kept ? &r.kept : &r.reduced, dim, stride);
        stride *= dim;
    }
    return r;
}

/* ---- columns ---- */

template <typename T> struct ReduceTerm {
    const T *src;
    Axes kept, reduced;
    template <int N>
    __device__ void add(unsigned batch, unsigned row, unsigned column, float (&sum)[1][N]) const
    {
        float x[N];
        load_pack<N>(src + axes_offset(kept, batch) + axes_offset(reduced, row) + column, x);
#pragma unroll
        for (int j = 0; j < N; j++) sum[0][j] += x[j];
    }
};

template <typename T> struct ReduceFinish {
    T *dst;
    unsigned columns;
    __device__ void finish(unsigned batch, unsigned column, const double (&sum)[1]) const
    {
        store(&dst[batch * columns + column], (float)sum[0]);
    }
};

template <typename T> static void reduce_columns(const KernelCall *call, const Reduction &r)
{
    ReduceTerm<T> term = {(const T *)call->src[0].data, r.kept, r.reduced};
    ReduceFinish<T> finish = {(T *)call->dst[0].data, r.columns};
    column_sums<float, 1>(call, column_plan(r.kept.n, r.reduced.n, r.columns),
                          CUDA_PACKS(r.columns, &call->src[0]), (float *)call->scratch, term,
                          finish);
}

/* ---- single results ---- */

/* Element i of result `result`. */
template <typename T> struct ReduceValue {
    const T *src;
    Axes kept, reduced;
    __device__ float at(unsigned result, unsigned i) const
    {
        return to_f32(src[axes_offset(kept, result) + axes_offset(reduced, i)]);
    }
};

template <typename T> struct SquareValue {
    const T *src;
    __device__ float at(unsigned, unsigned i) const
    {
        float x = to_f32(src[i]);
        return x * x;
    }
};

/* dst[i] = [dst[i] +] the sum of its parts. */
template <typename T>
static __global__ void finish_sums_kernel(T *dst, const double *parts, unsigned n_parts, unsigned n,
                                          bool accumulate)
{
    unsigned i = blockIdx.x * SUM_THREADS + threadIdx.x;
    if (i >= n) return;
    double sum = accumulate ? (double)to_f32(dst[i]) : 0.0;
    for (unsigned part = 0; part < n_parts; part++) sum += parts[i * n_parts + part];
    store(&dst[i], (float)sum);
}

template <typename T, class Value>
static void sum_values(const KernelCall *call, T *dst, const Value &value, unsigned results,
                       unsigned n, bool accumulate)
{
    unsigned n_parts = sum_parts(results, n);
    double *parts = (double *)call->scratch;
    LAUNCH(call, sum_kernel<Value>, dim3(results, n_parts), SUM_THREADS, 0, parts, value, n);
    LAUNCH(call, finish_sums_kernel<T>, cuda_blocks(results, SUM_THREADS), SUM_THREADS, 0, dst,
           parts, n_parts, results, accumulate);
}

/* ---- reduce_sum ---- */

template <typename T> static void reduce_sum_typed(const KernelCall *call)
{
    Reduction r = reduction_make(call->src[0].shape, call->dst[0].shape);
    if (r.by_column) {
        reduce_columns<T>(call, r);
        return;
    }
    ReduceValue<T> value = {(const T *)call->src[0].data, r.kept, r.reduced};
    sum_values(call, (T *)call->dst[0].data, value, r.kept.n, r.reduced.n, false);
}

static void reduce_sum_run(const KernelCall *call)
{
    if (shape_elems(call->src[0].shape) == 0) return;
    WITH_STORAGE(call->src[0].dtype, T, reduce_sum_typed<T>(call));
}

extern "C" Status cuda_reduce_sum(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = reduce_sum_run;
    return OK;
}

/* ---- sumsq ---- */

template <typename T> static void sumsq_typed(const KernelCall *call, unsigned n)
{
    SquareValue<T> value = {(const T *)call->src[0].data};
    sum_values(call, (float *)call->dst[0].data, value, 1, n, true);
}

static void sumsq_run(const KernelCall *call)
{
    unsigned n = (unsigned)shape_elems(call->src[0].shape);
    if (n == 0) return;
    WITH_STORAGE(call->src[0].dtype, T, sumsq_typed<T>(call, n));
}

extern "C" Status cuda_sumsq(Backend *backend, KernelCall *call)
{
    (void)backend;
    call->run = sumsq_run;
    return OK;
}

/* ---- sums of parts ---- */

static __global__ void sum_parts_kernel(float *dst, const float *parts, unsigned n_parts,
                                        unsigned n, unsigned all)
{
    for (FLAT_LOOP(i, all)) {
        const float *part = parts + (size_t)(i / n) * n_parts * n + i % n;
        double sum = 0;
        for (unsigned p = 0; p < n_parts; p++) sum += (double)part[(size_t)p * n];
        dst[i] = (float)sum;
    }
}

void cuda_sum_parts(const KernelCall *call, float *dst, const float *parts, int64_t batches,
                    int64_t n_parts, int64_t n)
{
    if (batches * n == 0) return;
    LAUNCH(call, sum_parts_kernel, flat_blocks(batches * n), FLAT_THREADS, 0, dst, parts,
           (unsigned)n_parts, (unsigned)n, (unsigned)(batches * n));
}
