/* The reference backend: picks the f32 or f64 kernel of an op, owns plain host memory. See ref.h.
 *
 * Single-threaded by design: it is the judge of the other backends, so it stays simple and its sums
 * have one order.
 */
#include "kernels/ref/ref.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/ref/ref_common.h"

typedef void (*Kernel)(const KernelCall *call);

static const struct {
    Kernel f32, f64;
} kernels[OP_COUNT] = {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    [OP_##ID] = {ref_##name##_f32, ref_##name##_f64},
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

/* ---- bind ---- */

/* The dtype that selects the kernel: of the first float operand, sources before destinations. */
static DType float_dtype(const KernelCall *call)
{
    for (int i = 0; i < call->n_src; i++)
        if (dtype_is_float(call->src[i].dtype)) return call->src[i].dtype;
    for (int i = 0; i < call->n_dst; i++)
        if (dtype_is_float(call->dst[i].dtype)) return call->dst[i].dtype;
    return DT_NONE;
}

static DType wanted_dtype(OpOperand operand, DType given, DType real)
{
    if (operand.kind == 'n' && !dtype_is_float(given)) return given;
    return operand.kind == 'i' ? DT_I32 : operand.kind == 't' ? DT_I64 : real;
}

static Status check_operand(const KernelCall *call, const Tensor *tensor, OpOperand operand,
                            DType real, const char *side, int index)
{
    if (tensor->dtype == DT_NONE && operand.optional) return OK;
    DType wanted = wanted_dtype(operand, tensor->dtype, real);
    if (tensor->dtype == wanted) return OK;
    return status_fail(E_UNSUPPORTED, "%s: %s on ref: %s %d is %s, but must be %s", call->label,
                       op_info(call->op)->name, side, index, dtype_name(tensor->dtype),
                       dtype_name(wanted));
}

static Status check_operands(const KernelCall *call, DType real)
{
    OpOperand operand;
    for (int i = 0; i < call->n_src; i++) {
        bool known = op_src(call->op, i, &operand);
        assert(known);
        TRY(check_operand(call, &call->src[i], operand, real, "source", i));
    }
    for (int i = 0; i < call->n_dst; i++) {
        bool known = op_dst(call->op, i, &operand);
        assert(known);
        TRY(check_operand(call, &call->dst[i], operand, real, "destination", i));
    }
    return OK;
}

/* Scratch of a call; what lies in it is told by the kernel that uses it. */
static size_t scratch_bytes(const KernelCall *call)
{
    const OpAttr *attr = call->attr;
    int64_t d;
    switch (call->op) {
    case OP_REDUCE_SUM: return (size_t)shape_elems(call->dst[0].shape) * sizeof(double);
    case OP_ATTENTION: return (size_t)call->src[1].shape.dim[2] * sizeof(double);
    case OP_RELPOS_ATTENTION:
        return (size_t)(call->src[0].shape.dim[1] * call->src[0].shape.dim[2]) * sizeof(double);
    case OP_LINEAR_ATTENTION:
        d = attr->linear_attention.head_dim;
        return (size_t)((d + 1) * d) * sizeof(double);
    case OP_LINEAR_ATTENTION_GRAD:
        d = attr->linear_attention_grad.head_dim;
        return (size_t)(2 * (d + 1) * d + d + 1) * sizeof(double);
    case OP_RANK_SCATTER: return rank_scatter_bytes(call);
    case OP_FOCAL_DICE: return (size_t)attr->focal_dice.size * sizeof(float);
    case OP_FOCAL_DICE_GRAD: return (size_t)attr->focal_dice_grad.size * sizeof(float);
    case OP_MASK_IOU: return (size_t)attr->mask_iou.size * sizeof(float);
    case OP_ERROR_CLICK: return (size_t)attr->error_click.size * sizeof(float);
    case OP_POINT_SAMPLE:
        return (size_t)point_sample_drawn(&attr->point_sample) * sizeof(RankedPoint);
    default: return 0;
    }
}

/* A cast's operands differ in dtype, and what only moves may be of any: these kernels go by them.
 */
static bool takes_any_dtype(const KernelCall *call)
{
    if (call->op == OP_CAST || call->op == OP_COPY) return true;
    return call->op == OP_CONCAT && call->dst[0].dtype == DT_I32;
}

static Status ref_bind(Backend *backend, KernelCall *call)
{
    assert(call->op > OP_NONE && call->op < OP_COUNT);
    DType real = float_dtype(call);
    if (!takes_any_dtype(call)) {
        if (real != DT_F32 && real != DT_F64)
            return status_fail(E_UNSUPPORTED,
                               "%s: %s on ref: dtype %s; the reference backend computes in "
                               "float32 and float64 only",
                               call->label, op_info(call->op)->name, dtype_name(real));
        TRY(check_operands(call, real));
    }
    call->run = real == DT_F64 ? kernels[call->op].f64 : kernels[call->op].f32;
    call->scratch_bytes = scratch_bytes(call);
    call->state = backend->comm; /* for the ops over ranks */
    call->release = NULL;
    return OK;
}

/* ---- memory ---- */

enum { REF_ALIGNMENT = 64 };

static Status ref_alloc(Backend *backend, size_t bytes, void **out)
{
    (void)backend;
    size_t rounded = (bytes + REF_ALIGNMENT - 1) / REF_ALIGNMENT * REF_ALIGNMENT;
    if (rounded == 0) rounded = REF_ALIGNMENT;
    void *memory = rounded < bytes ? NULL : aligned_alloc(REF_ALIGNMENT, rounded);
    if (!memory) return status_fail(E_MEMORY, "ref: no memory for %zu bytes of tensors", bytes);
    memset(memory, 0, rounded);
    *out = memory;
    return OK;
}

static void ref_free(Backend *backend, void *memory, size_t bytes)
{
    (void)backend;
    (void)bytes;
    free(memory);
}

static Status ref_copy(Backend *backend, void *dst, const void *src, size_t bytes)
{
    (void)backend;
    if (bytes > 0) memcpy(dst, src, bytes);
    return OK;
}

static Status ref_wait(Backend *backend)
{
    (void)backend;
    return OK;
}

static void ref_close(Backend *backend) { free(backend); }

Status ref_open(int n_threads, Backend **out)
{
    (void)n_threads;
    Backend *backend = mem_alloc(sizeof *backend);
    *backend = (Backend){.name = "ref",
                         .n_threads = 1,
                         .low = DT_F32,
                         .bind = ref_bind,
                         .alloc = ref_alloc,
                         .free = ref_free,
                         .upload = ref_copy,
                         .download = ref_copy,
                         .wait = ref_wait,
                         .close = ref_close};
    *out = backend;
    return OK;
}
