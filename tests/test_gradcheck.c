/* Every gradient rule against central differences, one test per op; and the differentiation pass
 * against the rules it applies. tests/mutants.c shows that these checks can fail.
 */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/exec.h"
#include "autograd/passes.h"
#include "base/memory.h"
#include "tests/gradcheck.h"

static void check_op(OpId op)
{
    GradReport report = {0};
    for (int i = 0; i < op_case_count(); i++) {
        if (op_case(i)->op != op) continue;
        Status status = gradcheck_case(op_case(i), NULL, 0, &report);
        cr_assert_eq(status, OK, "%s \"%s\": %s", op_info(op)->name, op_case(i)->name,
                     status_message());
    }
    cr_log_info("%s: %lld elements checked, %lld at kinks, worst error %.2g of its tolerance",
                op_info(op)->name, (long long)report.n_checked, (long long)report.n_skipped,
                report.worst);
    cr_expect_eq(report.n_wrong, 0, "%lld elements, first %s", (long long)report.n_wrong,
                 report.first_wrong);
    cr_expect_gt(report.n_checked, 0, "%s: no element was checked", op_info(op)->name);
    cr_expect_leq(report.n_skipped * 5, report.n_checked, "%s: too many elements at kinks",
                  op_info(op)->name);
}

#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Test(gradcheck, name) { check_op(OP_##ID); }
#define PLAIN(ID, name, Attr, types, flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN

/* ---- every row of the table has a case ---- */

/* Ops that have cases, or that a gradient rule makes from one. */
static void mark_ops(const OpCase *op_case, bool *seen)
{
    OpBench *bench;
    Status status = bench_open(op_case, NULL, 0, &bench);
    cr_assert_eq(status, OK, "%s \"%s\": %s", op_info(op_case->op)->name, op_case->name,
                 status_message());
    for (NodeId n = 0; n < bench->graph->n_nodes; n++) seen[bench->graph->nodes[n].op] = true;
    bench_close(bench);
}

Test(op_cases, every_row_has_one)
{
    bool seen[OP_COUNT] = {false};
    for (int i = 0; i < op_case_count(); i++) mark_ops(op_case(i), seen);
    for (int op = OP_NONE + 1; op < OP_COUNT; op++)
        cr_expect(seen[op], "%s has no case and no gradient rule makes it",
                  op_info((OpId)op)->name);
}

Test(op_cases, names_are_unique_within_an_op)
{
    for (int i = 0; i < op_case_count(); i++)
        for (int j = 0; j < i; j++)
            cr_expect(op_case(i)->op != op_case(j)->op ||
                          strcmp(op_case(i)->name, op_case(j)->name) != 0,
                      "%s has two cases \"%s\"", op_info(op_case(i)->op)->name, op_case(i)->name);
}

/* ---- the pass applies the rules ---- */

typedef struct PassRun {
    Graph *graph;
    ValueId src[OP_MAX_SRC], cotangent;
    ValueId wanted[OP_MAX_SRC], gradient[OP_MAX_SRC];
    int wanted_src[OP_MAX_SRC], n_wanted;
} PassRun;

static ValueId input(Graph *graph, const char *side, int index, const CaseOperand *operand)
{
    char name[16];
    snprintf(name, sizeof name, "%s%d", side, index);
    return operand->dtype == DT_NONE ? VALUE_NONE
                                     : graph_input(graph, name, operand->dtype, operand->shape);
}

/* loss = cotangent . dst 0, differentiated by the pass, widened to f64. */
static void build_loss(PassRun *run, const OpCase *op_case)
{
    Graph *graph = run->graph = graph_create();
    int n_src = op_case_n_src(op_case);
    for (int i = 0; i < n_src; i++) {
        run->src[i] = input(graph, "src", i, &op_case->src[i]);
        if (run->src[i] == VALUE_NONE || !op_case_trains(op_case, i)) continue;
        run->wanted_src[run->n_wanted] = i;
        run->wanted[run->n_wanted++] = run->src[i];
    }
    ValueId dst = graph_op(graph, op_case->op, op_case->attr, n_src, run->src);
    int64_t n = shape_elems(graph_value(graph, dst)->shape);
    run->cotangent = graph_input(graph, "cotangent", DT_F32, SHAPE(n, 1));
    ValueId product = graph_op(graph, OP_MATMUL, NO_ATTR,
                               SRC(graph_reshape(graph, dst, SHAPE(1, n)), run->cotangent));
    ValueId loss = graph_reshape(graph, product, SHAPE(1));
    pass_differentiate(graph, loss, VALUE_NONE, run->n_wanted, run->wanted, run->gradient);
    cr_assert_eq(graph->status, OK, "%s \"%s\": %s", op_info(op_case->op)->name, op_case->name,
                 status_message());
    for (int i = 0; i < run->n_wanted; i++) {
        cr_assert_neq(run->gradient[i], VALUE_NONE);
        graph_output(graph, run->gradient[i], "gradient");
    }
    pass_widen(graph);
    pass_prune(graph);
}

static void write_inputs(Exec *exec, const PassRun *run, const OpBench *bench)
{
    for (int i = 0; i < OP_MAX_SRC; i++)
        if (run->src[i] != VALUE_NONE)
            cr_assert_eq(exec_write(exec, run->src[i], bench->values[bench->src[i]].data), OK);
    cr_assert_eq(exec_write(exec, run->cotangent, bench->values[bench->cotangent].data), OK);
}

/* The same kernels on the same numbers: only the order of sums may differ. */
static void compare_gradient(Exec *exec, const PassRun *run, const OpBench *bench, int which)
{
    int src = run->wanted_src[which];
    int64_t n = shape_elems(bench->op_case->src[src].shape);
    const double *expected = bench->values[bench->gradient[src]].data;
    double *got = mem_alloc((size_t)n * sizeof(double)), scale = 0;
    cr_assert_eq(exec_read(exec, run->gradient[which], got), OK, "%s", status_message());
    for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(expected[i]));
    for (int64_t i = 0; i < n; i++)
        cr_assert_leq(fabs(got[i] - expected[i]), 1e-12 * scale,
                      "%s \"%s\": source %d, element %lld: %.15g, %.15g",
                      op_info(bench->op_case->op)->name, bench->op_case->name, src, (long long)i,
                      got[i], expected[i]);
    free(got);
}

static void check_pass(const OpCase *op_case)
{
    OpBench *bench;
    PassRun run = {0};
    Exec *exec;
    Backend *ref;
    cr_assert_eq(bench_open(op_case, NULL, 0, &bench), OK);
    cr_assert_eq(bench_run(bench), OK);
    build_loss(&run, op_case);
    cr_assert_eq(backend_open("ref", 1, &ref), OK);
    cr_assert_eq(exec_create(run.graph, ref, &exec), OK, "%s", status_message());
    write_inputs(exec, &run, bench);
    cr_assert_eq(exec_run(exec), OK);
    for (int i = 0; i < run.n_wanted; i++) compare_gradient(exec, &run, bench, i);
    exec_destroy(exec);
    backend_close(ref);
    graph_destroy(run.graph);
    bench_close(bench);
}

Test(pass_differentiate, gives_what_the_rules_give)
{
    for (int i = 0; i < op_case_count();
         i++) /* ACCUM ends a loop: tests/test_graph.c differentiates loops */
        if (op_case_has_gradient(op_case(i)) && op_case(i)->op != OP_ACCUM) check_pass(op_case(i));
}
