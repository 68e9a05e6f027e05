/* The precision policy as a pass: casts between f32 and bf16 or f16 where the op table's operand
 * kinds ask for them. See passes.h; called by train/ after differentiation, so gradients follow the
 * same rule.
 *
 * Walks the program in order and gives every value its final dtype; a CAST is made once per value,
 * in the region that owns the value, just in front of the first node that needs it: a parameter is
 * cast once per step, not once per chunk.
 */
#include <stdlib.h>

#include "autograd/graph_edit.h"
#include "autograd/passes.h"
#include "base/memory.h"

typedef struct Casting {
    Graph *graph;
    DType low;
    ValueId *low_of, *f32_of; /* by value: its cast, once made */
    int n_values;
} Casting;

/* Index, in the items of `owner`, of the node at items[index] of `region` or of the loop around it.
 */
static int index_in_owner(const Graph *graph, RegionId owner, RegionId region, int index)
{
    while (region != owner) {
        index = graph_region_item(graph, region);
        region = graph->regions[region].parent;
    }
    return index;
}

static ValueId make_cast(Graph *graph, ValueId value, DType dtype, RegionId region, int index)
{
    RegionId owner = graph->values[value].region;
    ValueId cast = graph_new_value(graph, (Value){.kind = VALUE_TEMP,
                                                  .dtype = dtype,
                                                  .shape = graph->values[value].shape,
                                                  .region = owner});
    int at = index_in_owner(graph, owner, region, index);
    graph->values[cast].producer = graph_mutate_at(graph, OP_CAST, ATTR(cast, .dtype = dtype),
                                                   owner, at, SRC(value), 1, &cast);
    return cast;
}

/* The operand in the dtype its kind asks for; *index moves on if a cast lands in front of it. */
static ValueId cast_operand(Casting *c, ValueId value, char kind, RegionId region, int *index)
{
    Graph *graph = c->graph;
    DType dtype = graph->values[value].dtype;
    DType wanted = kind == 'l' ? c->low : kind == 'f' ? DT_F32 : dtype;
    if (!dtype_is_float(dtype) || dtype == wanted) return value;
    ValueId *known = value < c->n_values
                         ? (wanted == DT_F32 ? &c->f32_of[value] : &c->low_of[value])
                         : NULL;
    if (known && *known != VALUE_NONE) return *known;
    ValueId cast = make_cast(graph, value, wanted, region, *index);
    if (graph->values[value].region == region) (*index)++;
    if (known) *known = cast;
    return cast;
}

static void cast_node(Casting *c, NodeId id, RegionId region, int *index)
{
    Graph *graph = c->graph;
    OpOperand operand;
    for (int s = 0; s < graph->nodes[id].n_src; s++) {
        ValueId src = graph->nodes[id].src[s];
        if (src == VALUE_NONE || !op_src(graph->nodes[id].op, s, &operand)) continue;
        /* What a gather collects keeps the dtype it was made with, whatever became of its parts. */
        bool into_f32 = graph->nodes[id].op == OP_COPY &&
                        graph->values[graph->nodes[id].dst[0]].dtype == DT_F32;
        ValueId cast = cast_operand(c, src, into_f32 ? 'f' : operand.kind, region, index);
        graph->nodes[id].src[s] = cast;
    }
    const Node *node = &graph->nodes[id];
    if (node->op == OP_CAST) return;
    for (int i = 0; i < node->n_dst; i++) {
        Value *dst = &graph->values[node->dst[i]];
        op_dst(node->op, i, &operand);
        if (operand.mutated || !dtype_is_float(dst->dtype)) continue;
        if (operand.kind == 'l') dst->dtype = c->low;
        if (operand.kind == 'a' || operand.kind == 'n')
            dst->dtype = graph->values[node->src[0]].dtype;
    }
}

static void cast_region(Casting *c, RegionId region)
{
    for (int i = 0; i < c->graph->regions[region].n_items; i++) {
        Item item = c->graph->regions[region].items[i];
        if (item.is_region) {
            cast_region(c, item.id);
            i = graph_region_item(c->graph,
                                  item.id); /* casts may have landed in front of the loop */
        } else if (!c->graph->nodes[item.id].dead) {
            cast_node(c, item.id, region, &i);
        }
    }
}

void pass_cast(Graph *graph, DType low)
{
    if (graph->status != OK || low == DT_F32) return;
    Casting c = {.graph = graph,
                 .low = low,
                 .n_values = graph->n_values,
                 .low_of = mem_alloc((size_t)graph->n_values * sizeof(ValueId)),
                 .f32_of = mem_alloc((size_t)graph->n_values * sizeof(ValueId))};
    cast_region(&c, REGION_STEP);
    free(c.low_of);
    free(c.f32_of);
}
