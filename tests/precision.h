/* One training step in f32, bf16 and fp16 from the same weights and inputs, and how far apart their
 * gradients are. Used by test_precision.c (small models) and precision_long.c (all models).
 *
 * What judges low precision here is arithmetic, not a result that was once seen. bf16 keeps 8
 * significant bits, fp16 11, so every rounding of fp16 is 8 times as fine, and
 *  1. whatever comes of rounding is 8 times as small in fp16, where the step is smooth. Behind a
 *     ReLU it is at least sqrt(8) times as small: the inputs that are so near to zero that rounding
 *     moves them across are 8 times as few, and the norm of what they change goes as their root.
 *     A mistake does not care for the number of bits: it makes the two deviations equal.
 *  2. In a smooth step with a gain of one (norms, residual branches), n roundings make a relative
 *     deviation of sqrt(n) r, where r is the root mean square of one: values are evenly spread over
 *     a rounding interval and, on the scale of logarithms, over a binade, so with p significant
 *     bits r = 2^-p sqrt((1 - 1/4) / (2 ln 2)) / sqrt(3) = 0.425 2^-p. The step has no more
 *     roundings in a row than nodes whose result is low.
 */
#ifndef RETORT_TESTS_PRECISION_H
#define RETORT_TESTS_PRECISION_H

#include "train/step.h"

typedef struct PrecisionCase {
    const char *model; /* configs/models/NAME.yaml */
    int64_t shrink;    /* divides the sides of image, prompt frame and embedding */
    StepKind kind; /* STEP_DISTILL or STEP_FINETUNE (in single mode: no choice of a candidate) */
    BnMode bn;
    int64_t batch, n_masks;
} PrecisionCase;

typedef enum LowPrecision { LOW_BF16, LOW_F16, N_LOW } LowPrecision;

typedef struct PrecisionReport {
    double loss, loss_off[N_LOW]; /* in f32; relative deviation from it */
    double off[N_LOW];            /* of gradients: root of the mean, over the parameters, of the
                                     squared relative deviation of one in norm */
    double expected[N_LOW];       /* sqrt(n) r of rule 2 */
    int n_parameters;             /* that have a gradient other than zero up to rounding */
} PrecisionReport;

/* precision_compare: takes the steps. Fails the test if a loss is not finite, or if a parameter has
 * a gradient in one precision and none, or one that is not finite, in another. */
void precision_compare(const PrecisionCase *test, PrecisionReport *out);

/* precision_expect_ratio: rule 1; the stronger part of it where no ReLU is in the way. A factor of
 * two is left for chance. The loss, a mean of thousands of terms whose roundings cancel, moves by
 * less than the last place of its precision. */
void precision_expect_ratio(const PrecisionReport *report, bool relu);
/* precision_expect_size: rule 2, with the same factor; for steps without statistics of a batch,
 * whose small variances amplify. */
void precision_expect_size(const PrecisionReport *report);

#endif
