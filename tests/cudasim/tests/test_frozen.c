/* A frozen encoder on the CUDA backend, as eval, segment and teachers run it there: with its batch
 * norms folded into its convolutions it gives what the reference gives with the norms as they are.
 * On the simulator, or with TEST_BACKEND=cuda on a GPU. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "tests/toy.h"
#include "train/weights.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

static const char *backend_under_test(void)
{
    const char *name = getenv("TEST_BACKEND");
    return name ? name : "cudasim";
}

/* What the model's nodes, one after the other, make of their own tolerances, which add as roots:
 * in f32 that of convolutions in the op table, 8 roundings times the root of what is summed (at
 * most 3x3 of 128 channels), in bf16 twice the root mean square of a rounding (tests/precision.h).
 */
static double tolerance(const Toy *toy, DType precision)
{
    Step *step = toy_encoder(toy->model, toy->frozen, BN_FOLDED, precision);
    double n = step->graph->n_nodes;
    step_destroy(step);
    return sqrt(n) * (precision == DT_F32 ? 8 * FLT_EPSILON * sqrt(9 * 128) : 2 * 0.425 * 0x1p-8);
}

static void expect_the_embedding(const char *folder, DType precision)
{
    Toy reference, toy;
    int64_t n;
    toy_open(&toy, backend_under_test(), folder, precision);
    toy_open(&reference, "ref", folder, DT_F32);
    toy_init(&reference);
    must(weights_save(&file_ops_system, reference.full, reference.path));
    must(weights_freeze(toy.model, toy.frozen, reference.path, 0, NULL, 1, toy.report,
                        sizeof toy.report));
    float *wanted = toy_encode(&reference, reference.full, BN_EVAL, DT_F32, &n);
    float *got = toy_encode(&toy, toy.frozen, BN_FOLDED, precision, &n);
    double off = toy_distance(got, wanted, n) / toy_distance(wanted, NULL, n);
    cr_expect_lt(off, tolerance(&toy, precision), "off by %g", off);
    free(wanted);
    free(got);
    toy_close(&reference);
    toy_close(&toy);
}

Test(frozen, folded_norms_in_f32) { expect_the_embedding("cuda_frozen", DT_F32); }
Test(frozen, folded_norms_in_bf16) { expect_the_embedding("cuda_frozen_bf16", DT_BF16); }
