/* One matrix product of cuBLASLt: layouts, epilogue and algorithm chosen in bind, launched in run.
 * Used by matmul.c and pointwise.c.
 *
 * Operands are row-major; cuBLASLt is given their transposes, which are the same memory read
 * column-major: dst^T = b^T a^T. So the bias, one value per column of dst, is one per row there, as
 * its epilogue wants it. The epilogue takes a bias of dst's dtype only: with bf16 and f16 the f32
 * bias is rounded into the scratch first, as torch.autocast rounds it.
 */
#ifndef RETORT_KERNELS_CUDA_CUBLASLT_H
#define RETORT_KERNELS_CUDA_CUBLASLT_H

#include "kernels/cuda/cuda.h"

/* A row-major matrix of each batch: elements from row to row, and from batch to batch. */
typedef struct LtMatrix {
    int64_t pitch, batch_stride;
} LtMatrix;

/* dst (m,n) = op(a) op(b) [+ bias (n), f32], `batches` times. a and b have dtype `in`, dst has
 * `out`: that of a, or f32. */
typedef struct LtSpec {
    DType in, out;
    int64_t m, n, k, batches;
    bool trans_a, trans_b, bias, tf32; /* tf32: f32 sources may be rounded */
    LtMatrix a, b, dst;
} LtSpec;

typedef struct LtProduct {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, dst;
    cublasLtMatmulAlgo_t algo;
    DType out;
    size_t workspace_bytes; /* a rounded bias lies behind it */
} LtProduct;

/* lt_make: picks the algorithm; lt_free also after a failure.
 * errors  E_UNSUPPORTED if there is none for these sizes and dtypes; E_DEVICE */
Status lt_make(const KernelCall *call, const LtSpec *spec, LtProduct *out);
void lt_free(LtProduct *product);

/* lt_run: in run functions. `scratch` has workspace_bytes, and room for a rounded bias; bias: NULL
 * if the spec has none. */
void lt_run(const KernelCall *call, const LtProduct *product, const void *a, const void *b,
            const Tensor *bias, void *dst, void *scratch);

#endif
