/* From a graph to a plan: flatten the program, bind every node, derive live ranges, place. See
 * plan.h.
 *
 * Live ranges are positions in the flattened program. A value of an enclosing region that is
 * touched inside a loop is alive for the whole loop, since every iteration touches it; a value of
 * the loop itself lives within one iteration. Views count as their base.
 */
#include "autograd/plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "base/memory.h"

typedef struct Live { /* of a base value; first = -1: never touched */
    int32_t first, last;
    ValueId home; /* the value whose block it shares (itself unless in place) */
} Live;

typedef struct Planning {
    Graph *graph;
    Plan *plan;
    int instr_capacity;
    int32_t *loop_begin, *loop_end; /* by region: positions of its loop instructions */
    Live *live;                     /* by value */
} Planning;

/* ---- program ---- */

static void emit(Planning *p, InstrKind kind, int32_t id)
{
    Plan *plan = p->plan;
    plan->program = mem_grow(plan->program, &p->instr_capacity, plan->n_instrs + 1, sizeof(Instr));
    plan->program[plan->n_instrs++] = (Instr){kind, id};
}

static void flatten(Planning *p, RegionId region)
{
    const Region *r = &p->graph->regions[region];
    p->loop_begin[region] = p->plan->n_instrs;
    if (region != REGION_STEP) emit(p, INSTR_LOOP_BEGIN, region);
    for (int i = 0; i < r->n_items; i++) {
        if (r->items[i].is_region) {
            flatten(p, r->items[i].id);
            continue;
        }
        const Node *node = &p->graph->nodes[r->items[i].id];
        if (!node->dead && !(op_info(node->op)->flags & OP_FLAG_VIEW))
            emit(p, INSTR_RUN, r->items[i].id);
    }
    p->loop_end[region] = p->plan->n_instrs;
    if (region != REGION_STEP) emit(p, INSTR_LOOP_END, region);
}

/* ---- binding ---- */

static Tensor tensor_of(const Graph *graph, ValueId value)
{
    if (value == VALUE_NONE) return (Tensor){.dtype = DT_NONE};
    return (Tensor){.dtype = graph->values[value].dtype, .shape = graph->values[value].shape};
}

static Status bind_node(Planning *p, Backend *backend, NodeId id)
{
    const Node *node = &p->graph->nodes[id];
    KernelCall *call = &p->plan->calls[id];
    *call = (KernelCall){.op = node->op,
                         .label = node->label,
                         .attr = &node->attr,
                         .n_src = node->n_src,
                         .n_dst = node->n_dst,
                         .n_threads = backend->n_threads};
    for (int i = 0; i < node->n_src; i++) call->src[i] = tensor_of(p->graph, node->src[i]);
    for (int i = 0; i < node->n_dst; i++) call->dst[i] = tensor_of(p->graph, node->dst[i]);
    return backend->bind(backend, call);
}

static Status bind_program(Planning *p, Backend *backend)
{
    for (int i = 0; i < p->plan->n_instrs; i++)
        if (p->plan->program[i].kind == INSTR_RUN)
            TRY(bind_node(p, backend, p->plan->program[i].id));
    return OK;
}

/* ---- live ranges ---- */

static void touch(Planning *p, ValueId value, RegionId region, int32_t position)
{
    if (value == VALUE_NONE) return;
    ValueId base = graph_base(p->graph, value);
    RegionId owner = p->graph->values[base].region;
    int32_t first = position, last = position;
    for (; region != owner; region = p->graph->regions[region].parent) {
        first = p->loop_begin[region];
        last = p->loop_end[region];
    }
    Live *live = &p->live[base];
    if (live->first < 0 || first < live->first) live->first = first;
    if (last > live->last) live->last = last;
}

static void derive_ranges(Planning *p)
{
    Graph *graph = p->graph;
    for (ValueId v = 0; v < graph->n_values; v++)
        p->live[v] = (Live){.first = -1, .last = -1, .home = v};
    for (int32_t i = 0; i < p->plan->n_instrs; i++) {
        if (p->plan->program[i].kind != INSTR_RUN) continue;
        const Node *node = &graph->nodes[p->plan->program[i].id];
        for (int s = 0; s < node->n_src; s++) touch(p, node->src[s], node->region, i);
        for (int d = 0; d < node->n_dst; d++) touch(p, node->dst[d], node->region, i);
    }
    for (ValueId v = 1; v < graph->n_values; v++) {
        if (graph->values[v].kind == VALUE_INPUT) p->live[v].first = 0;
        Live *live = &p->live[graph_base(graph, v)];
        if (graph->values[v].kind == VALUE_INPUT || (graph->values[v].output && live->first >= 0))
            live->last = p->plan->n_instrs;
    }
}

/* ---- in place ---- */

static bool can_take_over(const Planning *p, const Node *node, int source, int32_t position)
{
    const Graph *graph = p->graph;
    ValueId src = node->src[source], dst = node->dst[0];
    if (src == VALUE_NONE || graph->values[src].kind == VALUE_VIEW) return false;
    const Value *from = &graph->values[src], *to = &graph->values[dst];
    if (from->kind != VALUE_TEMP || from->output || from->region != node->region) return false;
    if (from->dtype != to->dtype || !shape_equal(from->shape, to->shape)) return false;
    if (p->live[src].last != position) return false;
    for (int s = 0; s < node->n_src;
         s++) /* another operand in the same memory would be overwritten */
        if (s != source && node->src[s] != VALUE_NONE &&
            p->live[graph_base(graph, node->src[s])].home == p->live[src].home)
            return false;
    return true;
}

/* Sums commute exactly, so either side of an ADD may be the one that is overwritten. */
static void swap_sources(Planning *p, NodeId id)
{
    Node *node = &p->graph->nodes[id];
    KernelCall *call = &p->plan->calls[id];
    ValueId value = node->src[0];
    Tensor tensor = call->src[0];
    node->src[0] = node->src[1], node->src[1] = value;
    call->src[0] = call->src[1], call->src[1] = tensor;
}

static void share_in_place(Planning *p)
{
    for (int32_t i = 0; i < p->plan->n_instrs; i++) {
        if (p->plan->program[i].kind != INSTR_RUN) continue;
        NodeId id = p->plan->program[i].id;
        Node *node = &p->graph->nodes[id];
        if (!(op_info(node->op)->flags & OP_FLAG_INPLACE)) continue;
        if (p->live[node->dst[0]].first != i) continue;
        bool first = can_take_over(p, node, 0, i);
        if (!first && node->op == OP_ADD && can_take_over(p, node, 1, i)) {
            swap_sources(p, id);
            first = true;
        }
        if (first) p->live[node->dst[0]].home = p->live[node->src[0]].home;
    }
}

/* ---- placing ---- */

static bool needs_place(const Planning *p, ValueId v)
{
    const Value *value = &p->graph->values[v];
    return (value->kind == VALUE_TEMP || value->kind == VALUE_INPUT) && p->live[v].first >= 0;
}

static size_t value_bytes(const Graph *graph, ValueId v)
{
    return (size_t)shape_elems(graph->values[v].shape) * dtype_size(graph->values[v].dtype);
}

static void place(Planning *p)
{
    Graph *graph = p->graph;
    Plan *plan = p->plan;
    PlanBlock *blocks = mem_alloc(((size_t)graph->n_values + (size_t)graph->n_nodes) *
                                  sizeof *blocks);
    PlanBlock *scratch = blocks +
                         graph->n_values; /* by node; blocks[v] by value, empty where unused */
    for (ValueId v = 1; v < graph->n_values; v++) {
        if (!needs_place(p, v)) continue;
        PlanBlock *block = &blocks[p->live[v].home];
        if (p->live[v].home == v)
            *block = (PlanBlock){
                .bytes = value_bytes(graph, v), .first = p->live[v].first, .last = p->live[v].last};
    }
    for (ValueId v = 1; v < graph->n_values; v++) { /* lives of those that moved in */
        PlanBlock *block = &blocks[p->live[v].home];
        if (needs_place(p, v) && block->last < p->live[v].last) block->last = p->live[v].last;
    }
    for (int32_t i = 0; i < plan->n_instrs; i++)
        if (plan->program[i].kind == INSTR_RUN)
            scratch[plan->program[i].id] = (PlanBlock){
                .bytes = plan->calls[plan->program[i].id].scratch_bytes, .first = i, .last = i};
    plan->arena_bytes = plan_place(blocks, graph->n_values + graph->n_nodes);
    for (ValueId v = 1; v < graph->n_values; v++) plan->offset[v] = blocks[p->live[v].home].offset;
    for (NodeId n = 0; n < graph->n_nodes; n++) plan->scratch_offset[n] = scratch[n].offset;
    free(blocks);
}

/* ---- the account ---- */

static void count_stores(const Graph *graph, PlanMemory *memory)
{
    for (ValueId v = 1; v < graph->n_values; v++) {
        const Value *value = &graph->values[v];
        if (value->kind != VALUE_STORE) continue;
        bool counted = false;
        for (ValueId u = 1; u < v; u++)
            counted |= graph->values[u].kind == VALUE_STORE &&
                       graph->values[u].store == value->store;
        if (counted) continue;
        memory->parameters += store_bytes(value->store, STORE_PARAMETER);
        memory->buffers += store_bytes(value->store, STORE_BUFFER);
        memory->optimizer += store_bytes(value->store, STORE_EXP_AVG) +
                             store_bytes(value->store, STORE_STEP) +
                             store_bytes(value->store, STORE_EXP_AVG_SQ);
        memory->ema += store_bytes(value->store, STORE_EMA);
    }
}

static bool is_accumulator(const Graph *graph, const Value *value)
{
    return value->kind == VALUE_TEMP && value->region == REGION_STEP && value->producer >= 0 &&
           graph->nodes[value->producer].op == OP_FILL && graph->nodes[value->producer].backward;
}

static void account(Planning *p)
{
    Plan *plan = p->plan;
    PlanMemory *memory = &plan->memory;
    count_stores(p->graph, memory);
    for (ValueId v = 1; v < p->graph->n_values; v++) {
        if (!needs_place(p, v)) continue;
        if (p->graph->values[v].kind == VALUE_INPUT) memory->inputs += value_bytes(p->graph, v);
        if (is_accumulator(p->graph, &p->graph->values[v]))
            memory->gradients += value_bytes(p->graph, v);
    }
    for (NodeId n = 0; n < p->graph->n_nodes; n++)
        if (plan->calls[n].scratch_bytes > memory->scratch)
            memory->scratch = plan->calls[n].scratch_bytes;
    memory->arena = plan->arena_bytes;
    size_t named = memory->inputs + memory->gradients;
    memory->activations = memory->arena > named ? memory->arena - named : 0;
    memory->total = memory->arena + memory->parameters + memory->buffers + memory->optimizer +
                    memory->ema;
}

Status plan_build(Graph *graph, Backend *backend, Plan **out)
{
    if (graph->status != OK) return graph->status;
    Planning p = {.graph = graph, .plan = mem_alloc(sizeof(Plan))};
    p.plan->calls = mem_alloc((size_t)graph->n_nodes * sizeof(KernelCall));
    p.plan->n_calls = graph->n_nodes;
    p.plan->offset = mem_alloc((size_t)graph->n_values * sizeof(size_t));
    p.plan->scratch_offset = mem_alloc((size_t)graph->n_nodes * sizeof(size_t));
    p.loop_begin = mem_alloc((size_t)graph->n_regions * sizeof(int32_t));
    p.loop_end = mem_alloc((size_t)graph->n_regions * sizeof(int32_t));
    p.live = mem_alloc((size_t)graph->n_values * sizeof(Live));
    flatten(&p, REGION_STEP);
    Status status = bind_program(&p, backend);
    if (status == OK) {
        derive_ranges(&p);
        share_in_place(&p);
        place(&p);
        account(&p);
        *out = p.plan;
    } else {
        plan_destroy(p.plan);
    }
    free(p.loop_begin);
    free(p.loop_end);
    free(p.live);
    return status;
}

void plan_destroy(Plan *plan)
{
    if (!plan) return;
    for (int n = 0; n < plan->n_calls; n++)
        if (plan->calls[n].release) plan->calls[n].release(plan->calls[n].state);
    free(plan->program);
    free(plan->calls);
    free(plan->offset);
    free(plan->scratch_offset);
    free(plan);
}
