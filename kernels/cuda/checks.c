/* What binds of several ops check. See checks.h. */
#include "kernels/cuda/checks.h"

static Status check_one(const KernelCall *call, const Tensor *tensor, const OpOperand *operand)
{
    DType wanted = call->src[0].dtype;
    if (operand->kind != 'l' || !cuda_present(tensor) || tensor->dtype == wanted) return OK;
    return cuda_unsupported(call, "operands of several dtypes: %s and %s", dtype_name(wanted),
                            dtype_name(tensor->dtype));
}

Status cuda_check_low(const KernelCall *call)
{
    OpOperand operand;
    for (int i = 0; i < call->n_src; i++)
        if (op_src(call->op, i, &operand)) TRY(check_one(call, &call->src[i], &operand));
    for (int i = 0; i < call->n_dst; i++)
        if (op_dst(call->op, i, &operand)) TRY(check_one(call, &call->dst[i], &operand));
    return OK;
}
