/* Building the static graph: values, nodes, regions. See graph.h for the model and its invariants.
 */
#include "autograd/graph.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "autograd/rules.h"
#include "base/memory.h"

/* ---- life ---- */

typedef struct StringBlock {
    struct StringBlock *next;
    char text[];
} StringBlock;

const char *graph_string(Graph *graph, const char *text)
{
    StringBlock *block = mem_alloc(sizeof *block + strlen(text) + 1);
    strcpy(block->text, text);
    block->next = graph->strings;
    graph->strings = block;
    return block->text;
}

static RegionId new_region(Graph *graph, RegionId parent, int64_t count, const char *name)
{
    graph->regions = mem_grow(graph->regions, &graph->regions_capacity, graph->n_regions + 1,
                              sizeof(Region));
    Region *region = &graph->regions[graph->n_regions];
    *region = (Region){.parent = parent, .count = count, .name = graph_string(graph, name)};
    region->depth = graph->n_regions == 0 ? 0 : graph->regions[parent].depth + 1;
    assert(region->depth < REGION_MAX_DEPTH);
    return graph->n_regions++;
}

Graph *graph_create(void)
{
    Graph *graph = mem_alloc(sizeof *graph);
    graph_new_value(graph, (Value){.producer = -1}); /* VALUE_NONE */
    new_region(graph, REGION_STEP, 1, "step");
    return graph;
}

void graph_destroy(Graph *graph)
{
    if (!graph) return;
    for (int i = 0; i < graph->n_regions; i++) free(graph->regions[i].items);
    for (StringBlock *block = graph->strings, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    free(graph->regions);
    free(graph->values);
    free(graph->nodes);
    free(graph->modules);
    free(graph);
}

void graph_fail(Graph *graph, Status code, const char *format, ...)
{
    if (graph->status != OK) return;
    char text[800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    graph->status = status_fail(code, "%s", text);
}

/* ---- values ---- */

ValueId graph_new_value(Graph *graph, Value value)
{
    graph->values = mem_grow(graph->values, &graph->values_capacity, graph->n_values + 1,
                             sizeof(Value));
    graph->values[graph->n_values] = value;
    return graph->n_values++;
}

const Value *graph_value(const Graph *graph, ValueId value)
{
    assert(value > VALUE_NONE && value < graph->n_values);
    return &graph->values[value];
}

ValueId graph_base(const Graph *graph, ValueId value)
{
    return graph->values[value].kind == VALUE_VIEW ? graph->values[value].base : value;
}

ValueId graph_input(Graph *graph, const char *name, DType dtype, Shape shape)
{
    if (graph->status != OK) return VALUE_NONE;
    assert(graph_find_input(graph, name) == VALUE_NONE);
    return graph_new_value(graph, (Value){.kind = VALUE_INPUT,
                                          .dtype = dtype,
                                          .shape = shape,
                                          .producer = -1,
                                          .name = graph_string(graph, name)});
}

ValueId graph_store_value(Graph *graph, Store *store, int entry)
{
    if (graph->status != OK) return VALUE_NONE;
    for (ValueId v = 1; v < graph->n_values; v++) {
        const Value *value = &graph->values[v];
        if (value->kind == VALUE_STORE && value->store == store && value->entry == entry) return v;
    }
    const StoreEntry *e = &store->entries[entry];
    return graph_new_value(graph, (Value){.kind = VALUE_STORE,
                                          .dtype = e->dtype,
                                          .shape = e->stored,
                                          .producer = -1,
                                          .name = graph_string(graph, e->name),
                                          .store = store,
                                          .entry = entry});
}

ValueId graph_find_input(const Graph *graph, const char *name)
{
    for (ValueId v = 1; v < graph->n_values; v++)
        if (graph->values[v].kind == VALUE_INPUT && strcmp(graph->values[v].name, name) == 0)
            return v;
    return VALUE_NONE;
}

ValueId graph_find_output(const Graph *graph, const char *name)
{
    for (ValueId v = 1; v < graph->n_values; v++) {
        const Value *value = &graph->values[v];
        if (value->output && value->name && strcmp(value->name, name) == 0) return v;
    }
    return VALUE_NONE;
}

/* ---- nodes ---- */

/* Where a new item of `region` goes: in front of a child loop that is still being built, else at
 * the end. */
static int insertion_point(const Graph *graph, RegionId region)
{
    const Region *r = &graph->regions[region];
    for (int i = 0; i < r->n_items; i++)
        if (r->items[i].is_region && graph->regions[r->items[i].id].open) return i;
    return r->n_items;
}

void graph_insert_item(Graph *graph, RegionId region, int index, Item item)
{
    Region *r = &graph->regions[region];
    r->items = mem_grow(r->items, &r->capacity, r->n_items + 1, sizeof(Item));
    memmove(&r->items[index + 1], &r->items[index], (size_t)(r->n_items - index) * sizeof(Item));
    r->items[index] = item;
    r->n_items++;
}

int graph_region_item(const Graph *graph, RegionId child)
{
    const Region *parent = &graph->regions[graph->regions[child].parent];
    for (int i = 0; i < parent->n_items; i++)
        if (parent->items[i].is_region && parent->items[i].id == child) return i;
    assert(!"a region is an item of its parent");
    return -1;
}

static NodeId new_node(Graph *graph, Node node)
{
    graph->nodes = mem_grow(graph->nodes, &graph->nodes_capacity, graph->n_nodes + 1, sizeof(Node));
    if (graph->n_nodes > 0 && strcmp(graph->nodes[graph->n_nodes - 1].label, graph->label) == 0)
        node.label =
            graph->nodes[graph->n_nodes - 1].label; /* runs of one module share the string */
    else
        node.label = graph_string(graph, graph->label);
    node.backward = graph->backward;
    graph->nodes[graph->n_nodes] = node;
    return graph->n_nodes++;
}

static ShapeCall shape_call(const Graph *graph, OpId op, const OpAttr *attr, int n_src,
                            const ValueId *src)
{
    assert(n_src <= OP_MAX_SRC);
    ShapeCall call = {.op = op, .label = graph->label, .attr = attr, .n_src = n_src};
    for (int i = 0; i < n_src; i++)
        if (src[i] != VALUE_NONE)
            call.src[i] = (Tensor){.dtype = graph->values[src[i]].dtype,
                                   .shape = graph->values[src[i]].shape};
    return call;
}

bool graph_region_inside(const Graph *graph, RegionId inner, RegionId outer)
{
    while (graph->regions[inner].depth > graph->regions[outer].depth)
        inner = graph->regions[inner].parent;
    return inner == outer;
}

static RegionId deepest_region(const Graph *graph, RegionId floor, int n_src, const ValueId *src)
{
    RegionId deepest = floor;
    for (int i = 0; i < n_src; i++) {
        if (src[i] == VALUE_NONE) continue;
        RegionId region = graph->values[src[i]].region;
        if (graph->regions[region].depth > graph->regions[deepest].depth) deepest = region;
    }
    for (int i = 0; i < n_src; i++) /* sources of two sibling loops cannot meet in one node */
        assert(src[i] == VALUE_NONE ||
               graph_region_inside(graph, deepest, graph->values[src[i]].region));
    return deepest;
}

static ValueId new_destination(Graph *graph, NodeId node, RegionId region, const Tensor *tensor,
                               ValueId src)
{
    Value value = {.kind = VALUE_TEMP,
                   .dtype = tensor->dtype,
                   .shape = tensor->shape,
                   .region = region,
                   .producer = node};
    if (op_info(graph->nodes[node].op)->flags & OP_FLAG_VIEW) {
        value.kind = VALUE_VIEW;
        value.base = graph_base(graph, src);
        value.offset = graph->values[src].offset;
        memcpy(value.stride, graph->values[src].stride, sizeof value.stride);
    }
    return graph_new_value(graph, value);
}

ValueId graph_op(Graph *graph, OpId op, OpAttr attr, int n_src, const ValueId *src)
{
    if (graph->status != OK) return VALUE_NONE;
    ShapeCall call = shape_call(graph, op, &attr, n_src, src);
    graph->status = rules_infer(&call);
    if (graph->status != OK) return VALUE_NONE;
    RegionId region = deepest_region(graph, graph->floor, n_src, src);
    NodeId id = new_node(graph, (Node){.op = op, .attr = attr, .region = region, .n_src = n_src});
    memcpy(graph->nodes[id].src, src, (size_t)n_src * sizeof *src);
    graph->nodes[id].n_dst = op_n_dst(op);
    for (int i = 0; i < graph->nodes[id].n_dst; i++) {
        ValueId dst = new_destination(graph, id, region, &call.dst[i], n_src ? src[0] : VALUE_NONE);
        graph->nodes[id].dst[i] = dst;
    }
    graph_insert_item(graph, region, insertion_point(graph, region), (Item){.id = id});
    return graph->nodes[id].dst[0];
}

NodeId graph_mutate_at(Graph *graph, OpId op, OpAttr attr, RegionId region, int index, int n_src,
                       const ValueId *src, int n_dst, const ValueId *dst)
{
    assert(n_dst == op_n_dst(op) && n_dst <= OP_MAX_DST);
    ShapeCall call = shape_call(graph, op, &attr, n_src, src);
    graph->status = rules_infer(&call);
    if (graph->status != OK) return -1;
    NodeId id = new_node(
        graph, (Node){.op = op, .attr = attr, .region = region, .n_src = n_src, .n_dst = n_dst});
    if (n_src > 0) memcpy(graph->nodes[id].src, src, (size_t)n_src * sizeof *src);
    memcpy(graph->nodes[id].dst, dst, (size_t)n_dst * sizeof *dst);
    graph_insert_item(graph, region, index, (Item){.id = id});
    return id;
}

void graph_mutate(Graph *graph, OpId op, OpAttr attr, RegionId region, int n_src,
                  const ValueId *src, int n_dst, const ValueId *dst)
{
    if (graph->status != OK) return;
    graph_mutate_at(graph, op, attr, region, insertion_point(graph, region), n_src, src, n_dst,
                    dst);
}

ValueId graph_filled_at(Graph *graph, RegionId region, int index, DType dtype, Shape shape,
                        double fill)
{
    ValueId value = graph_new_value(
        graph,
        (Value){
            .kind = VALUE_TEMP, .dtype = dtype, .shape = shape, .region = region, .producer = -1});
    NodeId node = graph_mutate_at(graph, OP_FILL, ATTR(fill, .value = fill), region, index, 0, NULL,
                                  1, &value);
    graph->values[value].producer = node;
    return value;
}

ValueId graph_filled(Graph *graph, DType dtype, Shape shape, double fill)
{
    if (graph->status != OK) return VALUE_NONE;
    return graph_filled_at(graph, REGION_STEP, insertion_point(graph, REGION_STEP), dtype, shape,
                           fill);
}

ValueId graph_dst(const Graph *graph, ValueId first, int index)
{
    if (first == VALUE_NONE) return VALUE_NONE;
    const Node *node = &graph->nodes[graph->values[first].producer];
    assert(node->dst[0] == first && index < node->n_dst);
    return node->dst[index];
}

ValueId graph_reshape(Graph *graph, ValueId src, Shape shape)
{
    return graph_op(graph, OP_RESHAPE, ATTR(reshape, .shape = shape), SRC(src));
}

/* ---- names ---- */

int graph_label_push(Graph *graph, const char *format, ...)
{
    int mark = (int)strlen(graph->label), used = mark;
    if (used > 0) used += snprintf(graph->label + used, sizeof graph->label - (size_t)used, ".");
    va_list args;
    va_start(args, format);
    vsnprintf(graph->label + used, sizeof graph->label - (size_t)used, format, args);
    va_end(args);
    return mark;
}

void graph_label_pop(Graph *graph, int mark) { graph->label[mark] = '\0'; }

void graph_module(Graph *graph, const char *suffix, ValueId value, bool channels_first)
{
    if (graph->status != OK) return;
    char path[512];
    snprintf(path, sizeof path, suffix && graph->label[0] ? "%s.%s" : "%s%s", graph->label,
             suffix ? suffix : "");
    graph->modules = mem_grow(graph->modules, &graph->modules_capacity, graph->n_modules + 1,
                              sizeof(ModuleOutput));
    graph->modules[graph->n_modules++] = (ModuleOutput){graph_string(graph, path), value,
                                                        channels_first};
}

void graph_output(Graph *graph, ValueId value, const char *name)
{
    if (graph->status != OK) return;
    graph->values[value].output = true;
    graph->values[value].name = graph_string(graph, name);
    graph->values[graph_base(graph, value)].output = true;
}

/* ---- regions ---- */

RegionId graph_region_open(Graph *graph, RegionId parent, int64_t count, const char *name)
{
    assert(count >= 1);
    int index = insertion_point(graph, parent);
    RegionId region = new_region(graph, parent, count, name);
    graph_insert_item(graph, parent, index, (Item){.is_region = true, .id = region});
    graph->regions[region].open = true;
    return region;
}

void graph_region_close(Graph *graph, RegionId region) { graph->regions[region].open = false; }

static Shape without_first(Shape shape)
{
    Shape rest = {.rank = shape.rank - 1};
    memcpy(rest.dim, shape.dim + 1, (size_t)rest.rank * sizeof shape.dim[0]);
    return rest;
}

static Shape with_first(int64_t first, Shape shape)
{
    assert(shape.rank < SHAPE_MAX_RANK);
    Shape longer = {.rank = shape.rank + 1, .dim = {first}};
    memcpy(longer.dim + 1, shape.dim, (size_t)shape.rank * sizeof shape.dim[0]);
    return longer;
}

ValueId graph_slice(Graph *graph, RegionId region, ValueId outer)
{
    if (graph->status != OK) return VALUE_NONE;
    const Region *r = &graph->regions[region];
    Value view = graph->values[outer];
    assert(view.region == r->parent && view.shape.rank >= 1 && view.shape.dim[0] == r->count);
    if (view.kind != VALUE_VIEW) {
        view.base = outer;
        view.offset = 0;
        memset(view.stride, 0, sizeof view.stride);
    }
    view.kind = VALUE_VIEW;
    view.shape = without_first(view.shape);
    view.stride[r->depth] = shape_elems(view.shape);
    view.region = region;
    view.producer = -1;
    view.output = false;
    return graph_new_value(graph, view);
}

ValueId graph_gather(Graph *graph, ValueId inner)
{
    if (graph->status != OK) return VALUE_NONE;
    Value from = graph->values[inner];
    assert(from.region != REGION_STEP);
    const Region *region = &graph->regions[from.region];
    ValueId outer = graph_new_value(graph, (Value){.kind = VALUE_TEMP,
                                                   .dtype = from.dtype,
                                                   .shape = with_first(region->count, from.shape),
                                                   .region = region->parent,
                                                   .producer = -1});
    ValueId slice = graph_slice(graph, from.region, outer);
    graph_mutate(graph, OP_COPY, NO_ATTR, from.region, SRC(inner), 1, &slice);
    return outer;
}

ValueId graph_accumulate(Graph *graph, ValueId inner)
{
    if (graph->status != OK) return VALUE_NONE;
    Value from = graph->values[inner];
    assert(from.region != REGION_STEP);
    RegionId parent = graph->regions[from.region].parent;
    DType dtype = from.dtype == DT_F64 ? DT_F64 : DT_F32;
    ValueId acc = graph_filled_at(graph, parent, graph_region_item(graph, from.region), dtype,
                                  from.shape, 0);
    graph_mutate(graph, OP_ACCUM, NO_ATTR, from.region, SRC(inner), 1, &acc);
    return acc;
}
