/* Training in bf16 and fp16, of small models: a step's gradients are off by what rounding makes of
 * them (tests/precision.h), and a parameter that learns in f32 learns. All models: `make
 * precision`.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "tests/precision.h"

static PrecisionReport compare(const PrecisionCase *test)
{
    PrecisionReport r;
    precision_compare(test, &r);
    printf("%s: %d parameters; loss %.4f, off by %.1e in bf16 and %.1e in fp16; gradients by %.1e "
           "and %.1e, of rounding %.1e and %.1e\n",
           test->model, r.n_parameters, r.loss, r.loss_off[LOW_BF16], r.loss_off[LOW_F16],
           r.off[LOW_BF16], r.off[LOW_F16], r.expected[LOW_BF16], r.expected[LOW_F16]);
    return r;
}

Test(precision, distillation_of_a_vit)
{
    PrecisionReport report = compare(
        &(PrecisionCase){"sam_tiny", 1, STEP_DISTILL, BN_TRAIN, .batch = 2});
    precision_expect_ratio(&report, false);
    precision_expect_size(&report);
}

Test(precision, distillation_with_frozen_batch_norms)
{
    PrecisionReport report = compare(
        &(PrecisionCase){"efficientvit_sam_tiny", 1, STEP_DISTILL, BN_EVAL, .batch = 2});
    precision_expect_ratio(&report, true);
    precision_expect_size(&report);
}

Test(precision, distillation_with_batch_norms)
{
    PrecisionReport report = compare(
        &(PrecisionCase){"efficientvit_sam_tiny", 1, STEP_DISTILL, BN_TRAIN, .batch = 4});
    precision_expect_ratio(&report, true);
}

Test(precision, fine_tuning_of_a_vit)
{
    PrecisionReport report = compare(
        &(PrecisionCase){"sam_tiny", 1, STEP_FINETUNE, BN_TRAIN, .batch = 2, .n_masks = 16});
    precision_expect_ratio(&report, true);
}

Test(precision, fine_tuning_with_batch_norms)
{
    PrecisionReport report = compare(&(PrecisionCase){"efficientvit_sam_tiny", 1, STEP_FINETUNE,
                                                      BN_TRAIN, .batch = 2, .n_masks = 16});
    precision_expect_ratio(&report, true);
}
