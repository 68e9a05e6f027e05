/* The two rules that every op has above its kernel: shape and gradient.
 *
 * Shape rules (shape_<name>, in autograd/shape_*.c) check sources and attributes and give the
 * destinations' dtypes and shapes; their messages name what disagrees. Gradient rules (grad_<name>,
 * in autograd/grad_*.c) add the backward nodes of one node to the graph.
 */
#ifndef RETORT_AUTOGRAD_RULES_H
#define RETORT_AUTOGRAD_RULES_H

#include "autograd/graph.h"

/* In: op, attr, sources (dtype DT_NONE = absent). Out: dst, all op_n_dst of them (dtype and shape;
 * data is unused). '!' destinations are checked by the caller, not made here: a rule of an op with
 * only such destinations just checks its sources. */
typedef struct ShapeCall {
    OpId op;
    const char *label;
    const OpAttr *attr;
    int n_src;
    Tensor src[OP_MAX_SRC];
    Tensor dst[OP_MAX_DST];
} ShapeCall;

/* shape_fail: E_SHAPE with "<label>: <op>: <message>". */
Status shape_fail(const ShapeCall *call, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* In: the forward node and the gradient of each destination (VALUE_NONE: none reached the loss).
 * Out: dsrc, one entry per source: a value, or VALUE_NONE ("no gradient"). A rule may skip sources
 * whose `need` is false. The caller asserts the count and the shapes, sums over broadcast axes, and
 * checks that the new nodes read only what the row's `needs` admits. */
typedef struct GradCall {
    Graph *graph;
    const OpAttr *attr;
    int n_src, n_dst;
    ValueId src[OP_MAX_SRC];
    ValueId dst[OP_MAX_DST];
    ValueId ddst[OP_MAX_DST];
    bool need[OP_MAX_SRC];
    ValueId dsrc[OP_MAX_SRC];
} GradCall;

#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Status shape_##name(ShapeCall *call);               \
    void grad_##name(GradCall *call);
#define PLAIN(ID, name, Attr, types, flags, ulps) Status shape_##name(ShapeCall *call);
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN

/* rules_infer: checks operand kinds and counts against the row, then calls the op's shape rule. */
Status rules_infer(ShapeCall *call);
/* rules_gradient: calls the op's gradient rule.
 * errors  E_UNSUPPORTED naming the op and label if its row has none */
Status rules_gradient(OpId op, GradCall *call);

/* op_work: multiply-adds of a call for matrix products, convolutions and attention; elements of the
 * larger side for the rest. Used by profiles, by `inspect` and for the reduction length of
 * tolerances. */
int64_t op_work(OpId op, const OpAttr *attr, const Tensor *src, int n_src, const Tensor *dst);
bool op_counts_as_macs(OpId op);

#endif
