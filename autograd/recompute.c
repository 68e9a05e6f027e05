/* Recompute: trade memory for time by computing segments of the forward pass again in the backward
 * pass. See passes.h; called by train/ with the module prefixes of `run.recompute`.
 *
 * For each backward node in program order, a source that was made inside a segment is replaced by a
 * clone of its producer placed just in front of the node, recursively back to the segment's inputs,
 * each value cloned once. The originals' last reader is then in the forward pass, so the planner
 * frees them early. Equal kernels on equal inputs give equal bits. State ops (BN_UPDATE) are not
 * backward nodes' sources, so they are never repeated.
 */
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "autograd/passes.h"
#include "base/memory.h"

typedef struct Recompute {
    Graph *graph;
    int n_prefixes;
    const char *const *prefixes;
    ValueId *clone_of; /* by value existing before the pass */
    int n_values;
} Recompute;

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

/* The forward node inside a segment that makes `value` by itself; -1 if it is not to be recomputed.
 */
static NodeId recomputable(const Recompute *r, ValueId value, int *segment)
{
    if (value == VALUE_NONE || value >= r->n_values) return -1;
    const Value *v = &r->graph->values[value];
    if ((v->kind != VALUE_TEMP && v->kind != VALUE_VIEW) || v->producer < 0 || v->output) return -1;
    const Node *node = &r->graph->nodes[v->producer];
    if (node->backward || node->op == OP_FILL) return -1;
    *segment = segment_of(r, node->label);
    return *segment >= 0 ? v->producer : -1;
}

static ValueId clone_value(Recompute *r, ValueId value, int segment, RegionId region, int *index)
{
    int own = -1;
    NodeId id = recomputable(r, value, &own);
    if (id < 0 || own != segment || r->graph->nodes[id].region != region) return value;
    if (r->clone_of[value] != VALUE_NONE) return r->clone_of[value];
    Graph *graph = r->graph;
    Node node = graph->nodes[id];
    for (int s = 0; s < node.n_src; s++)
        node.src[s] = clone_value(r, node.src[s], segment, region, index);
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
    graph_insert_item(graph, region, (*index)++, (Item){.id = clone});
    return r->clone_of[value];
}

static void recompute_region(Recompute *r, RegionId region)
{
    Graph *graph = r->graph;
    for (int i = 0; i < graph->regions[region].n_items; i++) {
        Item item = graph->regions[region].items[i];
        if (item.is_region) recompute_region(r, item.id);
        if (item.is_region || !graph->nodes[item.id].backward || graph->nodes[item.id].dead)
            continue;
        for (int s = 0; s < graph->nodes[item.id].n_src; s++) {
            int segment = -1;
            ValueId src = graph->nodes[item.id].src[s];
            if (recomputable(r, src, &segment) < 0) continue;
            ValueId clone = clone_value(r, src, segment, region, &i);
            graph->nodes[item.id].src[s] = clone;
        }
    }
}

void pass_recompute(Graph *graph, int n_prefixes, const char *const *prefixes)
{
    if (graph->status != OK || n_prefixes == 0) return;
    Recompute r = {.graph = graph,
                   .n_prefixes = n_prefixes,
                   .prefixes = prefixes,
                   .n_values = graph->n_values,
                   .clone_of = mem_alloc((size_t)graph->n_values * sizeof(ValueId))};
    recompute_region(&r, REGION_STEP);
    free(r.clone_of);
}
