/* `retort plan` as a user runs it: what must hold between its numbers, and what it says where a run
 * does not fit. That its memory is what a GPU is asked for: tests/cudasim/tests/test_plan_memory.c.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/program.h"
#include "tests/support.h"

#define FINETUNE_L0 "plan configs/recipes/finetune_l0_paper.yaml --run.precision=bf16"
#define DISTILL_XL1 "plan configs/recipes/distill_xl1_paper.yaml --run.precision=bf16"

/* The number under `key` of a plan's --json. */
static double number(const char *path, const char *key)
{
    char wanted[64], *text = file_text(path);
    snprintf(wanted, sizeof wanted, "\"%s\":", key);
    const char *at = strstr(text, wanted);
    cr_assert_not_null(at, "%s has no %s", path, key);
    double value = strtod(at + strlen(wanted), NULL);
    free(text);
    return value;
}

/* Runs a plan and gives the path of its JSON. */
static const char *plan(const char *name, const char *words)
{
    static char path[2][200];
    static int turn;
    char folder[128];
    turn = !turn;
    test_folder(name, folder, sizeof folder);
    snprintf(path[turn], sizeof path[turn], "%s/plan.json", folder);
    program_succeed("%s --json=%s", words, path[turn]);
    return path[turn];
}

static void expect_near(double got, double wanted, const char *what)
{
    cr_expect(fabs(got - wanted) <= 1e-9 * fabs(wanted), "%s: %.12g, wanted %.12g", what, got,
              wanted);
}

/* Gradients of all parameters in f32, over a ring of 300 GB/s inside a server and of 25 GB/s
 * between servers. */
Test(plan_command, counts_the_all_reduce_of_8_and_64_gpus)
{
    const char *eight = plan("plan_8", FINETUNE_L0 " --gpu=a100-80g --gpus=8");
    double ms8 = number(eight, "reduce_ms"), bytes = ms8 * 1e-3 * 300e9 / (2 * 7.0 / 8);
    /* L0's SAM has 34.8 million parameters; its IoU head (0.14 million) takes no part */
    cr_expect(bytes > 4 * 34.6e6 && bytes < 4 * 34.8e6, "%.0f bytes", bytes);
    const char *many = plan("plan_64", FINETUNE_L0 " --gpu=a100-80g --gpus=64");
    expect_near(number(many, "reduce_ms"), ms8 * (300.0 / 25) * (63.0 / 64) / (7.0 / 8), "64 GPUs");
    cr_expect_leq(number(many, "exposed_ms"), number(many, "reduce_ms"));
    expect_near(number(many, "steps"), 2 * 11185362.0 / (64 * 4), "steps");
    cr_expect_eq(number(plan("plan_1", FINETUNE_L0 " --gpu=a100-80g"), "reduce_ms"), 0);
}

/* The teacher has 2.7 TMAC an image, whatever runs beside it; embeddings in files save them. */
Test(plan_command, counts_the_teacher_and_its_embeddings)
{
    const char *inside = plan("plan_teacher", DISTILL_XL1 " --gpu=h100-80g --gpus=8");
    double macs = number(inside, "macs"), needed = number(inside, "needed_mib");
    expect_near(number(inside, "embedding_bytes"), 2.0 * 11185362 * 256 * 64 * 64 * 2, "disk");
    const char *files = plan("plan_files", DISTILL_XL1 " --gpu=h100-80g --gpus=8 "
                                                       "--teacher.embeddings=none");
    double teacher = (macs - number(files, "macs")) / number(files, "batch");
    cr_expect(teacher > 2.6e12 && teacher < 3.1e12, "%.4g multiply-adds", teacher);
    cr_expect_lt(number(files, "needed_mib"), needed);
    const char *alone = plan("plan_teach", DISTILL_XL1 " --gpu=h100-80g --kind=teach");
    expect_near(number(alone, "macs"), teacher, "teach");
}

/* The longer of arithmetic and memory, node by node: never less than either alone, and faster on
 * what is faster in both. */
Test(plan_command, a_faster_gpu_is_not_slower)
{
    double a100 = number(plan("plan_a", FINETUNE_L0 " --gpu=a100-80g"), "kernels_ms");
    double h200 = number(plan("plan_h", FINETUNE_L0 " --gpu=h200"), "kernels_ms");
    cr_expect_lt(h200, a100);
    cr_expect_geq(h200, a100 * 19.5 / 67, "no rate of it is more than 67 / 19.5 times as high");
    double f32 = number(plan("plan_f", FINETUNE_L0 " --gpu=a100-80g --run.precision=f32"),
                        "kernels_ms");
    double tf32 = number(plan("plan_t", FINETUNE_L0 " --gpu=a100-80g --run.precision=f32 "
                                                    "--run.tf32=true"), "kernels_ms");
    cr_expect_lt(tf32, f32);
    cr_expect_lt(a100, tf32);
}

Test(plan_command, says_in_one_line_what_to_change)
{
    const ProgramResult *r = program_run(DISTILL_XL1 " --gpu=rtx3090 --train.batch=64");
    cr_expect_eq(r->code, 1);
    const char *line = program_error(r), *advice = strstr(line, "--train.micro_batch=");
    cr_assert_not_null(advice, "%s", line);
    program_succeed(DISTILL_XL1 " --gpu=rtx3090 --train.batch=64 --train.micro_batch=%d",
                    atoi(strchr(advice, '=') + 1));
    r = program_run(FINETUNE_L0 " --gpu=gtx");
    cr_expect(r->code == 1 && strstr(program_error(r), "unknown GPU --gpu=gtx; known are a100-40g"),
              "%s", program_error(r));
    r = program_run(FINETUNE_L0 " --gpu=a100-80g --gpus=3 --train.global_batch=32");
    cr_expect(r->code == 1 && strstr(program_error(r), "cannot be divided among 3 ranks"), "%s",
              program_error(r));
    r = program_run("plan configs/recipes/finetune_l0_paper.yaml --gpu=a100-80g --kind=teach");
    cr_expect(r->code == 1 && strstr(program_error(r), "needs teacher.model"), "%s",
              program_error(r));
}

Test(plan_command, its_backend_computes_nothing)
{
    const ProgramResult *r = program_run("bench encoder configs/recipes/finetune_l0_paper.yaml "
                                         "--run.backend=plan");
    cr_expect(r->code == 1 && strstr(program_error(r), "only plans"), "%s", program_error(r));
}
