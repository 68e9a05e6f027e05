/* cuBLASLt, as far as the backend uses it: one product with its epilogue, in double, in stream
 * order.
 *
 * As the real library it is strict: an algorithm is found for layouts, dtypes and the alignment
 * that the preference promises (256 bytes if it promises nothing), and a pointer that breaks the
 * promise is a fault; a bias must have the dtype of D, so that a bf16 result has no f32 bias; the
 * workspace is what the algorithm asked for, and it is overwritten.
 */
#include <cublasLt.h>
#include <math.h>
#include <stdlib.h>

#include "tests/cudasim/sim.h"
#include "tests/cudasim/values.h"

enum { WORKSPACE_BYTES = 1024, DEFAULT_ALIGNMENT = 256 };

typedef struct Layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld, batch_stride;
    int32_t order, n_batches;
} Layout;

typedef struct Desc {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t trans_a, trans_b, bias_type;
    cublasLtEpilogue_t epilogue;
    const void *bias;
} Desc;

typedef struct Preference {
    uint64_t workspace_bytes;
    uint32_t alignment[4]; /* A, B, C, D */
} Preference;

/* What an algorithm of the heuristic remembers; lies in cublasLtMatmulAlgo_t. */
typedef struct Algo {
    uint64_t workspace_bytes;
    uint32_t alignment[4];
} Algo;

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_INVALID_VALUE: return "invalid value";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "not supported";
    default: return sim_failed() ? sim_report_text() : "failure";
    }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = calloc(1, sizeof(int));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- descriptors ---- */

static DType dtype_of(cudaDataType_t type)
{
    return type == CUDA_R_32F    ? DT_F32
           : type == CUDA_R_16BF ? DT_BF16
           : type == CUDA_R_16F  ? DT_F16
                                 : DT_NONE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    Layout *layout = calloc(1, sizeof *layout);
    *layout = (Layout){type, rows, cols, ld, 0, CUBLASLT_ORDER_COL, 1};
    *out = (cublasLtMatrixLayout_t)layout;
    return dtype_of(type) == DT_NONE ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_bytes, const void *value, size_t bytes)
{
    if (bytes != field_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
#define SET(field) set(&(field), sizeof(field), value, bytes)

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    Layout *layout = (Layout *)handle;
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return SET(layout->order);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return SET(layout->n_batches);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return SET(layout->batch_stride);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    Desc *desc = calloc(1, sizeof *desc);
    *desc = (Desc){.compute = compute,
                   .scale = scale,
                   .trans_a = CUBLAS_OP_N,
                   .trans_b = CUBLAS_OP_N,
                   .bias_type = -1,
                   .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    *out = (cublasLtMatmulDesc_t)desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    Desc *desc = (Desc *)handle;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return SET(desc->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return SET(desc->trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return SET(desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return SET(desc->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return SET(desc->bias_type);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    Preference *preference = calloc(1, sizeof *preference);
    for (int i = 0; i < 4; i++) preference->alignment[i] = DEFAULT_ALIGNMENT;
    *out = (cublasLtMatmulPreference_t)preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    Preference *preference = (Preference *)handle;
    uint32_t schemes;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return SET(preference->workspace_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return SET(preference->alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return SET(preference->alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return SET(preference->alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return SET(preference->alignment[3]);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return SET(schemes);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

/* ---- heuristic ---- */

typedef struct Size {
    uint64_t rows, cols;
} Size;

static Size applied(const Layout *layout, int32_t trans)
{
    return trans == CUBLAS_OP_N ? (Size){layout->rows, layout->cols}
                                : (Size){layout->cols, layout->rows};
}

static bool layout_is_sound(const Layout *l)
{
    uint64_t line = l->order == CUBLASLT_ORDER_COL ? l->rows : l->cols;
    return l->rows > 0 && l->cols > 0 && l->ld >= (int64_t)line && l->n_batches > 0;
}

static cublasStatus_t check(const Desc *desc, const Layout *a, const Layout *b, const Layout *c,
                            const Layout *d)
{
    Size left = applied(a, desc->trans_a), right = applied(b, desc->trans_b);
    if (!layout_is_sound(a) || !layout_is_sound(b) || !layout_is_sound(c) || !layout_is_sound(d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (left.rows != d->rows || right.cols != d->cols || left.cols != right.rows ||
        c->rows != d->rows || c->cols != d->cols || a->n_batches != d->n_batches ||
        b->n_batches != d->n_batches)
        return CUBLAS_STATUS_INVALID_VALUE;
    bool fast = desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if ((desc->compute != CUBLAS_COMPUTE_32F && !fast) || desc->scale != CUDA_R_32F ||
        a->type != b->type || c->type != d->type || (fast && a->type != CUDA_R_32F) ||
        (d->type != a->type && d->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    bool bias = desc->epilogue & CUBLASLT_EPILOGUE_BIAS;
    if (bias && desc->bias_type >= 0 && desc->bias_type != (int32_t)d->type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_found)
{
    (void)handle;
    const Preference *p = (const Preference *)preference;
    cublasStatus_t status = check((Desc *)desc, (Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d);
    *n_found = 0;
    if (status != CUBLAS_STATUS_SUCCESS || n_wanted < 1) return status;
    Algo algo = {.workspace_bytes = p->workspace_bytes >= WORKSPACE_BYTES ? WORKSPACE_BYTES : 0};
    memcpy(algo.alignment, p->alignment, sizeof algo.alignment);
    memset(results, 0, sizeof *results);
    memcpy(&results->algo, &algo, sizeof algo);
    results->workspaceSize = algo.workspace_bytes;
    results->state = CUBLAS_STATUS_SUCCESS;
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the product ---- */

typedef struct Product {
    Desc desc;
    Layout a, b, c, d;
    const char *pa, *pb, *pc;
    char *pd;
    void *workspace;
    uint64_t workspace_bytes;
    float alpha, beta;
} Product;

static int64_t index_of(const Layout *l, uint64_t row, uint64_t col)
{
    return l->order == CUBLASLT_ORDER_COL ? (int64_t)col * l->ld + (int64_t)row
                                          : (int64_t)row * l->ld + (int64_t)col;
}

static size_t element_bytes(const Layout *l) { return dtype_size(dtype_of(l->type)); }

/* Every line of a matrix of one batch. */
static bool touch(const Layout *l, const char *base, bool write)
{
    bool columns = l->order == CUBLASLT_ORDER_COL;
    uint64_t n_lines = columns ? l->cols : l->rows, length = columns ? l->rows : l->cols;
    for (uint64_t i = 0; i < n_lines; i++)
        if (!sim_touch(base + (size_t)i * (size_t)l->ld * element_bytes(l),
                       length * element_bytes(l), write))
            return false;
    return true;
}

static double epilogue(const Product *p, uint64_t row, double value)
{
    int kind = p->desc.epilogue;
    if (kind & CUBLASLT_EPILOGUE_BIAS)
        value += value_load(p->desc.bias, dtype_of(p->d.type), (int64_t)row);
    if (kind & CUBLASLT_EPILOGUE_RELU) value = value < 0 ? 0 : value;
    if (kind & CUBLASLT_EPILOGUE_GELU)
        value = 0.5 * value *
                (1 + tanh(0.7978845608028654 * (value + 0.044715 * value * value * value)));
    return value;
}

/* op(A) by rows, or op(B) by columns: lines of `depth` values. */
static double *unpack(const Product *p, const Layout *l, const char *base, bool by_rows,
                      uint64_t n_lines, uint64_t depth)
{
    DType type = dtype_of(l->type);
    bool tf32 = p->desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    double *values = malloc(n_lines * depth * sizeof *values);
    for (uint64_t i = 0; i < n_lines; i++)
        for (uint64_t k = 0; k < depth; k++) {
            double value = value_load(base, type, by_rows ? index_of(l, i, k) : index_of(l, k, i));
            values[i * depth + k] = tf32 ? value_tf32(value) : value;
        }
    return values;
}

static double dot(const double *x, const double *y, uint64_t depth)
{
    double sum = 0;
    for (uint64_t k = 0; k < depth; k++) sum += x[k] * y[k];
    return sum;
}

static void run_batch(const Product *p, int64_t batch)
{
    const char *a = p->pa + (size_t)(batch * p->a.batch_stride) * element_bytes(&p->a);
    const char *b = p->pb + (size_t)(batch * p->b.batch_stride) * element_bytes(&p->b);
    const char *c = p->pc + (size_t)(batch * p->c.batch_stride) * element_bytes(&p->c);
    char *d = p->pd + (size_t)(batch * p->d.batch_stride) * element_bytes(&p->d);
    if (!touch(&p->a, a, false) || !touch(&p->b, b, false)) return;
    if (p->beta != 0 && !touch(&p->c, c, false)) return;
    if (!touch(&p->d, d, true)) return;
    uint64_t depth = applied(&p->a, p->desc.trans_a).cols;
    double *left = unpack(p, &p->a, a, p->desc.trans_a == CUBLAS_OP_N, p->d.rows, depth);
    double *right = unpack(p, &p->b, b, p->desc.trans_b != CUBLAS_OP_N, p->d.cols, depth);
    for (uint64_t col = 0; col < p->d.cols; col++)
        for (uint64_t row = 0; row < p->d.rows; row++) {
            double value = p->alpha * dot(left + row * depth, right + col * depth, depth);
            if (p->beta != 0)
                value += p->beta * value_load(c, dtype_of(p->c.type), index_of(&p->c, row, col));
            value_store(d, dtype_of(p->d.type), index_of(&p->d, row, col), epilogue(p, row, value));
        }
    free(left);
    free(right);
}

static void run_product(void *data)
{
    const Product *p = data;
    if (p->workspace_bytes > 0) {
        if (!sim_touch(p->workspace, p->workspace_bytes, true)) return;
        memset(p->workspace, 0xA5, p->workspace_bytes);
    }
    if (p->desc.epilogue & CUBLASLT_EPILOGUE_BIAS &&
        !sim_touch(p->desc.bias, p->d.rows * element_bytes(&p->d), false))
        return;
    for (int64_t batch = 0; batch < p->d.n_batches; batch++) run_batch(p, batch);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t layout_a, const void *b,
                              cublasLtMatrixLayout_t layout_b, const void *beta, const void *c,
                              cublasLtMatrixLayout_t layout_c, void *d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    (void)handle;
    Algo chosen;
    if (!algo) return CUBLAS_STATUS_INVALID_VALUE; /* the backend chooses when it binds */
    memcpy(&chosen, algo, sizeof chosen);
    const void *pointers[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % chosen.alignment[i]) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes < chosen.workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check((Desc *)desc, (Layout *)layout_a, (Layout *)layout_b,
                                  (Layout *)layout_c, (Layout *)layout_d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    Product *p = calloc(1, sizeof *p);
    *p = (Product){.desc = *(Desc *)desc,
                   .a = *(Layout *)layout_a,
                   .b = *(Layout *)layout_b,
                   .c = *(Layout *)layout_c,
                   .d = *(Layout *)layout_d,
                   .pa = a,
                   .pb = b,
                   .pc = c,
                   .pd = d,
                   .workspace = workspace,
                   .workspace_bytes = chosen.workspace_bytes,
                   .alpha = *(const float *)alpha,
                   .beta = *(const float *)beta};
    return sim_stream_function(stream, "cublasLtMatmul", run_product, p) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
