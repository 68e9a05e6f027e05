/* Accounts of memory and work. See account.h. */
#include "train/account.h"

#include "autograd/rules.h"

static double mib(size_t bytes) { return (double)bytes / (1024.0 * 1024.0); }

void account_memory(FILE *out, const Plan *plan)
{
    const PlanMemory *m = &plan->memory;
    struct {
        const char *what;
        size_t bytes;
    } rows[] = {
        {"parameters", m->parameters},
        {"buffers", m->buffers},
        {"optimizer state", m->optimizer},
        {"ema", m->ema},
        {"gradients", m->gradients},
        {"inputs", m->inputs},
        {"activations and scratch", m->activations},
        {"peak", m->total},
    };
    fprintf(out, "memory plan (MiB); largest scratch of one op %.1f, inside the activations\n",
            mib(m->scratch));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].bytes) fprintf(out, "  %-24s %10.1f\n", rows[i].what, mib(rows[i].bytes));
}

/* How often a node runs in one step: the product of the counts of the loops around it. */
static double runs_per_step(const Graph *graph, const Node *node)
{
    double runs = 1;
    for (RegionId r = node->region; r != REGION_STEP; r = graph->regions[r].parent)
        runs *= (double)graph->regions[r].count;
    return runs;
}

double account_call_macs(const KernelCall *call)
{
    if (!call->run || !op_counts_as_macs(call->op)) return 0;
    return (double)op_work(call->op, call->attr, call->src, call->n_src, call->dst);
}

double account_call_bytes(const KernelCall *call)
{
    double bytes = 0;
    for (int i = 0; i < call->n_src; i++)
        if (call->src[i].dtype != DT_NONE) bytes += (double)tensor_bytes(&call->src[i]);
    for (int i = 0; i < call->n_dst; i++) {
        OpOperand operand;
        bool known = op_dst(call->op, i, &operand), read = known && operand.mutated;
        bytes += (double)tensor_bytes(&call->dst[i]) * (read ? 2 : 1);
    }
    return bytes;
}

double account_macs(const Graph *graph, const Plan *plan, bool forward_only)
{
    double macs = 0;
    for (NodeId n = 0; n < graph->n_nodes; n++)
        if (!graph->nodes[n].dead && !(forward_only && graph->nodes[n].backward))
            macs += account_call_macs(&plan->calls[n]) * runs_per_step(graph, &graph->nodes[n]);
    return macs;
}
