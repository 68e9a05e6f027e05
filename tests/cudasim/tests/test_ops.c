/* Every kernel of the CUDA backend against the reference in f64, one test per op. Run by
 * `make test-cudasim` on the simulator, and by `make gpu-check` with TEST_BACKEND=cuda on a GPU. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/op_judge.h"

static void judge(OpId op)
{
    const char *backend = getenv("TEST_BACKEND") ? getenv("TEST_BACKEND") : "cudasim";
    JudgeMode modes[] = {{backend, 1, DT_F32}, {backend, 1, DT_BF16}, {backend, 1, DT_F16}};
    judge_op(op, modes, sizeof modes / sizeof *modes);
}

#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Test(cuda, name) { judge(OP_##ID); }
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
