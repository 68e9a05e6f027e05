/* Reverse-mode differentiation as a function from graph to graph.
 *
 * Walks the program of each region backwards and asks the gradient rule of every node on a path
 * from a wanted value to the loss for new nodes, which go to the end of the node's region.
 * Contributions to a value of the same region are added there; contributions to a value of an
 * enclosing region are first added up within the iteration and then accumulated over the iterations
 * (graph_accumulate), which gives one contribution in the parent region.
 *
 * Called by train/ through passes.h, and by the gradient checks.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "autograd/passes.h"
#include "autograd/rules.h"
#include "base/memory.h"

typedef struct Level { /* gradients gathered so far inside one region, by forward value */
    struct Level *outer;
    RegionId region;
    ValueId *gradient;
} Level;

typedef struct Differentiation {
    Graph *graph;
    int n_values;   /* forward values: those that existed before */
    bool *required; /* by forward value: a wanted value is among its ancestors */
} Differentiation;

/* ---- which values matter ---- */

static void mark_node(Differentiation *d, const Node *node)
{
    bool any = false;
    if (op_info(node->op)->flags & OP_FLAG_STOP) return;
    for (int i = 0; i < node->n_src; i++)
        any |= node->src[i] != VALUE_NONE && d->required[node->src[i]];
    if (!any) return;
    for (int i = 0; i < node->n_dst; i++) d->required[node->dst[i]] = true;
}

static void mark_region(Differentiation *d, RegionId region)
{
    const Region *r = &d->graph->regions[region];
    for (int i = 0; i < r->n_items; i++) {
        if (r->items[i].is_region)
            mark_region(d, r->items[i].id);
        else if (!d->graph->nodes[r->items[i].id].dead)
            mark_node(d, &d->graph->nodes[r->items[i].id]);
    }
}

/* ---- contributions ---- */

static void contribute(Differentiation *d, Level *level, ValueId value, ValueId gradient)
{
    ValueId *sum = &level->gradient[value];
    *sum = *sum == VALUE_NONE ? gradient : graph_op(d->graph, OP_ADD, NO_ATTR, SRC(*sum, gradient));
}

/* A source that was broadcast gets the sum of its gradient over the stretched axes: the one place.
 */
static ValueId unbroadcast(Graph *graph, ValueId gradient, Shape shape)
{
    if (gradient == VALUE_NONE || shape_equal(graph->values[gradient].shape, shape))
        return gradient;
    return graph_op(graph, OP_REDUCE_SUM, ATTR(reduce_sum, .shape = shape), SRC(gradient));
}

static ValueId gradient_of(const Level *level, ValueId value, RegionId owner)
{
    while (level->region != owner)
        level = level->outer; /* only ACCUM writes to an enclosing region */
    return level->gradient[value];
}

/* ---- one node ---- */

static bool declared_need(const char *needs, char kind, int index)
{
    for (; *needs; needs += 2)
        if (needs[0] == kind && needs[1] == '0' + index) return true;
    return false;
}

/* What a rule reads of the forward pass stays alive; the row's `needs` must say so. */
static void check_needs(const Graph *graph, OpId op, const GradCall *call, NodeId first_new)
{
    const char *needs = op_info(op)->needs;
    for (NodeId n = first_new; n < graph->n_nodes; n++)
        for (int s = 0; s < graph->nodes[n].n_src; s++) {
            ValueId read = graph->nodes[n].src[s];
            bool is_gradient = false, is_operand = false, declared = false;
            for (int i = 0; i < call->n_dst; i++) is_gradient |= read == call->ddst[i];
            for (int i = 0; i < call->n_src; i++)
                if (read == call->src[i])
                    is_operand = true, declared |= declared_need(needs, 's', i);
            for (int i = 0; i < call->n_dst; i++)
                if (read == call->dst[i])
                    is_operand = true, declared |= declared_need(needs, 'd', i);
            assert(read == VALUE_NONE || is_gradient || !is_operand || declared);
        }
}

static void differentiate_node(Differentiation *d, Level *level, NodeId id)
{
    Graph *graph = d->graph;
    Node node = graph->nodes[id]; /* a copy: the array grows below */
    GradCall call = {.graph = graph, .attr = &node.attr, .n_src = node.n_src, .n_dst = node.n_dst};
    bool reached = false, wanted = false;
    for (int i = 0; i < node.n_dst; i++) {
        call.dst[i] = node.dst[i];
        call.ddst[i] = gradient_of(level, node.dst[i], graph->values[node.dst[i]].region);
        reached |= call.ddst[i] != VALUE_NONE;
    }
    for (int i = 0; i < node.n_src; i++) {
        call.src[i] = node.src[i];
        call.need[i] = node.src[i] != VALUE_NONE && d->required[node.src[i]] &&
                       dtype_is_float(graph->values[node.src[i]].dtype);
        wanted |= call.need[i];
    }
    if (!reached || !wanted) return;
    int mark = graph_label_push(graph, "%s", node.label);
    NodeId first_new = graph->n_nodes;
    Status status = rules_gradient(node.op, &call);
    if (status != OK && graph->status == OK) graph->status = status;
    if (graph->status == OK) check_needs(graph, node.op, &call, first_new);
    for (int i = 0; i < node.n_src && graph->status == OK; i++) {
        if (!call.need[i] || call.dsrc[i] == VALUE_NONE) continue;
        contribute(d, level, node.src[i],
                   unbroadcast(graph, call.dsrc[i], graph->values[node.src[i]].shape));
    }
    graph_label_pop(graph, mark);
}

/* ---- regions ---- */

static void differentiate_region(Differentiation *d, Level *level);

static void differentiate_loop(Differentiation *d, Level *level, RegionId child)
{
    Graph *graph = d->graph;
    RegionId floor = graph->floor;
    Level inner = {.outer = level,
                   .region = child,
                   .gradient = mem_alloc((size_t)d->n_values * sizeof(ValueId))};
    graph->floor = child;
    differentiate_region(d, &inner);
    for (ValueId v = 1; v < d->n_values && graph->status == OK; v++) {
        if (inner.gradient[v] == VALUE_NONE || graph->values[v].region == child) continue;
        graph->floor = child;
        ValueId in_loop = inner.gradient[v];
        assert(graph->values[in_loop].region == child);
        ValueId sum = graph_accumulate(graph, in_loop);
        graph->floor = floor;
        contribute(d, level, v, sum);
    }
    graph->floor = floor;
    free(inner.gradient);
}

static void differentiate_region(Differentiation *d, Level *level)
{
    int n_items = d->graph->regions[level->region].n_items;
    Item *items = mem_alloc((size_t)n_items *
                            sizeof(Item)); /* a copy: backward nodes are appended */
    memcpy(items, d->graph->regions[level->region].items, (size_t)n_items * sizeof(Item));
    for (int i = n_items - 1; i >= 0 && d->graph->status == OK; i--) {
        if (items[i].is_region)
            differentiate_loop(d, level, items[i].id);
        else if (!d->graph->nodes[items[i].id].dead)
            differentiate_node(d, level, items[i].id);
    }
    free(items);
}

void pass_differentiate(Graph *graph, ValueId loss, ValueId seed, int n_wanted,
                        const ValueId *wanted, ValueId *gradient)
{
    memset(gradient, 0, (size_t)n_wanted * sizeof *gradient);
    if (graph->status != OK) return;
    assert(graph->values[loss].region == REGION_STEP &&
           shape_elems(graph->values[loss].shape) == 1);
    graph->backward = true;
    const Value *of = &graph->values[loss];
    if (seed == VALUE_NONE) seed = graph_filled_at(graph, REGION_STEP, 0, of->dtype, of->shape, 1);
    Differentiation d = {.graph = graph,
                         .n_values = graph->n_values,
                         .required = mem_alloc((size_t)graph->n_values * sizeof(bool))};
    for (int i = 0; i < n_wanted; i++) d.required[wanted[i]] = true;
    mark_region(&d, REGION_STEP);
    Level level = {.region = REGION_STEP,
                   .gradient = mem_alloc((size_t)d.n_values * sizeof(ValueId))};
    level.gradient[loss] = seed;
    differentiate_region(&d, &level);
    graph->backward = false;
    for (int i = 0; i < n_wanted && graph->status == OK; i++)
        gradient[i] = level.gradient[wanted[i]];
    free(level.gradient);
    free(d.required);
}
