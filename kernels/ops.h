/* What ops.def generates: the enum of ops, their attributes and a row of facts for each.
 * The lowest layer that knows ops; the graph above and the backends beside it read the same table.
 */
#ifndef RETORT_KERNELS_OPS_H
#define RETORT_KERNELS_OPS_H

#include "kernels/op_attrs.h"

enum { OP_MAX_SRC = 8, OP_MAX_DST = 6 };

typedef enum OpId {
    OP_NONE,
#define DIFF(ID, name, Attr, types, needs, flags, ulps) OP_##ID,
#define PLAIN(ID, name, Attr, types, flags, ulps) OP_##ID,
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
    OP_COUNT
} OpId;

/* One member per op, named as the op: node->attr.conv2d.stride. */
typedef union OpAttr {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) Attr name;
#define PLAIN(ID, name, Attr, types, flags, ulps) Attr name;
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
} OpAttr;

typedef enum OpFlags {
    OP_FLAG_INPLACE = 1,
    OP_FLAG_VIEW = 2,
    OP_FLAG_STOP = 4,
    OP_FLAG_REPEAT = 8,
    OP_FLAG_KEEP = 16
} OpFlags;

typedef struct OpInfo {
    const char *name;
    const char *types; /* as in ops.def */
    const char *needs;
    bool differentiable;
    int flags;
    double ulps;
} OpInfo;

const OpInfo *op_info(OpId op);

/* One operand as the types string tells it. */
typedef struct OpOperand {
    char kind;     /* l f a i t n */
    bool optional; /* source may be absent */
    bool repeats;  /* last source, any number */
    bool mutated;  /* destination changed in place */
} OpOperand;

/* op_src / op_dst: operand `index` of an op.
 * errors  false if the op has no such operand */
bool op_src(OpId op, int index, OpOperand *out);
bool op_dst(OpId op, int index, OpOperand *out);
int op_n_dst(OpId op);

#endif
