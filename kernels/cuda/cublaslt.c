/* Matrix products of cuBLASLt. See cublaslt.h.
 *
 * Deterministic: an algorithm that splits the inner dimension adds its parts in f32 from the
 * workspace, in order, never in place.
 */
#include "kernels/cuda/cublaslt.h"

#include "kernels/cuda/passes.h"
#include "kernels/plan/scratch.h"

#include <string.h>

enum { ALIGNMENT_BYTES = 16 };

static cudaDataType_t data_type(DType dtype)
{
    return dtype == DT_BF16 ? CUDA_R_16BF : dtype == DT_F16 ? CUDA_R_16F : CUDA_R_32F;
}

#define SET_DESC(desc, name, value)                                                        \
    CUBLAS_TRY(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_##name, &(value), \
                                              sizeof(value)))
#define SET_LAYOUT(layout, name, value)                                                          \
    CUBLAS_TRY(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_##name, &(value), \
                                                sizeof(value)))
#define SET_PREFERENCE(preference, name, value)                                              \
    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_##name, \
                                                    &(value), sizeof(value)))

static Status make_desc(const LtSpec *spec, LtProduct *out)
{
    cublasOperation_t first = spec->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = spec->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    bool fast = spec->tf32 && spec->in == DT_F32;
    cublasComputeType_t compute = fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    CUBLAS_TRY(cublasLtMatmulDescCreate(&out->desc, compute, CUDA_R_32F));
    SET_DESC(out->desc, TRANSA, first);
    SET_DESC(out->desc, TRANSB, second);
    if (!spec->bias) return OK;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t type = data_type(spec->out);
    SET_DESC(out->desc, EPILOGUE, epilogue);
    SET_DESC(out->desc, BIAS_DATA_TYPE, type);
    return OK;
}

/* A row-major matrix of rows x cols, as the column-major one that it is to cuBLASLt. */
static Status make_layout(DType dtype, int64_t rows, int64_t cols, LtMatrix matrix, int64_t batches,
                          cublasLtMatrixLayout_t *out)
{
    int32_t count = (int32_t)batches;
    CUBLAS_TRY(cublasLtMatrixLayoutCreate(out, data_type(dtype), (uint64_t)cols, (uint64_t)rows,
                                          matrix.pitch));
    SET_LAYOUT(*out, BATCH_COUNT, count);
    SET_LAYOUT(*out, STRIDED_BATCH_OFFSET, matrix.batch_stride);
    return OK;
}

static Status make_layouts(const LtSpec *s, LtProduct *out)
{
    int64_t a_rows = s->trans_a ? s->k : s->m, a_cols = s->trans_a ? s->m : s->k;
    int64_t b_rows = s->trans_b ? s->n : s->k, b_cols = s->trans_b ? s->k : s->n;
    TRY(make_layout(s->in, a_rows, a_cols, s->a, s->batches, &out->a));
    TRY(make_layout(s->in, b_rows, b_cols, s->b, s->batches, &out->b));
    return make_layout(s->out, s->m, s->n, s->dst, s->batches, &out->dst);
}

static Status set_preference(cublasLtMatmulPreference_t preference)
{
    uint64_t workspace_bytes = PRODUCT_WORKSPACE_BYTES;
    uint32_t alignment = ALIGNMENT_BYTES, schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    SET_PREFERENCE(preference, MAX_WORKSPACE_BYTES, workspace_bytes);
    SET_PREFERENCE(preference, REDUCTION_SCHEME_MASK, schemes);
    SET_PREFERENCE(preference, MIN_ALIGNMENT_A_BYTES, alignment);
    SET_PREFERENCE(preference, MIN_ALIGNMENT_B_BYTES, alignment);
    SET_PREFERENCE(preference, MIN_ALIGNMENT_C_BYTES, alignment);
    SET_PREFERENCE(preference, MIN_ALIGNMENT_D_BYTES, alignment);
    return OK;
}

static Status choose_algo(const KernelCall *call, cublasLtMatmulPreference_t preference,
                          const LtSpec *spec, LtProduct *out)
{
    const Cuda *cuda = call->context;
    cublasLtMatmulHeuristicResult_t result;
    int n_found = 0;
    TRY(set_preference(preference));
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda->cublaslt, out->desc, out->b,
                                                           out->a, out->dst, out->dst, preference,
                                                           1, &result, &n_found);
    if (status != CUBLAS_STATUS_SUCCESS || n_found == 0)
        return cuda_unsupported(
            call, "cuBLASLt has no algorithm for %lld x (%lld,%lld) (%lld,%lld) %s -> %s: %s",
            (long long)spec->batches, (long long)spec->m, (long long)spec->k, (long long)spec->k,
            (long long)spec->n, dtype_name(spec->in), dtype_name(spec->out),
            cublasLtGetStatusString(status));
    out->algo = result.algo;
    out->workspace_bytes = result.workspaceSize;
    return OK;
}

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
}

Status lt_make(const KernelCall *call, const LtSpec *spec, LtProduct *out)
{
    cublasLtMatmulPreference_t preference = NULL;
    memset(out, 0, sizeof *out);
    TRY(make_desc(spec, out));
    TRY(make_layouts(spec, out));
    CUBLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
    Status status = choose_algo(call, preference, spec, out);
    CUBLAS_TRY(cublasLtMatmulPreferenceDestroy(preference));
    out->out = spec->out;
    out->workspace_bytes = round_up(out->workspace_bytes);
    return status;
}

void lt_free(LtProduct *product)
{
    if (product->desc) (void)cublasLtMatmulDescDestroy(product->desc);
    if (product->a) (void)cublasLtMatrixLayoutDestroy(product->a);
    if (product->b) (void)cublasLtMatrixLayoutDestroy(product->b);
    if (product->dst) (void)cublasLtMatrixLayoutDestroy(product->dst);
}

/* The bias as the epilogue wants it. */
static const void *epilogue_bias(const KernelCall *call, const LtProduct *product,
                                 const Tensor *bias, void *scratch)
{
    if (product->out == DT_F32) return bias->data;
    Tensor rounded = {product->out, bias->shape, (char *)scratch + product->workspace_bytes};
    cuda_convert(call, &rounded, bias);
    return rounded.data;
}

void lt_run(const KernelCall *call, const LtProduct *product, const void *a, const void *b,
            const Tensor *bias, void *dst, void *scratch)
{
    const Cuda *cuda = call->context;
    const float one = 1, zero = 0;
    const void *data = bias ? epilogue_bias(call, product, bias, scratch) : NULL;
    if (bias)
        CUBLAS_RUN(call, cublasLtMatmulDescSetAttribute(
                             product->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &data, sizeof data));
    CUBLAS_RUN(call,
               cublasLtMatmul(cuda->cublaslt, product->desc, &one, b, product->b, a, product->a,
                              &zero, dst, product->dst, dst, product->dst, &product->algo, scratch,
                              product->workspace_bytes, cuda_stream(call)));
}
