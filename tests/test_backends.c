/* Every kernel of the reference in f32 and of the CPU against the reference in f64, one test per op
 * (so that --filter names one). See op_judge.h. */
#include <criterion/criterion.h>

#include "tests/op_judge.h"

static const JudgeMode modes[] = {
    {"ref", 1, DT_F32},  {"cpu", 1, DT_F32}, {"cpu", 2, DT_F32},
    {"cpu", 2, DT_BF16}, {"cpu", 2, DT_F16},
};

#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Test(backends, name) { judge_op(OP_##ID, modes, sizeof modes / sizeof *modes); }
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
