/* A bench for ops. See op_bench.h. */
#include "tests/op_bench.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- building ---- */

static DType widened(DType dtype) { return dtype == DT_F32 ? DT_F64 : dtype; }

static ValueId add_input(OpBench *bench, const char *side, int index, const CaseOperand *operand)
{
    char name[16];
    if (operand->dtype == DT_NONE) return VALUE_NONE;
    snprintf(name, sizeof name, "%s%d", side, index);
    return graph_input(bench->graph, name, widened(operand->dtype), operand->shape);
}

static bool has_old_destinations(OpId op)
{
    OpOperand operand;
    return op_dst(op, 0, &operand) && operand.mutated;
}

static void build_forward(OpBench *bench)
{
    const OpCase *c = bench->op_case;
    Graph *graph = bench->graph;
    int n_src = op_case_n_src(c), n_dst = op_n_dst(c->op);
    for (int i = 0; i < n_src; i++) bench->src[i] = add_input(bench, "src", i, &c->src[i]);
    bench->forward = graph->n_nodes;
    if (has_old_destinations(c->op)) {
        for (int i = 0; i < n_dst; i++) bench->dst[i] = add_input(bench, "dst", i, &c->dst[i]);
        graph_mutate(graph, c->op, c->attr, REGION_STEP, n_src, bench->src, n_dst, bench->dst);
        return;
    }
    ValueId first = graph_op(graph, c->op, c->attr, n_src, bench->src);
    for (int i = 0; i < n_dst; i++) bench->dst[i] = graph_dst(graph, first, i);
}

/* The caller's part of a gradient: sums over the axes that were broadcast. */
static ValueId to_shape_of(Graph *graph, ValueId gradient, ValueId src)
{
    Shape shape = graph_value(graph, src)->shape;
    if (shape_equal(graph_value(graph, gradient)->shape, shape)) return gradient;
    return graph_op(graph, OP_REDUCE_SUM, ATTR(reduce_sum, .shape = shape), SRC(gradient));
}

static GradCall gradient_call(const OpBench *bench)
{
    const Node *node = &bench->graph->nodes[bench->forward];
    GradCall call = {.graph = bench->graph,
                     .attr = &bench->op_case->attr,
                     .n_src = node->n_src,
                     .n_dst = node->n_dst};
    memcpy(call.src, bench->src, sizeof call.src);
    memcpy(call.dst, bench->dst, sizeof call.dst);
    call.ddst[0] = bench->cotangent;
    for (int i = 0; i < call.n_src; i++) call.need[i] = op_case_trains(bench->op_case, i);
    return call;
}

static Status build_backward(OpBench *bench, int mutated_src)
{
    Graph *graph = bench->graph;
    const Value *dst = graph_value(graph, bench->dst[0]);
    bench->cotangent = graph_input(graph, "cotangent", dst->dtype, dst->shape);
    GradCall call = gradient_call(bench);
    TRY(rules_gradient(bench->op_case->op, &call));
    if (bench->mutator && bench->mutator->change_rule)
        bench->mutator->change_rule(&call, mutated_src);
    for (int i = 0; i < call.n_src; i++) {
        if (!call.need[i]) continue;
        if (call.dsrc[i] == VALUE_NONE)
            return status_fail(E_UNSUPPORTED, "%s: the rule gives no gradient of source %d",
                               op_info(bench->op_case->op)->name, i);
        bench->gradient[i] = to_shape_of(graph, call.dsrc[i], bench->src[i]);
    }
    return graph->status;
}

/* Views share the memory of their source; one view of a view points at the same memory, too. */
static void allocate_values(OpBench *bench)
{
    const Graph *graph = bench->graph;
    bench->n_values = graph->n_values;
    bench->values = mem_alloc((size_t)graph->n_values * sizeof(Tensor));
    for (ValueId v = 1; v < graph->n_values; v++) {
        const Value *value = graph_value(graph, v);
        bench->values[v] = (Tensor){.dtype = value->dtype, .shape = value->shape};
        bench->values[v].data = value->kind == VALUE_VIEW
                                    ? bench->values[value->base].data
                                    : mem_alloc(tensor_bytes(&bench->values[v]) + 1);
    }
}

Status bench_open(const OpCase *op_case, const GradientMutator *mutator, int mutated_src,
                  OpBench **out)
{
    OpBench *bench = mem_alloc(sizeof *bench);
    bench->mutator = mutator;
    *out = bench;
    bench->op_case = op_case;
    bench->graph = graph_create();
    graph_label_push(bench->graph, "%s", op_case->name);
    TRY(backend_open("ref", 1, &bench->ref));
    build_forward(bench);
    TRY(bench->graph->status);
    if (op_case_has_gradient(op_case)) TRY(build_backward(bench, mutated_src));
    allocate_values(bench);
    return OK;
}

void bench_close(OpBench *bench)
{
    if (!bench) return;
    for (ValueId v = 1; v < bench->n_values; v++)
        if (graph_value(bench->graph, v)->kind != VALUE_VIEW) free(bench->values[v].data);
    free(bench->values);
    graph_destroy(bench->graph);
    if (bench->ref) backend_close(bench->ref);
    free(bench);
}

/* ---- running ---- */

static Status run_node(OpBench *bench, NodeId id)
{
    const Node *node = &bench->graph->nodes[id];
    if (op_info(node->op)->flags & OP_FLAG_VIEW) return OK;
    KernelCall call = {.op = node->op,
                       .label = node->label,
                       .attr = &node->attr,
                       .n_src = node->n_src,
                       .n_dst = node->n_dst,
                       .n_threads = 1};
    for (int i = 0; i < node->n_src; i++) call.src[i] = bench->values[node->src[i]];
    for (int i = 0; i < node->n_dst; i++) call.dst[i] = bench->values[node->dst[i]];
    TRY(bench->ref->bind(bench->ref, &call));
    call.scratch = mem_alloc(call.scratch_bytes + 1);
    call.run(&call);
    if (call.release) call.release(call.state);
    free(call.scratch);
    return OK;
}

static void fill_old_destinations(OpBench *bench)
{
    if (!has_old_destinations(bench->op_case->op)) return;
    for (int i = 0; i < op_n_dst(bench->op_case->op); i++)
        op_case_fill_dst(bench->op_case, i, bench->values[bench->dst[i]].data);
}

Status bench_run_forward(OpBench *bench)
{
    fill_old_destinations(bench);
    return run_node(bench, bench->forward);
}

Status bench_run(OpBench *bench)
{
    for (int i = 0; i < OP_MAX_SRC; i++)
        if (bench->src[i] != VALUE_NONE)
            op_case_fill_src(bench->op_case, i, bench->values[bench->src[i]].data);
    if (bench->cotangent != VALUE_NONE) {
        const Tensor *cotangent = &bench->values[bench->cotangent];
        op_case_cotangent(bench->op_case, shape_elems(cotangent->shape), cotangent->data);
    }
    if (bench->mutator && bench->mutator->change_cotangent) {
        const Tensor *cotangent = &bench->values[bench->cotangent];
        bench->mutator->change_cotangent(cotangent->data, shape_elems(cotangent->shape));
    }
    TRY(bench_run_forward(bench));
    for (NodeId n = bench->forward + 1; n < bench->graph->n_nodes; n++) TRY(run_node(bench, n));
    return OK;
}
