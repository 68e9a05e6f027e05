/* Matrix products through oneDNN. See product.h. */
#include "kernels/cpu/product.h"

/* (batch, rows, cols) stored row-major, or transposed; rank 2 if there is one batch only. */
static Status matrix_desc(const KernelCall *call, DType dtype, bool batched, int64_t batch,
                          int64_t rows, int64_t cols, bool transposed, dnnl_memory_desc_t *out)
{
    int64_t dims[] = {batch, rows, cols};
    int64_t strides[] = {rows * cols, transposed ? 1 : cols, transposed ? rows : 1};
    return onednn_desc(call, dtype, batched ? 3 : 2, dims + !batched, strides + !batched, out);
}

Status product_make(OnednnEngine *engine, const KernelCall *call, const ProductSpec *spec,
                    OnednnPrimitive *out)
{
    bool batched = spec->batch > 1;
    dnnl_memory_desc_t a, b, bias, dst;
    TRY(matrix_desc(call, spec->in, batched, spec->batch, spec->m, spec->k, spec->trans_a, &a));
    TRY(matrix_desc(call, spec->in, batched, spec->shared_b ? 1 : spec->batch, spec->k, spec->n,
                    spec->trans_b, &b));
    TRY(matrix_desc(call, spec->out, batched, spec->batch, spec->m, spec->n, false, &dst));
    if (spec->bias) TRY(matrix_desc(call, DT_F32, batched, 1, 1, spec->n, false, &bias));
    dnnl_matmul_desc_t desc;
    DNNL_TRY(call, dnnl_matmul_desc_init(&desc, &a, &b, spec->bias ? &bias : NULL, &dst));
    const int args[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS};
    return onednn_make(engine, call, &desc, NULL, spec->bias ? 4 : 3, args, out);
}
