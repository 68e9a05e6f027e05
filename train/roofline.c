/* The least time of a step. See roofline.h. */
#include "train/roofline.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/plan/conv_way.h"
#include "train/account.h"

/* ---- a node ---- */

static bool on_tensor_cores(const KernelCall *call)
{
    switch (call->op) {
    case OP_MATMUL: return true;
    case OP_CONV2D:
    case OP_CONV2D_GRAD_DATA:
    case OP_CONV2D_GRAD_WEIGHT: return conv_way(call) != CONV_DEPTHWISE;
    case OP_RELPOS_ATTENTION:
    case OP_RELPOS_ATTENTION_GRAD: return call->src[0].dtype != DT_F32;
    default: return false;
    }
}

static double tflops_of(const KernelCall *call, const RooflineMachine *m)
{
    if (!on_tensor_cores(call)) return m->gpu->f32_tflops;
    if (call->src[0].dtype != DT_F32) return m->gpu->low_tflops;
    return m->tf32 ? m->gpu->tf32_tflops : m->gpu->f32_tflops;
}

double roofline_link_gb_s(const RooflineMachine *m)
{
    bool leaves = m->n_gpus > GPUS_PER_SERVER && m->gpu->network_gb_s < m->gpu->link_gb_s;
    return leaves ? m->gpu->network_gb_s : m->gpu->link_gb_s;
}

/* Of a sum over the ranks of all bytes of `summed`. */
static double reduce_seconds(const Tensor *summed, const RooflineMachine *m)
{
    double n = m->n_gpus, bytes = (double)tensor_bytes(summed);
    return 2 * (n - 1) / n * bytes / (1e9 * roofline_link_gb_s(m));
}

/* ---- the program ---- */

typedef struct Play {
    const Graph *graph;
    const Plan *plan;
    const RooflineMachine *machine;
    int64_t iteration[REGION_MAX_DEPTH];
    double now, link_free; /* s since the step began; until when the link is taken */
    double *summed;        /* by value: when its sum over the ranks is there */
    Roofline out;
} Play;

static void play_kernel(Play *p, const KernelCall *call)
{
    double macs = account_call_macs(call);
    double compute = 2e-12 * macs / tflops_of(call, p->machine);
    double memory = 1e-9 * account_call_bytes(call) / p->machine->gpu->memory_gb_s;
    p->out.macs += macs;
    p->out.compute += compute;
    p->out.memory += memory;
    p->now += compute > memory ? compute : memory;
    p->out.kernels += compute > memory ? compute : memory;
}

static void play_reduce(Play *p, const Tensor *summed, ValueId value)
{
    double seconds = reduce_seconds(summed, p->machine);
    p->link_free = (p->link_free > p->now ? p->link_free : p->now) + seconds;
    p->summed[value] = p->link_free;
    p->out.reduce += seconds;
}

static void play_wait(Play *p, ValueId value)
{
    double late = p->summed[value] - p->now;
    if (late <= 0) return;
    p->now += late;
    p->out.exposed += late;
}

/* What all ranks share of `summed` is waited for at once. */
static void play_exchange(Play *p, const Tensor *summed, ValueId value)
{
    play_reduce(p, summed, value);
    play_wait(p, value);
}

static void play_node(Play *p, NodeId id)
{
    const Node *node = &p->graph->nodes[id];
    const Region *region = &p->graph->regions[node->region];
    if (node->last_only && p->iteration[region->depth] != region->count - 1) return;
    const KernelCall *call = &p->plan->calls[id];
    if (call->op == OP_ALL_REDUCE)
        play_reduce(p, &call->dst[0], node->dst[0]);
    else if (call->op == OP_ALL_REDUCE_WAIT)
        play_wait(p, node->dst[0]);
    else if (call->op == OP_RANK_GATHER)
        play_exchange(p, &call->dst[0], node->dst[0]);
    else if (call->op == OP_RANK_SCATTER)
        play_exchange(p, &call->src[0], node->dst[0]);
    else
        play_kernel(p, call);
}

static void play_region(Play *p, RegionId id);

static void play_items(Play *p, const Region *region)
{
    for (int i = 0; i < region->n_items; i++) {
        Item item = region->items[i];
        if (item.is_region)
            play_region(p, item.id);
        else if (p->plan->calls[item.id].run)
            play_node(p, item.id);
    }
}

static void play_region(Play *p, RegionId id)
{
    const Region *region = &p->graph->regions[id];
    if (id == REGION_STEP) {
        play_items(p, region);
        return;
    }
    for (int64_t i = 0; i < region->count; i++) {
        p->iteration[region->depth] = i;
        play_items(p, region);
    }
}

Roofline roofline_step(const Graph *graph, const Plan *plan, const RooflineMachine *machine)
{
    Play p = {.graph = graph, .plan = plan, .machine = machine};
    p.summed = mem_alloc((size_t)graph->n_values * sizeof *p.summed);
    play_region(&p, REGION_STEP);
    p.out.step = p.now;
    free(p.summed);
    return p.out;
}
