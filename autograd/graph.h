/* The static graph: values, nodes, and regions that repeat.
 *
 * A model builder calls graph_op for every op; differentiation and the other passes (passes.h)
 * rewrite the graph; plan.h places it in memory; exec.h runs it. Nothing is computed here.
 *
 * Program. A graph is a tree of regions. Region 0 is the step, run once. Another region is a loop
 * inside its parent with a fixed count (micro-batches inside the step, chunks of masks inside a
 * micro-batch). Its items run in order: nodes and child regions. graph_op puts a node into the
 * deepest region among its sources; while a child region is open, nodes of the parent go in front
 * of it, so what does not depend on the chunk is computed once, by construction.
 *
 * Crossing regions. A value of an enclosing region may be read anywhere inside. A value made inside
 * reaches the outside by graph_accumulate (sum over iterations) or graph_gather (stacked along a
 * new first axis); graph_slice gives the iteration's part of an outer value.
 *
 * Errors are sticky: after the first failure every call returns VALUE_NONE and does nothing, so
 * builders read as formulas; graph->status and status_message() tell what was wrong.
 *
 * Invariants
 *  1. A value is written by one node, except those marked `mutated` by '!' destinations.
 *  2. Value 0 is VALUE_NONE: an absent operand.
 *  3. A node reads values of its own region or of enclosing ones only.
 */
#ifndef RETORT_AUTOGRAD_GRAPH_H
#define RETORT_AUTOGRAD_GRAPH_H

#include "autograd/store.h"
#include "base/status.h"
#include "kernels/ops.h"

typedef int32_t ValueId;
typedef int32_t NodeId;
typedef int32_t RegionId;
enum { VALUE_NONE = 0, REGION_STEP = 0, REGION_MAX_DEPTH = 3 };

typedef enum ValueKind {
    VALUE_TEMP,  /* made and used within a step; placed by the planner */
    VALUE_INPUT, /* written by the host before a step */
    VALUE_STORE, /* an entry of a store */
    VALUE_VIEW,  /* other shape of, or an iteration's slice of, `base` */
} ValueKind;

typedef struct Value {
    ValueKind kind;
    DType dtype;
    Shape shape;
    RegionId region;  /* owner */
    NodeId producer;  /* -1: none (inputs, store entries, slices) */
    const char *name; /* inputs, store entries, named outputs; NULL else */
    bool output;      /* kept until the end of the step, so that the host can read it */
    ValueId base;     /* VALUE_VIEW: what it is a view of (never itself a view) */
    int64_t offset;                   /* VALUE_VIEW: elements from the base's first one */
    int64_t stride[REGION_MAX_DEPTH]; /* VALUE_VIEW: elements per iteration, by region depth */
    Store *store;                     /* VALUE_STORE */
    int entry;
    ValueId gate; /* store parameters: count that must be > 0 for an update, or VALUE_NONE */
} Value;

typedef struct Node {
    OpId op;
    OpAttr attr;
    RegionId region;
    int n_src, n_dst;
    ValueId src[OP_MAX_SRC];
    ValueId dst[OP_MAX_DST];
    const char *label; /* module path when it was built */
    bool backward;     /* made by differentiation */
    bool dead;         /* removed by a pass */
    bool last_only;    /* runs in the last iteration of its region alone */
} Node;

typedef struct Item { /* of a region's program */
    bool is_region;
    int32_t id;
} Item;

typedef struct Region {
    RegionId parent;
    int depth; /* 0: the step */
    int64_t count;
    bool open;
    const char *name;
    Item *items;
    int n_items, capacity;
} Region;

/* A module's output under its PyTorch path, for `act.PATH` of trace. */
typedef struct ModuleOutput {
    const char *path;
    ValueId value;
    bool channels_first; /* PyTorch's tensor is N,C,H,W where ours is N,H,W,C */
} ModuleOutput;

typedef struct Graph {
    Status status; /* first failure, sticky */
    Value *values;
    int n_values, values_capacity;
    Node *nodes;
    int n_nodes, nodes_capacity;
    Region *regions;
    int n_regions, regions_capacity;
    ModuleOutput *modules;
    int n_modules, modules_capacity;
    char label[256]; /* current module path */
    bool backward;   /* nodes made now belong to the backward pass */
    RegionId floor;  /* new nodes go into this region or deeper (differentiation inside a loop) */
    void *strings;   /* arena of names */
} Graph;

Graph *graph_create(void);
void graph_destroy(Graph *graph);

/* ---- building ---- */

/* graph_input: a tensor the host writes before each step. `name` is unique. */
ValueId graph_input(Graph *graph, const char *name, DType dtype, Shape shape);

/* graph_filled: a value of the step region that starts each step as `fill` everywhere; for '!'
 * destinations. */
ValueId graph_filled(Graph *graph, DType dtype, Shape shape, double fill);

/* graph_store_value: the value of a store entry, in its stored shape; one per entry and graph. */
ValueId graph_store_value(Graph *graph, Store *store, int entry);

/* graph_op: a node; sources as given (VALUE_NONE for absent ones), destinations made by the shape
 * rule. returns the first destination; graph_dst gives the others errors  sticky: E_SHAPE from the
 * shape rule, naming label, op and shapes */
ValueId graph_op(Graph *graph, OpId op, OpAttr attr, int n_src, const ValueId *src);
ValueId graph_dst(const Graph *graph, ValueId first, int index);

/* graph_mutate: a node of an op whose destinations are marked '!': `dst` are existing values. */
void graph_mutate(Graph *graph, OpId op, OpAttr attr, RegionId region, int n_src,
                  const ValueId *src, int n_dst, const ValueId *dst);

/* Sugar for builders:
 *     y = graph_op(g, OP_CONV2D, ATTR(conv2d, .stride = 2, .pad = 1, .groups = 1), SRC(x, w,
 * bias)); */
#define ATTR(op_name, ...) ((OpAttr){.op_name = {__VA_ARGS__}})
#define NO_ATTR ((OpAttr){0})
#define SRC(...) \
    (int)(sizeof((ValueId[]){__VA_ARGS__}) / sizeof(ValueId)), (ValueId[]) { __VA_ARGS__ }

ValueId graph_reshape(Graph *graph, ValueId src, Shape shape); /* a view; equal element counts */

/* graph_label_push / pop: module path of the nodes made in between; pop restores what push
 * returned. */
int graph_label_push(Graph *graph, const char *format, ...) __attribute__((format(printf, 2, 3)));
void graph_label_pop(Graph *graph, int mark);
/* graph_module: remember the output of the current label plus ".suffix" (suffix NULL: the label
 * itself). */
void graph_module(Graph *graph, const char *suffix, ValueId value, bool channels_first);
void graph_output(Graph *graph, ValueId value, const char *name);

/* ---- regions ---- */

/* graph_region_open: a loop of `count` >= 1 iterations in `parent`. With count 1 a loop is still
 * made, so that one code path serves all counts. */
RegionId graph_region_open(Graph *graph, RegionId parent, int64_t count, const char *name);
void graph_region_close(Graph *graph, RegionId region);

/* graph_slice: iteration i's part of an outer value of shape (count, rest): shape (rest), a view.
 * No gradient flows through it (inputs only). */
ValueId graph_slice(Graph *graph, RegionId region, ValueId outer);
/* graph_gather: an outer value (count, shape of inner) that collects `inner` of each iteration. No
 * gradient. */
ValueId graph_gather(Graph *graph, ValueId inner);
/* graph_accumulate: f32 sum over the iterations of inner's region, owned by its parent;
 * differentiable. */
ValueId graph_accumulate(Graph *graph, ValueId inner);

/* ---- reading ---- */
const Value *graph_value(const Graph *graph, ValueId value);
ValueId graph_find_input(const Graph *graph, const char *name);  /* VALUE_NONE if absent */
ValueId graph_find_output(const Graph *graph, const char *name); /* VALUE_NONE if absent */
const char *graph_string(Graph *graph, const char *text); /* copy that lives as long as the graph */

/* graph_fail: sticky error with a composed message. */
void graph_fail(Graph *graph, Status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
