/* Known answers of the reference's losses: against naive formulas over dense masks, written anew
 * here. See test_ref.c.
 */
#include "base/soft_runs.h"
#include "tests/ref_call.h"

Test(ref_loss, mse_of_the_kept_cells)
{
    double src[] = {1, 2, 3, 4, 1, 1, 1, 1}, target[8] = {0}, loss[1];
    int32_t keep[] = {1, 2, 2, 2};
    Tensor in[] = {F64(src, 2, 2, 2, 1), F64(target, 2, 2, 2, 1), I32(keep, 2, 2)};
    RUN(OP_MSE, ((OpAttr){.mse = {2}}), in, ((Tensor[]){F64(loss, 1)}));
    expect_near(loss, (double[]){2 * ((1 + 4) / 2.0 + 1) / 2}, 1, 1e-15);
}

/* One image, two prompts, three candidates; targets in soft runs of every kind, and their dense
 * form. */
enum { S = 4, LOW = 2, PROMPTS = 2, CANDIDATES = 3, CELLS = PROMPTS * CANDIDATES, CAPACITY = 64 };

typedef struct MaskCase {
    double logits[CELLS * LOW * LOW];
    float dense[PROMPTS][S][S];
    uint32_t words[CAPACITY];
    int32_t rows[PROMPTS][S + 1];
    int32_t mode[1];
} MaskCase;

static void make_mask_case(MaskCase *c, int32_t mode)
{
    static const float prompt0[S][S] = {{0}, {0, 0.25f, 1, 1}, {0.5f, 1, 1, 0.75f}, {1, 1, 1, 1}};
    int64_t used = 0;
    *c = (MaskCase){.mode = {mode}};
    fill_random(c->logits, COUNT(c->logits), 6);
    memcpy(c->dense[0], prompt0, sizeof prompt0);
    c->dense[1][2][3] = 1;
    for (int m = 0; m < PROMPTS; m++)
        for (int y = 0; y < S; y++) {
            c->rows[m][y] = (int32_t)used;
            used += soft_runs_encode_row(c->dense[m][y], S, c->words + used, CAPACITY - used);
            c->rows[m][y + 1] = (int32_t)used;
        }
}

#define MASK_SOURCES(c)                                                               \
    F64((c)->logits, 1, PROMPTS, CANDIDATES, LOW, LOW), I32((c)->words, 1, CAPACITY), \
        I32((c)->rows, 1, PROMPTS, S + 1), I32((c)->mode, 1)

/* Bilinear 2 -> 4 by its known weights: outputs at -0.25 (clamped), 0.25, 0.75, 1.25 (clamped). */
static double dense_logit(const MaskCase *c, int cell, int y, int x)
{
    static const double second[S] = {0, 0.25, 0.75, 1};
    const double *z = c->logits + cell * LOW * LOW;
    double top = z[0] * (1 - second[x]) + z[1] * second[x];
    double bottom = z[2] * (1 - second[x]) + z[3] * second[x];
    return top * (1 - second[y]) + bottom * second[y];
}

static void naive_focal_dice(const MaskCase *c, int cell, double terms[2], double sums[2])
{
    double focal = 0, product = 0, total = 0;
    for (int y = 0; y < S; y++)
        for (int x = 0; x < S; x++) {
            double p = 1 / (1 + exp(-dense_logit(c, cell, y, x))),
                   t = c->dense[cell / CANDIDATES][y][x];
            double cross_entropy = -t * log(p) - (1 - t) * log(1 - p);
            double hit = p * t + (1 - p) * (1 - t), alpha = 0.25 * t + 0.75 * (1 - t);
            focal += alpha * (1 - hit) * (1 - hit) * cross_entropy;
            product += p * t;
            total += p + t;
        }
    terms[0] = focal / (S * S);
    terms[1] = 1 - (2 * product + 1) / (total + 1);
    sums[0] = 2 * product + 1;
    sums[1] = total + 1;
}

static const OpAttr focal_attr = {.focal_dice = {.alpha = 0.25, .gamma = 2, .size = S}};

Test(ref_loss, focal_dice_equals_the_dense_formula)
{
    for (int mode = 0; mode <= 1; mode++) {
        MaskCase c;
        double terms[2 * CELLS], sums[2 * CELLS];
        make_mask_case(&c, mode);
        RUN(OP_FOCAL_DICE, focal_attr, ((Tensor[]){MASK_SOURCES(&c)}),
            ((Tensor[]){F64(terms, 1, PROMPTS, CANDIDATES, 2),
                        F64(sums, 1, PROMPTS, CANDIDATES, 2)}));
        for (int cell = 0; cell < CELLS; cell++) {
            double wanted_terms[2] = {0, 0}, wanted_sums[2] = {1, 1};
            bool active = (cell % CANDIDATES == 0) == (mode == 0);
            if (active) naive_focal_dice(&c, cell, wanted_terms, wanted_sums);
            expect_near(&terms[2 * cell], wanted_terms, 2, 1e-12);
            expect_near(&sums[2 * cell], wanted_sums, 2, 1e-12);
        }
    }
}

/* Huge logits of the right and of the wrong sign give finite terms and gradients. */
Test(ref_loss, focal_dice_is_stable)
{
    MaskCase c;
    double terms[2 * CELLS], sums[2 * CELLS], dterms[2 * CELLS], dlogits[CELLS * LOW * LOW];
    make_mask_case(&c, 1);
    for (int64_t i = 0; i < COUNT(c.logits); i++) c.logits[i] *= 1e4;
    for (int i = 0; i < 2 * CELLS; i++) dterms[i] = 1;
    RUN(OP_FOCAL_DICE, focal_attr, ((Tensor[]){MASK_SOURCES(&c)}),
        ((Tensor[]){F64(terms, 1, PROMPTS, CANDIDATES, 2), F64(sums, 1, PROMPTS, CANDIDATES, 2)}));
    RUN(OP_FOCAL_DICE_GRAD, focal_attr,
        ((Tensor[]){MASK_SOURCES(&c), F64(sums, 1, PROMPTS, CANDIDATES, 2),
                    F64(dterms, 1, PROMPTS, CANDIDATES, 2)}),
        ((Tensor[]){F64(dlogits, 1, PROMPTS, CANDIDATES, LOW, LOW)}));
    for (int i = 0; i < 2 * CELLS; i++) cr_assert(isfinite(terms[i]) && isfinite(sums[i]));
    for (int64_t i = 0; i < COUNT(dlogits); i++) cr_assert(isfinite(dlogits[i]));
}

/* Against central differences of the naive formula; a candidate with dterms 0 gets nothing. */
Test(ref_loss, focal_dice_grad_of_soft_targets)
{
    enum { CELL = 2, IDLE = 1 };
    MaskCase c;
    double terms[2], sums[2 * CELLS] = {0}, dterms[2 * CELLS] = {0}, dlogits[CELLS * LOW * LOW];
    make_mask_case(&c, 1);
    naive_focal_dice(&c, CELL, terms, &sums[2 * CELL]);
    dterms[2 * CELL] = 20;
    dterms[2 * CELL + 1] = 0.7;
    RUN(OP_FOCAL_DICE_GRAD, focal_attr,
        ((Tensor[]){MASK_SOURCES(&c), F64(sums, 1, PROMPTS, CANDIDATES, 2),
                    F64(dterms, 1, PROMPTS, CANDIDATES, 2)}),
        ((Tensor[]){F64(dlogits, 1, PROMPTS, CANDIDATES, LOW, LOW)}));
    for (int i = 0; i < LOW * LOW; i++) {
        double *z = &c.logits[CELL * LOW * LOW + i], keep = *z, up[2], down[2], unused[2];
        *z = keep + 1e-5;
        naive_focal_dice(&c, CELL, up, unused);
        *z = keep - 1e-5;
        naive_focal_dice(&c, CELL, down, unused);
        *z = keep;
        double wanted = (20 * (up[0] - down[0]) + 0.7 * (up[1] - down[1])) / 2e-5;
        expect_near(&dlogits[CELL * LOW * LOW + i], &wanted, 1, 1e-8);
        expect_near(&dlogits[IDLE * LOW * LOW + i], (double[]){0}, 1, 0);
    }
}

/* A point on a pixel's centre reads that pixel, one at the image's corner a quarter of the corner
 * pixel. */
Test(ref_loss, bce_dice_points_read_with_zero_padding)
{
    MaskCase c;
    double terms[2 * CELLS], sums[2 * CELLS], points[CELLS * 2 * 2] = {0};
    make_mask_case(&c, 0);
    double *point = points; /* of cell 0 */
    point[0] = 3.5 / S;     /* x = 3, y = 2: the target is 0.75 */
    point[1] = 2.5 / S;
    point[2] = 1; /* the corner beyond x = 3, y = 3: the target is 1 / 4 */
    point[3] = 1;
    RUN(OP_BCE_DICE_POINTS, ((OpAttr){.bce_dice_points = {S}}),
        ((Tensor[]){MASK_SOURCES(&c), F64(points, 1, PROMPTS, CANDIDATES, 2, 2)}),
        ((Tensor[]){F64(terms, 1, PROMPTS, CANDIDATES, 2), F64(sums, 1, PROMPTS, CANDIDATES, 2)}));
    double x[2] = {dense_logit(&c, 0, 2, 3), dense_logit(&c, 0, 3, 3) / 4}, t[2] = {0.75, 0.25};
    double bce = 0, product = 0, total = 0;
    for (int i = 0; i < 2; i++) {
        double p = 1 / (1 + exp(-x[i]));
        bce -= (t[i] * log(p) + (1 - t[i]) * log(1 - p)) / 2;
        product += p * t[i];
        total += p + t[i];
    }
    expect_near(terms, (double[]){bce, 1 - (2 * product + 1) / (total + 1), 0, 0}, 4, 1e-12);
    expect_near(sums, (double[]){2 * product + 1, total + 1, 1, 1}, 4, 1e-12);
}

/* A ramp z = x: the points kept are those nearest to the line z = 0, in the order they were drawn.
 */
Test(ref_loss, point_sample_keeps_the_unsure_points)
{
    enum { P = 8, DRAWN = 24, KEPT = 6 };
    double logits[LOW * LOW] = {-1, 1, -1, 1}, points[P * 2];
    int32_t key_words[] = {-5, 77};
    RngKey key = {.seed = ((uint64_t)77 << 32) | 0xFFFFFFFBu, .purpose = RNG_LOSS_POINTS};
    RUN(OP_POINT_SAMPLE,
        ((OpAttr){
            .point_sample = {.size = LOW, .n_points = P, .oversample = 3, .importance = 0.75}}),
        ((Tensor[]){F64(logits, 1, 1, 1, LOW, LOW), I32(key_words, 1, 1, 2)}),
        ((Tensor[]){F64(points, 1, 1, 1, P, 2)}));
    double magnitude[DRAWN];
    int taken = 0;
    for (int i = 0; i < DRAWN; i++) {
        /* zero-padded bilinear reading of a map of 2x2: a hat function around each pixel centre */
        double u = rng_uniform(key, 2 * (uint64_t)i) * 2 - 0.5,
               v = rng_uniform(key, 2 * (uint64_t)i + 1) * 2 - 0.5;
        magnitude[i] = fabs(fmax(1 - fabs(u - 1), 0) - fmax(1 - fabs(u), 0)) *
                       (fmax(1 - fabs(v), 0) + fmax(1 - fabs(v - 1), 0));
    }
    for (int i = 0; i < DRAWN; i++) {
        int smaller = 0;
        for (int j = 0; j < DRAWN; j++) smaller += magnitude[j] < magnitude[i];
        if (smaller >= KEPT) continue;
        cr_assert_eq(points[2 * taken], rng_uniform(key, 2 * (uint64_t)i));
        cr_assert_eq(points[2 * taken++ + 1], rng_uniform(key, 2 * (uint64_t)i + 1));
    }
    cr_assert_eq(taken, KEPT);
    for (int i = 0; i < 2 * (P - KEPT); i++)
        cr_assert_eq(points[2 * KEPT + i], rng_uniform(key, 2 * DRAWN + (uint64_t)i));
}

Test(ref_loss, min_candidate_takes_the_first_of_equals)
{
    double terms[] = {0, 0, 1, 2, 0.5, 12, 2, 1, /* prompt 1 */ 0, 0, 1, 0, 3, 0, 1, 0};
    double weight[] = {0.5, 0.25}, loss[1], candidates[8], dloss[] = {3}, dterms[16];
    int32_t mode[] = {1}, best[2];
    CandidateAttr attr = {.mask_weight = 20, .dice_weight = 1};
    RUN(OP_MIN_CANDIDATE, (OpAttr){.min_candidate = attr},
        ((Tensor[]){F64(terms, 1, 2, 4, 2), I32(mode, 1), F64(weight, 1, 2)}),
        ((Tensor[]){F64(loss, 1), F64(candidates, 1, 2, 4), I32(best, 1, 2)}));
    expect_near(candidates, (double[]){0, 22, 22, 41, 0, 20, 60, 20}, 8, 0);
    cr_assert_eq(best[0], 1);
    cr_assert_eq(best[1], 1);
    expect_near(loss, (double[]){0.5 * 22 + 0.25 * 20}, 1, 0);
    RUN(OP_MIN_CANDIDATE_GRAD, (OpAttr){.min_candidate_grad = attr},
        ((Tensor[]){F64(candidates, 1, 2, 4), F64(weight, 1, 2), I32(best, 1, 2), F64(dloss, 1)}),
        ((Tensor[]){F64(dterms, 1, 2, 4, 2)}));
    expect_near(dterms, (double[]){0, 0, 30, 1.5, 0, 0, 0, 0, 0, 0, 15, 0.75, 0, 0, 0, 0}, 16, 0);
}
