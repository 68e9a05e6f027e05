/* Recompute: trade memory for time by computing forward values again in the backward pass. See
 * passes.h; called by train/.
 *
 * For each backward node in program order, a source that is not to be kept is replaced by a clone
 * of its producer placed just in front of the node, and so on back to what is kept, each value
 * cloned once. The originals' last reader is then in the forward pass, so the planner frees them
 * early. Equal kernels on equal inputs give equal bits. State ops (BN_UPDATE) are not backward
 * nodes' sources, so they are never repeated.
 *
 * Two kinds of values are not kept: what an op of the table's REPEAT gives, always; and what is
 * made inside a segment of `run.recompute` and read by no forward node outside of it. So a block's
 * result is kept, and each block is computed again from the one before it.
 */
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "autograd/passes.h"
#include "base/memory.h"

typedef struct Recompute Recompute;

/* What takes the place of `value` as a source in `region`: `value` itself, or a clone that was put
 * in front of item *index, which moves on. */
typedef ValueId Substitute(Recompute *r, ValueId value, RegionId region, int *index);

struct Recompute {
    Graph *graph;
    Substitute *substitute;
    int n_prefixes; /* of segments */
    const char *const *prefixes;
    const bool *leaves; /* by value: read outside of its segment */
    ValueId *clone_of;  /* by value existing before the pass */
    int n_values;
};

/* ---- what both kinds share ---- */

/* The forward node of `region` that makes `value`, which nothing else keeps; -1 if there is none.
 */
static NodeId forward_producer(const Recompute *r, ValueId value, RegionId region)
{
    if (value == VALUE_NONE || value >= r->n_values) return -1;
    const Value *v = &r->graph->values[value];
    if ((v->kind != VALUE_TEMP && v->kind != VALUE_VIEW) || v->producer < 0 || v->output) return -1;
    const Node *node = &r->graph->nodes[v->producer];
    return node->backward || node->region != region ? -1 : v->producer;
}

/* `node` gets destinations of its own, known as clones of the old ones, and its place. */
static void insert_clone(Recompute *r, Node node, int *index)
{
    Graph *graph = r->graph;
    NodeId clone = graph->n_nodes;
    for (int i = 0; i < node.n_dst; i++) {
        Value dst = graph->values[node.dst[i]];
        dst.producer = clone;
        if (dst.kind == VALUE_VIEW) dst.base = graph_base(graph, node.src[0]);
        ValueId copy = graph_new_value(graph, dst);
        r->clone_of[node.dst[i]] = copy;
        node.dst[i] = copy;
    }
    node.backward = true;
    graph->nodes = mem_grow(graph->nodes, &graph->nodes_capacity, graph->n_nodes + 1, sizeof(Node));
    graph->nodes[graph->n_nodes++] = node;
    graph_insert_item(graph, node.region, (*index)++, (Item){.id = clone});
}

/* A view of the old source becomes one of the new. */
static void replace_source(Graph *graph, NodeId id, int source, ValueId value)
{
    Node *node = &graph->nodes[id];
    node->src[source] = value;
    if (op_info(node->op)->flags & OP_FLAG_VIEW)
        graph->values[node->dst[0]].base = graph_base(graph, value);
}

static void substitute_region(Recompute *r, RegionId region)
{
    Graph *graph = r->graph;
    for (int i = 0; i < graph->regions[region].n_items; i++) {
        Item item = graph->regions[region].items[i];
        if (item.is_region) substitute_region(r, item.id);
        if (item.is_region || !graph->nodes[item.id].backward || graph->nodes[item.id].dead)
            continue;
        for (int s = 0; s < graph->nodes[item.id].n_src; s++) {
            ValueId src = graph->nodes[item.id].src[s], other = r->substitute(r, src, region, &i);
            if (other != src) replace_source(graph, item.id, s, other);
        }
    }
}

static void substitute_all(Recompute r)
{
    r.n_values = r.graph->n_values;
    r.clone_of = mem_alloc((size_t)r.n_values * sizeof(ValueId));
    substitute_region(&r, REGION_STEP);
    free(r.clone_of);
}

/* ---- results of ops that are cheap to repeat ---- */

/* Not inside a chunk of masks, whose number is chosen to fit in memory as it is. */
static NodeId repeatable(const Recompute *r, ValueId value, RegionId region)
{
    NodeId id = forward_producer(r, value, region);
    if (id < 0 || r->graph->regions[region].depth > 1) return -1;
    const Node *node = &r->graph->nodes[id];
    int flags = op_info(node->op)->flags;
    if (flags & OP_FLAG_VIEW) return repeatable(r, node->src[0], region) < 0 ? -1 : id;
    return flags & OP_FLAG_REPEAT && value == node->dst[0] ? id : -1;
}

/* What gives dst 0 of `node` again: a batch norm need not take its statistics a second time. */
static Node repetition(Node node)
{
    if (node.op != OP_BATCHNORM) return node;
    node.op = OP_BATCHNORM_FROZEN;
    node.attr = (OpAttr){.batchnorm_frozen = node.attr.batchnorm};
    node.src[node.n_src++] = node.dst[1];
    node.src[node.n_src++] = node.dst[2];
    node.n_dst = 1;
    return node;
}

static ValueId repeat_value(Recompute *r, ValueId value, RegionId region, int *index)
{
    NodeId id = repeatable(r, value, region);
    if (id < 0) return value;
    if (r->clone_of[value] == VALUE_NONE) {
        Node node = repetition(r->graph->nodes[id]);
        node.src[0] = repeat_value(r, node.src[0], region, index);
        insert_clone(r, node, index);
    }
    return r->clone_of[value];
}

/* ---- segments ---- */

/* Segment of a label: index of the prefix that names it or a module above it; -1 if none. */
static int segment_of(const Recompute *r, const char *label)
{
    for (int i = 0; i < r->n_prefixes; i++) {
        size_t n = strlen(r->prefixes[i]);
        if (strncmp(label, r->prefixes[i], n) == 0 && (label[n] == '\0' || label[n] == '.'))
            return i;
    }
    return -1;
}

static bool *values_that_leave(const Recompute *r)
{
    const Graph *graph = r->graph;
    bool *leaves = mem_alloc((size_t)graph->n_values * sizeof(bool));
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const Node *node = &graph->nodes[n];
        if (node->backward || node->dead) continue;
        int segment = segment_of(r, node->label);
        for (int s = 0; s < node->n_src; s++) {
            ValueId src = node->src[s];
            NodeId producer = src == VALUE_NONE ? -1 : graph->values[src].producer;
            if (producer < 0 || segment_of(r, graph->nodes[producer].label) == segment) continue;
            leaves[src] = leaves[graph_base(graph, src)] = true;
        }
    }
    return leaves;
}

/* The node inside a segment that makes `value`; -1 if it is not to be recomputed. Statistics are
 * kept: they are small, and a batch norm is repeated with them. */
static NodeId recomputable(const Recompute *r, ValueId value, RegionId region, int *segment)
{
    NodeId id = forward_producer(r, value, region);
    if (id < 0 || r->leaves[value]) return -1;
    const Node *node = &r->graph->nodes[id];
    if (node->op == OP_FILL || op_info(node->op)->flags & OP_FLAG_KEEP) return -1;
    if (node->op == OP_BATCHNORM && value != node->dst[0]) return -1;
    *segment = segment_of(r, node->label);
    return *segment >= 0 ? id : -1;
}

static ValueId clone_value(Recompute *r, ValueId value, int segment, RegionId region, int *index)
{
    int own = -1;
    NodeId id = recomputable(r, value, region, &own);
    if (id < 0 || own != segment) return value;
    if (r->clone_of[value] != VALUE_NONE) return r->clone_of[value];
    Node node = repetition(r->graph->nodes[id]);
    for (int s = 0; s < node.n_src; s++)
        node.src[s] = clone_value(r, node.src[s], segment, region, index);
    insert_clone(r, node, index);
    return r->clone_of[value];
}

static ValueId recompute_value(Recompute *r, ValueId value, RegionId region, int *index)
{
    int segment = -1;
    if (recomputable(r, value, region, &segment) < 0) return value;
    return clone_value(r, value, segment, region, index);
}

void pass_recompute(Graph *graph, int n_prefixes, const char *const *prefixes)
{
    if (graph->status != OK) return;
    substitute_all((Recompute){.graph = graph, .substitute = repeat_value});
    if (n_prefixes == 0) return;
    Recompute r = {.graph = graph,
                   .substitute = recompute_value,
                   .n_prefixes = n_prefixes,
                   .prefixes = prefixes};
    bool *leaves = values_that_leave(&r);
    r.leaves = leaves;
    substitute_all(r);
    free(leaves);
}
