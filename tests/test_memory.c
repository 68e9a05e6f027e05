/* What the plan says before step 1 is what a run takes: the growth of the process over a training
 * step of L0, as `retort bench` measures it, against the plan. What is beside the plan is oneDNN's
 * compiled kernels, the graph, and stacks; a library that kept copies of weights or activations of
 * its own would show here. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/program.h"

#ifdef __SANITIZE_ADDRESS__
enum { HAS_SHADOW = 1 };
#else
enum { HAS_SHADOW = 0 };
#endif

static void check(const char *words, double *measured_mib)
{
    if (HAS_SHADOW) cr_skip_test("AddressSanitizer's shadow of the memory is in the measure");
    const ProgramResult *result = program_succeed("bench %s --repeat=1 --run.threads=1", words);
    const char *at = strstr(result->out, "plan ");
    double plan;
    cr_assert(at && sscanf(at, "plan %lf MiB, measured %lf", &plan, measured_mib) == 2, "%s",
              result->out);
    cr_expect(*measured_mib > 0.9 * plan && *measured_mib < 1.1 * plan,
              "%s: plan %.0f MiB, measured %.0f", words, plan, *measured_mib);
}

/* The teacher stands aside: its embedding is given. */
Test(memory, distillation_takes_what_was_planned, .timeout = 900)
{
    double mib;
    check("distill configs/recipes/distill_l0_paper.yaml --teacher.model= --train.batch=2", &mib);
}

/* 64 masks of an image in 3 GB, which is what small machines have. */
Test(memory, finetuning_takes_what_was_planned_and_less_than_3_gb, .timeout = 900)
{
    double mib;
    check("finetune configs/recipes/finetune_l0_paper.yaml --train.batch=1", &mib);
    cr_expect_lt(mib * 1048576, 3e9);
}
