/* Shows that the gradient check can fail: damages what each gradient rule gives, one source at a
 * time, and demands that the check of that op's cases goes red. Run by `make mutants`; exit status
 * 1 if a mutant survives.
 *
 * The damage is done through bench_open's parameter (op_bench.h), so the library is the one that is
 * shipped.
 */
#include <stdio.h>
#include <string.h>

#include "tests/gradcheck.h"

/* ---- damage to numbers ---- */

static void scale_all(double *gradient, int64_t n, double factor)
{
    for (int64_t i = 0; i < n; i++) gradient[i] *= factor;
}

static void negate(double *gradient, int64_t n) { scale_all(gradient, n, -1); }

static void triple(double *gradient, int64_t n) { scale_all(gradient, n, 3); }

static void forget(double *gradient, int64_t n) { scale_all(gradient, n, 0); }

/* As a stride that is wrong by one reads. */
static void shift(double *gradient, int64_t n)
{
    double first = gradient[0];
    for (int64_t i = 0; i < n; i++) gradient[i] = i + 1 < n ? gradient[i + 1] : first;
}

/* The share of the last destination element is missing. */
static void drop_term(double *cotangent, int64_t n) { cotangent[n - 1] = 0; }

/* ---- damage to graphs ---- */

static void swap_sources(GradCall *call, int src)
{
    if (call->dsrc[src] == VALUE_NONE) return;
    Shape shape = graph_value(call->graph, call->dsrc[src])->shape;
    for (int i = 0; i < call->n_src; i++) {
        ValueId other = call->dsrc[i];
        if (!call->need[i] || other == VALUE_NONE || other == call->dsrc[src]) continue;
        if (!shape_equal(shape, graph_value(call->graph, other)->shape)) continue;
        call->dsrc[i] = call->dsrc[src];
        call->dsrc[src] = other;
        return;
    }
}

/* The first slice along every axis that should have been summed. */
static ValueId first_slices(Graph *graph, ValueId value, Shape wanted)
{
    Shape shape = graph_value(graph, value)->shape;
    for (int axis = 0; axis < shape.rank; axis++) {
        if (shape_dim_from_end(wanted, shape.rank - axis) == shape.dim[axis]) continue;
        value = graph_op(graph, OP_SLICE, ATTR(slice, .axis = axis, .start = 0, .length = 1),
                         SRC(value));
    }
    return graph_reshape(graph, value, wanted);
}

static void skip_sum(GradCall *call, int src)
{
    Graph *graph = call->graph;
    ValueId gradient = call->dsrc[src];
    if (gradient == VALUE_NONE) return;
    NodeId producer = graph_value(graph, gradient)->producer;
    if (producer >= 0 && graph->nodes[producer].op == OP_REDUCE_SUM)
        gradient = graph->nodes[producer].src[0];
    Shape wanted = graph_value(graph, call->src[src])->shape;
    if (shape_equal(graph_value(graph, gradient)->shape, wanted)) return;
    call->dsrc[src] = first_slices(graph, gradient, wanted);
}

static const GradientMutator mutators[] = {
    {.name = "wrong sign", .change_gradient = negate},
    {.name = "factor 3", .change_gradient = triple},
    {.name = "no gradient", .change_gradient = forget},
    {.name = "off by one", .change_gradient = shift},
    {.name = "dropped term", .change_cotangent = drop_term},
    {.name = "swapped inputs", .change_rule = swap_sources},
    {.name = "missing sum", .change_rule = skip_sum},
};
enum { N_MUTATORS = sizeof mutators / sizeof *mutators };

/* ---- verdicts ---- */

typedef enum Verdict { UNCHANGED, KILLED, SURVIVED } Verdict;

/* Killed by the first case that goes red; no mutant at all if no case's gradient changes. A mutant
 * that cannot be run has not been shown to be caught. */
static Verdict run_mutant(OpId op, int src, const GradientMutator *mutator)
{
    Verdict verdict = UNCHANGED;
    for (int i = 0; i < op_case_count(); i++) {
        const OpCase *c = op_case(i);
        if (c->op != op || !op_case_trains(c, src)) continue;
        GradReport report = {0};
        if (gradcheck_case(c, mutator, src, &report) != OK) {
            printf("%s \"%s\": %s\n", op_info(op)->name, c->name, status_message());
            return SURVIVED;
        }
        if (report.n_wrong) return KILLED;
        if (report.mutated) verdict = SURVIVED;
    }
    return verdict;
}

int main(void)
{
    int n_killed = 0, n_survived = 0;
    for (int op = OP_NONE + 1; op < OP_COUNT; op++)
        for (int src = 0; op_info((OpId)op)->differentiable && src < OP_MAX_SRC; src++)
            for (int m = 0; m < N_MUTATORS; m++) {
                Verdict verdict = run_mutant((OpId)op, src, &mutators[m]);
                if (verdict == UNCHANGED) continue;
                printf("%s, source %d, %s: %s\n", op_info((OpId)op)->name, src, mutators[m].name,
                       verdict == KILLED ? "killed" : "SURVIVED");
                n_killed += verdict == KILLED;
                n_survived += verdict == SURVIVED;
            }
    printf("%d passed, %d failed\n", n_killed, n_survived);
    return n_survived > 0;
}
