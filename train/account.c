/* Accounts of memory and time. See account.h. */
#include "train/account.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/rules.h"
#include "base/memory.h"

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

static double call_macs(const KernelCall *call)
{
    if (!call->run || !op_counts_as_macs(call->op)) return 0;
    return (double)op_work(call->op, call->attr, call->src, call->n_src, call->dst);
}

static double call_bytes(const KernelCall *call)
{
    double bytes = 0;
    for (int i = 0; i < call->n_src; i++)
        if (call->src[i].dtype != DT_NONE) bytes += (double)tensor_bytes(&call->src[i]);
    for (int i = 0; i < call->n_dst; i++) bytes += (double)tensor_bytes(&call->dst[i]);
    return bytes;
}

double account_macs(const Graph *graph, const Plan *plan, bool forward_only)
{
    double macs = 0;
    for (NodeId n = 0; n < graph->n_nodes; n++)
        if (!graph->nodes[n].dead && !(forward_only && graph->nodes[n].backward))
            macs += call_macs(&plan->calls[n]) * runs_per_step(graph, &graph->nodes[n]);
    return macs;
}

typedef struct Row {
    char name[160];
    double seconds, macs, bytes;
    int64_t runs;
} Row;

static int by_time(const void *a, const void *b)
{
    double x = ((const Row *)a)->seconds, y = ((const Row *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : strcmp(((const Row *)a)->name, ((const Row *)b)->name);
}

static void add(Row *row, const KernelCall *call, const NodeProfile *profile)
{
    row->seconds += profile->seconds;
    row->runs += profile->runs;
    row->macs += call_macs(call) * (double)profile->runs;
    row->bytes += call_bytes(call) * (double)profile->runs;
}

static void print_rows(FILE *out, Row *rows, int n, int n_shown, double total, double peak_gflops)
{
    qsort(rows, (size_t)n, sizeof *rows, by_time);
    fprintf(out, "%-64s %8s %6s %7s %9s %8s%s\n", "what", "ms", "share", "runs", "GFLOP/s", "GB/s",
            peak_gflops > 0 ? "    peak" : "");
    for (int i = 0; i < n && i < n_shown && rows[i].runs > 0; i++) {
        double gflops = 2e-9 * rows[i].macs / rows[i].seconds;
        fprintf(out, "%-64.64s %8.2f %5.1f%% %7lld %9.1f %8.1f", rows[i].name,
                1e3 * rows[i].seconds, 100 * rows[i].seconds / total, (long long)rows[i].runs,
                gflops, 1e-9 * rows[i].bytes / rows[i].seconds);
        if (peak_gflops > 0) fprintf(out, " %6.1f%%", 100 * gflops / peak_gflops);
        fprintf(out, "\n");
    }
}

void account_profile(FILE *out, const Graph *graph, const Exec *exec, double peak_gflops)
{
    const Plan *plan = exec_plan(exec);
    Row *nodes = mem_alloc((size_t)graph->n_nodes * sizeof *nodes), ops[OP_COUNT] = {0};
    double total = 0;
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const NodeProfile *profile = exec_profile_of(exec, n);
        if (profile->runs == 0) continue;
        const KernelCall *call = &plan->calls[n];
        snprintf(nodes[n].name, sizeof nodes[n].name, "%-22s %s", op_info(call->op)->name,
                 call->label);
        snprintf(ops[call->op].name, sizeof ops[0].name, "%s", op_info(call->op)->name);
        add(&nodes[n], call, profile);
        add(&ops[call->op], call, profile);
        total += profile->seconds;
    }
    fprintf(out, "profile: %.1f ms in kernels; by op\n", 1e3 * total);
    print_rows(out, ops, OP_COUNT, OP_COUNT, total, peak_gflops);
    fprintf(out, "slowest nodes\n");
    print_rows(out, nodes, graph->n_nodes, 20, total, peak_gflops);
    free(nodes);
}
