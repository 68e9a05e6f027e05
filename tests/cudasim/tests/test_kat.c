/* Known answers of the official code on the CUDA backend, in f32 and at the tolerances of the CPU:
 * the prompt encoder with the mask decoder. On the simulator, or with TEST_BACKEND=cuda on a GPU,
 * where the encoder of L0 and all cases of the decoder run, too. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/kat_bench.h"
#include "tests/kat_decoder.h"
#include "tests/support.h"

static const char *backend_under_test(void)
{
    const char *name = getenv("TEST_BACKEND");
    return name ? name : "cudasim";
}

static bool on_simulator(void) { return !getenv("TEST_BACKEND"); }

/* A point with a mask: every module of both, one prompt. */
enum { CASE_POINT_AND_MASK = 3 };

Test(kat, decoder_of_efficientvit_sam, .timeout = 900)
{
    for (int i = 0; i < kat_decoder_case_count(); i++)
        if (!on_simulator() || i == CASE_POINT_AND_MASK)
            kat_expect_decoder(backend_under_test(), "efficientvit_sam", "efficientvit_sam_l0", i);
}

Test(kat, decoder_of_sam, .timeout = 900)
{
    if (on_simulator()) cr_skip_test("the same kernels as efficientvit_sam's, with another eps");
    for (int i = 0; i < kat_decoder_case_count(); i++)
        kat_expect_decoder(backend_under_test(), "sam", "sam_vit_b", i);
}

Test(kat, encoder_of_efficientvit_sam_l0, .timeout = 900)
{
    char path[256];
    KatBench b;
    if (on_simulator()) cr_skip_test("35 GMAC with every access checked; the decoder runs");
    SKIP_WITHOUT("spec/kat/efficientvit_sam_forward.tsv", path);
    kat_bench_open(&b, backend_under_test(), "efficientvit_sam_l0", path);
    kat_run_encoder(&b);
    kat_expect_encoder(&b, "efficientvit_sam_l0");
    kat_bench_close(&b);
}
