/* Training in bf16 and fp16, of every model that was published: one distillation step each, at a
 * quarter of its side, judged as tests/precision.h says. `make precision`; ViT-H should need
 * 12 GB. Prints a table in Markdown.
 */
#include <criterion/criterion.h>

#include <stdio.h>

#include "tests/precision.h"

enum { SHRINK = 4 };

static PrecisionReport compare(const char *model, BnMode bn, int64_t batch)
{
    PrecisionReport r;
    precision_compare(&(PrecisionCase){model, SHRINK, STEP_DISTILL, bn, .batch = batch}, &r);
    printf("| `%s`%s | %.1e | %.1e | %.1e | %.1e |\n", model, bn == BN_TRAIN ? ", batch norms" : "",
           r.loss_off[LOW_BF16], r.off[LOW_BF16], r.loss_off[LOW_F16], r.off[LOW_F16]);
    return r;
}

static void expect_vit(const char *model)
{
    PrecisionReport report = compare(model, BN_EVAL, 1);
    precision_expect_ratio(&report, false);
    precision_expect_size(&report);
}

/* With frozen batch norms, and as it is trained. */
static void expect_efficientvit(const char *model)
{
    PrecisionReport frozen = compare(model, BN_EVAL, 2);
    precision_expect_ratio(&frozen, true);
    precision_expect_size(&frozen);
    PrecisionReport report = compare(model, BN_TRAIN, 8);
    precision_expect_ratio(&report, true);
}

#define EFFICIENTVIT(name) \
    Test(precision_long, name) { expect_efficientvit("efficientvit_sam_" #name); }
#define VIT(name) \
    Test(precision_long, name) { expect_vit("sam_" #name); }

EFFICIENTVIT(b0)
EFFICIENTVIT(b1)
EFFICIENTVIT(b2)
EFFICIENTVIT(b3)
EFFICIENTVIT(l0)
EFFICIENTVIT(l1)
EFFICIENTVIT(l2)
EFFICIENTVIT(l3)
EFFICIENTVIT(xl0)
EFFICIENTVIT(xl1)
VIT(vit_b)
VIT(vit_l)
VIT(vit_h)
