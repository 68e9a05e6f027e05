/* Dispatch to the two rules of every op, and what all shape rules have in common: the row's types
 * string decides how many sources there are, of which kind, and the dtypes of the destinations. See
 * rules.h.
 */
#include "autograd/rules.h"

#include <assert.h>

#include "autograd/shape_checks.h"

typedef Status (*ShapeRule)(ShapeCall *call);
typedef void (*GradRule)(GradCall *call);

static const ShapeRule shape_rules[OP_COUNT] = {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) [OP_##ID] = shape_##name,
#define PLAIN(ID, name, Attr, types, flags, ulps) [OP_##ID] = shape_##name,
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

static const GradRule grad_rules[OP_COUNT] = {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) [OP_##ID] = grad_##name,
#define PLAIN(ID, name, Attr, types, flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

/* ---- operands ---- */

static bool kind_admits(char kind, DType dtype)
{
    switch (kind) {
    case 'l':
    case 'f':
    case 'a': return dtype_is_float(dtype);
    case 'i': return dtype == DT_I32;
    case 't': return dtype == DT_I64;
    case 'n': return dtype != DT_NONE;
    default: return false;
    }
}

static const char *kind_name(char kind)
{
    return kind == 'i' ? "int32" : kind == 't' ? "int64" : "a float dtype";
}

/* Trailing optional sources may be left out, so counts are compared through the operands
 * themselves. */
static Status check_sources(const ShapeCall *call)
{
    OpOperand operand;
    for (int i = 0; i < call->n_src; i++) {
        if (!op_src(call->op, i, &operand))
            return shape_fail(call, "%d sources, wanted at most %d", call->n_src, i);
        if (!shape_present(call, i)) {
            if (!operand.optional) return shape_fail(call, "source %d is absent", i);
        } else if (!kind_admits(operand.kind, call->src[i].dtype)) {
            return shape_fail(call, "source %d is %s, wanted %s", i, dtype_name(call->src[i].dtype),
                              kind_name(operand.kind));
        }
    }
    for (int i = call->n_src; op_src(call->op, i, &operand); i++) {
        if (operand.repeats && i > 0) break;
        if (!operand.optional)
            return shape_fail(call, "%d sources, wanted source %d", call->n_src, i);
    }
    return OK;
}

/* f64 only where a graph was widened for gradient checks. */
static DType statistics_dtype(const ShapeCall *call)
{
    for (int i = 0; i < call->n_src; i++)
        if (dtype_is_float(call->src[i].dtype))
            return call->src[i].dtype == DT_F64 ? DT_F64 : DT_F32;
    return DT_F32;
}

static DType destination_dtype(const ShapeCall *call, char kind)
{
    switch (kind) {
    case 'i': return DT_I32;
    case 't': return DT_I64;
    case 'f': return statistics_dtype(call);
    default: return call->src[0].dtype;
    }
}

/* ---- the two rules ---- */

Status rules_infer(ShapeCall *call)
{
    assert(call->op > OP_NONE && call->op < OP_COUNT && call->n_src <= OP_MAX_SRC);
    TRY(check_sources(call));
    OpOperand operand;
    for (int i = 0; op_dst(call->op, i, &operand); i++) {
        call->dst[i] = (Tensor){.dtype = DT_NONE};
        if (!operand.mutated) call->dst[i].dtype = destination_dtype(call, operand.kind);
    }
    return shape_rules[call->op](call);
}

Status rules_gradient(OpId op, GradCall *call)
{
    if (!grad_rules[op])
        return status_fail(E_UNSUPPORTED,
                           "%s: %s has no gradient rule: nothing behind it can be trained",
                           call->graph->label, op_info(op)->name);
    grad_rules[op](call);
    return call->graph->status;
}

/* ---- work ---- */

static int64_t attention_macs(Shape q, Shape k)
{
    int64_t masks = q.dim[1] > k.dim[1] ? q.dim[1] : k.dim[1];
    return q.dim[0] * masks * q.dim[2] * k.dim[2] * q.dim[3];
}

/* One product of all queries with all keys, and what the two position tables add to the scores. */
static int64_t relpos_macs(Shape qkv)
{
    int64_t tokens = qkv.dim[1] * qkv.dim[2], channels = qkv.dim[3] / 3;
    return qkv.dim[0] * tokens * tokens * channels;
}

static int64_t relpos_table_macs(Shape qkv)
{
    int64_t tokens = qkv.dim[1] * qkv.dim[2], channels = qkv.dim[3] / 3;
    return qkv.dim[0] * tokens * (qkv.dim[1] + qkv.dim[2]) * channels;
}

/* One product of a d x (d+1) state with every token. */
static int64_t linear_attention_macs(Shape src, int64_t head_dim)
{
    return shape_elems(src) / 3 * (head_dim + 1);
}

static int64_t largest_side(const Tensor *src, int n_src, OpId op, const Tensor *dst)
{
    int64_t sources = 0, destinations = 0;
    for (int i = 0; i < n_src; i++)
        if (src[i].dtype != DT_NONE) sources += shape_elems(src[i].shape);
    for (int i = 0; i < op_n_dst(op); i++) destinations += shape_elems(dst[i].shape);
    return sources > destinations ? sources : destinations;
}

/* The mask losses visit pixels or points that none of their operands has as elements. */
static int64_t mask_pixels(Shape logits, int64_t size_px)
{
    return logits.dim[0] * logits.dim[1] * logits.dim[2] * size_px * size_px;
}

int64_t op_work(OpId op, const OpAttr *attr, const Tensor *src, int n_src, const Tensor *dst)
{
    switch (op) {
    case OP_MATMUL:
        return shape_elems(dst[0].shape) *
               shape_dim_from_end(src[0].shape, attr->matmul.trans_a ? 2 : 1);
    case OP_CONV2D:
        return shape_elems(dst[0].shape) * shape_elems(src[1].shape) / src[1].shape.dim[0];
    case OP_CONV2D_GRAD_DATA:
        return shape_elems(src[0].shape) * shape_elems(src[1].shape) / src[1].shape.dim[0];
    case OP_CONV2D_GRAD_WEIGHT:
        return shape_elems(src[1].shape) * shape_elems(dst[0].shape) / dst[0].shape.dim[0];
    case OP_ATTENTION: return 2 * attention_macs(src[0].shape, src[1].shape);
    case OP_ATTENTION_GRAD: return 5 * attention_macs(src[0].shape, src[1].shape);
    case OP_RELPOS_ATTENTION:
        return 2 * relpos_macs(src[0].shape) + relpos_table_macs(src[0].shape);
    case OP_RELPOS_ATTENTION_GRAD:
        return 5 * relpos_macs(src[0].shape) + 3 * relpos_table_macs(src[0].shape);
    case OP_LINEAR_ATTENTION:
        return 2 * linear_attention_macs(src[0].shape, attr->linear_attention.head_dim);
    case OP_LINEAR_ATTENTION_GRAD:
        return 6 * linear_attention_macs(src[0].shape, attr->linear_attention_grad.head_dim);
    case OP_FOCAL_DICE: return mask_pixels(src[0].shape, attr->focal_dice.size);
    case OP_FOCAL_DICE_GRAD: return mask_pixels(src[0].shape, attr->focal_dice_grad.size);
    case OP_MASK_IOU: return mask_pixels(src[0].shape, attr->mask_iou.size);
    case OP_ERROR_CLICK:
        return shape_elems(src[3].shape) * attr->error_click.size * attr->error_click.size;
    default: return largest_side(src, n_src, op, dst);
    }
}

bool op_counts_as_macs(OpId op)
{
    switch (op) {
    case OP_MATMUL:
    case OP_CONV2D:
    case OP_CONV2D_GRAD_DATA:
    case OP_CONV2D_GRAD_WEIGHT:
    case OP_ATTENTION:
    case OP_ATTENTION_GRAD:
    case OP_RELPOS_ATTENTION:
    case OP_RELPOS_ATTENTION_GRAD:
    case OP_LINEAR_ATTENTION:
    case OP_LINEAR_ATTENTION_GRAD: return true;
    default: return false;
    }
}
