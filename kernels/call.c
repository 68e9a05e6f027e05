/* Operands and refusals of calls. See call.h. */
#include "kernels/call.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

Status call_unsupported(const KernelCall *call, const char *backend, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(E_UNSUPPORTED, "%s: %s on %s: %s", call->label, op_info(call->op)->name,
                       backend, text);
}

static bool dtype_fits(const OpOperand *operand, DType dtype)
{
    switch (operand->kind) {
    case 'f': return dtype == DT_F32;
    case 'i': return dtype == DT_I32;
    case 't': return dtype == DT_I64;
    case 'n': return dtype != DT_NONE;
    default: return dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_F16;
    }
}

static Status check_operand(const KernelCall *call, const char *backend, const char *side,
                            int index, const Tensor *tensor, const OpOperand *operand)
{
    if (tensor->dtype == DT_NONE && operand->optional) return OK;
    if (dtype_fits(operand, tensor->dtype)) return OK;
    return call_unsupported(call, backend, "%s %d has dtype %s", side, index,
                            dtype_name(tensor->dtype));
}

Status call_check_dtypes(const KernelCall *call, const char *backend)
{
    OpOperand operand;
    for (int i = 0; i < call->n_src; i++) {
        bool known = op_src(call->op, i, &operand);
        assert(known);
        TRY(check_operand(call, backend, "source", i, &call->src[i], &operand));
    }
    for (int i = 0; i < call->n_dst; i++) {
        bool known = op_dst(call->op, i, &operand);
        assert(known);
        TRY(check_operand(call, backend, "destination", i, &call->dst[i], &operand));
    }
    return OK;
}

static Status check_counts(const KernelCall *call, const char *backend, const char *side, int n,
                           const Tensor *tensors)
{
    for (int i = 0; i < n; i++)
        if (shape_elems(tensors[i].shape) > INT32_MAX)
            return call_unsupported(call, backend,
                                    "%s %d has %lld elements, at most %d are counted; use a "
                                    "smaller batch or chunk",
                                    side, i, (long long)shape_elems(tensors[i].shape), INT32_MAX);
    return OK;
}

Status call_check_counts(const KernelCall *call, const char *backend)
{
    TRY(check_counts(call, backend, "source", call->n_src, call->src));
    return check_counts(call, backend, "destination", call->n_dst, call->dst);
}
