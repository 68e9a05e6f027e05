/* Known answers that take minutes or gigabytes; `make kat-long` runs them. ViT-H's encoder, and the
 * larger encoders as teachers and predictors run them, with their norms folded. 4 GB of memory.
 */
#include <criterion/criterion.h>

#include "tests/kat_bench.h"
#include "tests/support.h"

static void expect_frozen(const char *table, const char *model)
{
    char path[256];
    KatBench b;
    if (!shared_path(table, path, sizeof path))
        cr_skip_test("sample data %s is missing beside the checkout", table);
    kat_bench_start(&b, "cpu", model, path);
    kat_run_frozen_encoder(&b, DT_F32);
    kat_expect_encoder(&b, model);
    kat_bench_close(&b);
}

Test(kat_long, frozen_encoder_of_sam_vit_h)
{
    expect_frozen("spec/kat/sam_forward.tsv", "sam_vit_h");
}

Test(kat_long, frozen_encoder_of_sam_vit_b)
{
    expect_frozen("spec/kat/sam_forward.tsv", "sam_vit_b");
}

Test(kat_long, frozen_encoder_of_efficientvit_sam_xl0)
{
    expect_frozen("spec/kat/efficientvit_sam_forward.tsv", "efficientvit_sam_xl0");
}
