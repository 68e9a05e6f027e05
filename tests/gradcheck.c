/* Central differences against gradient rules. See gradcheck.h.
 *
 * Step and tolerance. A central difference errs by h^2 f'''/6 from truncation and by about eps |f|
 * / h from rounding; both are equal near h = eps^(1/3) = 6e-6, where truncation is 6e-12 f'''. The
 * tolerance is 1e-6 of the largest gradient of the source, which admits third derivatives 1e5 times
 * as large as the first, plus the rounding of the very differences that were summed, and for cases
 * whose gradients cancel to nearly 0 the rounding of their terms. Nothing in it comes from results.
 */
#include "tests/gradcheck.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

#define STEP 6e-6      /* of max(1, |x|) */
#define RELATIVE 1e-6  /* of the largest gradient of the source */
#define ROUNDINGS 16.0 /* roundings of eps that a result in f64 may have gone through */

enum { MAX_SAMPLES = 200, MIN_SAMPLES = 12 };
static const int64_t work_budget = 100000000; /* multiply-adds a source may cost */

typedef struct Difference {
    double slope, noise;
    bool kink;
} Difference;

/* ---- kinks ---- */

static Activation activation_of(const OpCase *c)
{
    switch (c->op) {
    case OP_ACT: return c->attr.act.kind;
    case OP_BATCHNORM: return c->attr.batchnorm.act;
    case OP_BATCHNORM_FROZEN: return c->attr.batchnorm_frozen.act;
    case OP_LAYERNORM: return c->attr.layernorm.act;
    default: return ACT_NONE;
    }
}

/* A result that crosses a corner of the activation between the two sides of the difference. */
static bool crosses_corner(Activation act, double low, double high)
{
    bool leaves_zero = (low == 0) != (high == 0);
    if (act == ACT_RELU) return leaves_zero;
    return act == ACT_HARDSWISH && (leaves_zero || (low < 3) != (high < 3));
}

/* q and k go through ReLU, v does not. */
static bool at_relu_corner(const OpCase *c, int64_t index, double x, double h)
{
    int64_t head_dim = c->attr.linear_attention.head_dim;
    return index % (3 * head_dim) < 2 * head_dim && fabs(x) <= h;
}

/* Another candidate that takes part is as cheap within the step. */
static bool at_switch(const OpBench *bench, int64_t index, double h)
{
    CandidateAttr attr = bench->op_case->attr.min_candidate;
    const double *terms = bench->values[bench->src[0]].data;
    int32_t mode = *(const int32_t *)bench->values[bench->src[1]].data;
    int64_t n = bench->op_case->src[0].shape.dim[2], own = index / 2, first = own - own % n;
    if (mode == 0 || own == first) return false;
    double own_cost = attr.mask_weight * terms[2 * own] + attr.dice_weight * terms[2 * own + 1];
    for (int64_t other = first + 1; other < first + n; other++) {
        double cost = attr.mask_weight * terms[2 * other] + attr.dice_weight * terms[2 * other + 1];
        if (other != own && fabs(cost - own_cost) <= 2 * h * (attr.mask_weight + attr.dice_weight))
            return true;
    }
    return false;
}

static bool at_kink(const OpBench *bench, int64_t index, double x, double h)
{
    if (bench->op_case->op == OP_LINEAR_ATTENTION)
        return at_relu_corner(bench->op_case, index, x, h);
    if (bench->op_case->op == OP_MIN_CANDIDATE) return at_switch(bench, index, h);
    return false;
}

/* ---- differences ---- */

typedef struct Probe {
    OpBench *bench;
    const double *cotangent;
    double *high; /* dst 0 at x + h */
    int64_t n_dst;
    const double *healthy; /* gradient of the source without the mutator; NULL if there is none */
} Probe;

static Difference compare_sides(const Probe *probe, double width)
{
    const double *low = probe->bench->values[probe->bench->dst[0]].data, *high = probe->high;
    Activation act = activation_of(probe->bench->op_case);
    Difference difference = {0};
    for (int64_t i = 0; i < probe->n_dst; i++) {
        if (high[i] == low[i]) continue;
        difference.kink |= crosses_corner(act, low[i], high[i]);
        difference.slope += probe->cotangent[i] * (high[i] - low[i]);
        difference.noise += fabs(probe->cotangent[i]) * (fabs(high[i]) + fabs(low[i]));
    }
    difference.slope /= width;
    difference.noise *= ROUNDINGS * DBL_EPSILON / width;
    return difference;
}

static Status differentiate(const Probe *probe, int src, int64_t index, Difference *out)
{
    OpBench *bench = probe->bench;
    double *x = (double *)bench->values[bench->src[src]].data + index, old = *x;
    double h = STEP * fmax(1, fabs(old));
    if (at_kink(bench, index, old, h)) {
        *out = (Difference){.kink = true};
        return OK;
    }
    volatile double above = old + h, below = old - h; /* what is stored, not what was meant */
    *x = above;
    TRY(bench_run_forward(bench));
    memcpy(probe->high, bench->values[bench->dst[0]].data, (size_t)probe->n_dst * sizeof(double));
    *x = below;
    TRY(bench_run_forward(bench));
    *out = compare_sides(probe, above - below);
    *x = old;
    return OK;
}

/* ---- one source ---- */

static double largest(const double *values, int64_t n)
{
    double max = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, fabs(values[i]));
    return max;
}

static bool differs(const double *gradient, const double *healthy, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (healthy && gradient[i] != healthy[i]) return true;
    return false;
}

static int64_t sample_count(const OpBench *bench, int64_t n)
{
    const Node *node = &bench->graph->nodes[bench->forward];
    Tensor src[OP_MAX_SRC], dst[OP_MAX_DST];
    for (int i = 0; i < node->n_src; i++) src[i] = bench->values[node->src[i]];
    for (int i = 0; i < node->n_dst; i++) dst[i] = bench->values[node->dst[i]];
    int64_t work = op_work(node->op, &node->attr, src, node->n_src, dst);
    int64_t affordable = work_budget / (2 * work + 1);
    if (affordable > MAX_SAMPLES) affordable = MAX_SAMPLES;
    if (affordable < MIN_SAMPLES) affordable = MIN_SAMPLES;
    return n < affordable ? n : affordable;
}

static void judge(const OpBench *bench, int src, int64_t index, double rule,
                  const Difference *difference, double scale, GradReport *report)
{
    if (difference->kink) {
        report->n_skipped++;
        return;
    }
    report->n_checked++;
    double tolerance = RELATIVE * scale + difference->noise +
                       ROUNDINGS * DBL_EPSILON * bench->op_case->term_magnitude;
    double error = fabs(rule - difference->slope);
    if (error > 0) report->worst = fmax(report->worst, error / tolerance);
    if (error <= tolerance) return; /* false for NaN, too */
    if (report->n_wrong++ == 0)
        snprintf(report->first_wrong, sizeof report->first_wrong,
                 "%s \"%s\": source %d, element %lld: rule %.12g, difference %.12g, tolerance %.2g",
                 op_info(bench->op_case->op)->name, bench->op_case->name, src, (long long)index,
                 rule, difference->slope, tolerance);
}

static Status check_source(const Probe *probe, int src, GradReport *report)
{
    OpBench *bench = probe->bench;
    int64_t n = shape_elems(bench->op_case->src[src].shape), n_samples = sample_count(bench, n);
    double *gradient = mem_alloc((size_t)n * sizeof(double));
    memcpy(gradient, bench->values[bench->gradient[src]].data, (size_t)n * sizeof(double));
    if (bench->mutator && bench->mutator->change_gradient)
        bench->mutator->change_gradient(gradient, n);
    report->mutated |= differs(gradient, probe->healthy, n);
    double scale = largest(gradient, n);
    RngKey key = {.seed = 1, .purpose = RNG_TEST, .epoch = (uint32_t)src};
    Status status = OK;
    for (int64_t k = 0; k < n_samples; k++) {
        int64_t index = n == n_samples ? k : (int64_t)rng_permute(key, (uint64_t)k, (uint64_t)n);
        Difference difference;
        TRY_GOTO(differentiate(probe, src, index, &difference), done);
        judge(bench, src, index, gradient[index], &difference, scale, report);
        if (bench->mutator && report->n_wrong) break;
    }
done:
    free(gradient);
    return status;
}

static Status open_and_run(const OpCase *op_case, const GradientMutator *mutator, int mutated_src,
                           OpBench **bench)
{
    TRY(bench_open(op_case, mutator, mutated_src, bench));
    return bench_run(*bench);
}

Status gradcheck_case(const OpCase *op_case, const GradientMutator *mutator, int mutated_src,
                      GradReport *report)
{
    Status status;
    Probe probe = {0};
    OpBench *healthy = NULL;
    double *cotangent = NULL;
    TRY_GOTO(open_and_run(op_case, mutator, mutated_src, &probe.bench), done);
    if (mutator) {
        TRY_GOTO(open_and_run(op_case, NULL, 0, &healthy), done);
        probe.healthy = healthy->values[healthy->gradient[mutated_src]].data;
    }
    probe.n_dst = shape_elems(probe.bench->values[probe.bench->dst[0]].shape);
    probe.high = mem_alloc((size_t)probe.n_dst * sizeof(double));
    probe.cotangent = cotangent = mem_alloc((size_t)probe.n_dst * sizeof(double));
    op_case_cotangent(op_case, probe.n_dst, cotangent);
    for (int i = 0; i < OP_MAX_SRC; i++)
        if (op_case_trains(op_case, i) && (!mutator || i == mutated_src))
            TRY_GOTO(check_source(&probe, i, report), done);
done:
    free(cotangent);
    free(probe.high);
    bench_close(probe.bench);
    bench_close(healthy);
    return status;
}
