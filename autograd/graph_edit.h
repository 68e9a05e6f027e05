/* What passes need beyond graph.h to rewrite a graph: raw values, positions in a region's program.
 * Used inside autograd/ only.
 */
#ifndef RETORT_AUTOGRAD_GRAPH_EDIT_H
#define RETORT_AUTOGRAD_GRAPH_EDIT_H

#include "autograd/graph.h"

ValueId graph_new_value(Graph *graph, Value value);
ValueId graph_base(const Graph *graph, ValueId value); /* the value itself unless it is a view */

/* graph_region_inside: whether `inner` is `outer` or lies inside it. */
bool graph_region_inside(const Graph *graph, RegionId inner, RegionId outer);
/* graph_region_item: index of a region in its parent's items. */
int graph_region_item(const Graph *graph, RegionId child);
void graph_insert_item(Graph *graph, RegionId region, int index, Item item);

/* graph_mutate_at: as graph_mutate, at a given index of the region's items. */
NodeId graph_mutate_at(Graph *graph, OpId op, OpAttr attr, RegionId region, int index, int n_src,
                       const ValueId *src, int n_dst, const ValueId *dst);

/* graph_filled_at: as graph_filled, at a given index of a region's items. */
ValueId graph_filled_at(Graph *graph, RegionId region, int index, DType dtype, Shape shape,
                        double fill);

#endif
