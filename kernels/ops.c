/* The generated op facts and the reader of their types strings. See ops.h. */
#include "kernels/ops.h"

#include <string.h>

#define INPLACE OP_FLAG_INPLACE
#define VIEW OP_FLAG_VIEW
#define STOP OP_FLAG_STOP
#define REPEAT OP_FLAG_REPEAT
#define KEEP OP_FLAG_KEEP

static const OpInfo infos[OP_COUNT] = {
    [OP_NONE] = {"none", ">", "", false, 0, 0},
#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    [OP_##ID] = {#name, types, needs, true, flags, ulps},
#define PLAIN(ID, name, Attr, types, flags, ulps) \
    [OP_##ID] = {#name, types, "", false, flags, ulps},
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

const OpInfo *op_info(OpId op) { return &infos[op]; }

/* Reads operand `index` from a list such as "llf?"; stops at '>' or the end. */
static bool operand_at(const char *list, int index, OpOperand *out)
{
    for (const char *c = list; *c && *c != '>'; index--) {
        OpOperand operand = {.kind = *c++};
        for (; *c && strchr("?*!", *c); c++) {
            operand.optional |= *c == '?';
            operand.repeats |= *c == '*';
            operand.mutated |= *c == '!';
        }
        if (index == 0 || operand.repeats) {
            *out = operand;
            return true;
        }
    }
    return false;
}

bool op_src(OpId op, int index, OpOperand *out)
{
    return index < OP_MAX_SRC && operand_at(infos[op].types, index, out);
}

bool op_dst(OpId op, int index, OpOperand *out)
{
    return operand_at(strchr(infos[op].types, '>') + 1, index, out);
}

int op_n_dst(OpId op)
{
    OpOperand operand;
    int n = 0;
    while (op_dst(op, n, &operand)) n++;
    return n;
}
