/* Fusion, widening and pruning: the short passes. See passes.h for what each does and their order.
 * Differentiation, casting and recompute have files of their own.
 */
#include "autograd/passes.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "base/memory.h"

/* ---- fuse ---- */

static bool watched(const Graph *graph, ValueId value)
{
    if (graph->values[value].output) return true;
    for (int i = 0; i < graph->n_modules; i++)
        if (graph->modules[i].value == value) return true;
    return false;
}

static NormAttr *norm_attr(Node *node)
{
    switch (node->op) {
    case OP_BATCHNORM: return &node->attr.batchnorm;
    case OP_BATCHNORM_FROZEN: return &node->attr.batchnorm_frozen;
    case OP_LAYERNORM: return &node->attr.layernorm;
    default: return NULL;
    }
}

void pass_fuse(Graph *graph)
{
    if (graph->status != OK) return;
    int *n_readers = mem_alloc((size_t)graph->n_values * sizeof(int));
    for (NodeId n = 0; n < graph->n_nodes; n++)
        for (int s = 0; s < graph->nodes[n].n_src; s++) n_readers[graph->nodes[n].src[s]]++;
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        Node *act = &graph->nodes[n];
        if (act->op != OP_ACT || act->dead) continue;
        ValueId src = act->src[0];
        NodeId producer = graph->values[src].producer;
        if (producer < 0 || n_readers[src] != 1 || watched(graph, src)) continue;
        Node *norm = &graph->nodes[producer];
        NormAttr *attr = norm_attr(norm);
        if (!attr || attr->act != ACT_NONE || norm->dst[0] != src || norm->region != act->region)
            continue;
        attr->act = act->attr.act.kind;
        norm->dst[0] = act->dst[0];
        graph->values[act->dst[0]].producer = producer;
        act->dead = true;
    }
    free(n_readers);
}

/* ---- widen ---- */

void pass_widen(Graph *graph)
{
    for (ValueId v = 1; v < graph->n_values; v++)
        if (graph->values[v].dtype == DT_F32) graph->values[v].dtype = DT_F64;
}

/* ---- prune ---- */

static bool node_matters(const Graph *graph, const bool *needed, const Node *node)
{
    for (int i = 0; i < node->n_dst; i++) {
        ValueId base = graph_base(graph, node->dst[i]);
        if (needed[node->dst[i]] || needed[base] || graph->values[base].kind == VALUE_STORE)
            return true;
    }
    return false;
}

void pass_prune(Graph *graph)
{
    if (graph->status != OK) return;
    bool *needed = mem_alloc((size_t)graph->n_values * sizeof(bool));
    bool *kept = mem_alloc((size_t)graph->n_nodes * sizeof(bool));
    for (ValueId v = 1; v < graph->n_values; v++) needed[v] = graph->values[v].output;
    /* Passes may have put nodes anywhere, so node order says nothing: repeat until nothing changes.
     */
    for (bool changed = true; changed;) {
        changed = false;
        for (NodeId n = graph->n_nodes - 1; n >= 0; n--) {
            const Node *node = &graph->nodes[n];
            if (node->dead || kept[n] || !node_matters(graph, needed, node)) continue;
            kept[n] = changed = true;
            for (int s = 0; s < node->n_src; s++) {
                needed[node->src[s]] = true;
                needed[graph_base(graph, node->src[s])] = true;
            }
        }
    }
    for (NodeId n = 0; n < graph->n_nodes; n++) graph->nodes[n].dead |= !kept[n];
    free(needed);
    free(kept);
}
