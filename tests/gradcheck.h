/* Checks the gradient rules of one case against central differences on the reference backend in
 * f64. Called by test_gradcheck.c for the rules as they are, and by mutants.c for damaged ones.
 *
 * The loss is sum of cotangent * dst 0, so the gradient of every source element is compared with
 * sum of cotangent * (dst(x + h) - dst(x - h)) / 2h.
 */
#ifndef RETORT_TESTS_GRADCHECK_H
#define RETORT_TESTS_GRADCHECK_H

#include "tests/op_bench.h"

typedef struct GradReport {
    int64_t n_checked, n_skipped; /* skipped: at a kink */
    int64_t n_wrong;
    double worst;          /* largest error as a part of its tolerance */
    bool mutated;          /* the mutator changed a gradient */
    char first_wrong[400]; /* op, case, source, index, both values; "" if nothing is wrong */
} GradReport;

/* gradcheck_case: checks every source that trains (only `mutated_src` if there is a mutator), every
 * element or a fixed sample of them, and adds up in `report`. With a mutator it stops at the first
 * wrong element. errors  those of the rules and of the reference backend */
Status gradcheck_case(const OpCase *op_case, const GradientMutator *mutator, int mutated_src,
                      GradReport *report);

#endif
