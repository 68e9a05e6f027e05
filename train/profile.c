/* Tables and traces of a profiled step. See profile.h. */
#include "train/profile.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/json_writer.h"
#include "train/account.h"

enum { N_SLOWEST = 20, NAME_BYTES = 160 };

/* ---- peak ---- */

Status profile_measure_peak(Backend *backend, DType precision, double *gflops)
{
    enum { SIDE = 2048, REPEATS = 5 };
    Graph *graph = graph_create();
    Exec *exec = NULL;
    ValueId a = graph_input(graph, "a", precision, SHAPE(SIDE, SIDE)),
            b = graph_input(graph, "b", precision, SHAPE(SIDE, SIDE));
    graph_output(graph, graph_op(graph, OP_MATMUL, ATTR(matmul, .trans_b = true), SRC(a, b)), "c");
    Status status = exec_create(graph, backend, &exec);
    double best = 1e30;
    for (int i = 0; i < REPEATS && status == OK; i++) {
        double start = clock_seconds();
        status = exec_run(exec);
        if (clock_seconds() - start < best) best = clock_seconds() - start;
    }
    *gflops = 2e-9 * SIDE * (double)SIDE * SIDE / best;
    exec_destroy(exec);
    graph_destroy(graph);
    return status;
}

/* ---- layers ---- */

/* Length of a module path up to its first number: "blocks.7" of "blocks.7.attn.qkv". */
static int layer_length(const char *path)
{
    for (int i = 0; path[i]; i++) {
        if (!isdigit((unsigned char)path[i]) || (i > 0 && path[i - 1] != '.')) continue;
        while (isdigit((unsigned char)path[i])) i++;
        return i;
    }
    return (int)strlen(path);
}

/* Nodes without a path are the optimiser's and the like; the teacher's paths, which are those of
 * its own weights, are told apart by its loop. */
static void layer_name(const Graph *graph, NodeId n, char *out)
{
    const Node *node = &graph->nodes[n];
    const Region *region = &graph->regions[node->region];
    bool is_teacher = strcmp(region->name ? region->name : "", "teacher") == 0;
    const char *path = node->label && node->label[0] ? node->label : "step";
    snprintf(out, NAME_BYTES, "%s%.*s%s", is_teacher ? "teacher: " : "", layer_length(path), path,
             node->backward ? " (backward)" : "");
}

/* ---- tables ---- */

typedef struct Row {
    char name[NAME_BYTES];
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
    row->macs += account_call_macs(call) * (double)profile->runs;
    row->bytes += account_call_bytes(call) * (double)profile->runs;
}

/* The row of that name, made at the end if there is none. Rows come in the order of the program,
 * so the one wanted is mostly the last. */
static Row *find_row(Row *rows, int *n, const char *name)
{
    for (int i = *n - 1; i >= 0; i--)
        if (strcmp(rows[i].name, name) == 0) return &rows[i];
    snprintf(rows[*n].name, NAME_BYTES, "%s", name);
    return &rows[(*n)++];
}

static void print_rows(FILE *out, const char *what, Row *rows, int n, const NodeProfile *total,
                       double peak_gflops)
{
    double steps = (double)total->runs;
    qsort(rows, (size_t)n, sizeof *rows, by_time);
    fprintf(out, "%-64s %9s %6s %7s %9s %8s %6s\n", what, "ms", "share", "runs", "GFLOP/s", "GB/s",
            "peak");
    for (int i = 0; i < n; i++) {
        double gflops = 2e-9 * rows[i].macs / rows[i].seconds;
        fprintf(out, "%-64.64s %9.2f %5.1f%% %7.0f %9.1f %8.1f %5.1f%%\n", rows[i].name,
                1e3 * rows[i].seconds / steps, 100 * rows[i].seconds / total->seconds,
                (double)rows[i].runs / steps, gflops, 1e-9 * rows[i].bytes / rows[i].seconds,
                100 * gflops / peak_gflops);
    }
}

typedef struct Tables {
    Row *layers, *ops, *nodes;
    int n_layers, n_ops, n_nodes;
    double seconds, macs;
} Tables;

static void collect(const Graph *graph, const Exec *exec, Tables *t)
{
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const NodeProfile *profile = exec_profile_of(exec, n);
        const KernelCall *call = &exec_plan(exec)->calls[n];
        char name[NAME_BYTES];
        if (profile->runs == 0) continue;
        layer_name(graph, n, name);
        add(find_row(t->layers, &t->n_layers, name), call, profile);
        add(find_row(t->ops, &t->n_ops, op_info(call->op)->name), call, profile);
        Row *node = &t->nodes[t->n_nodes++];
        snprintf(node->name, NAME_BYTES, "%-22s %s", op_info(call->op)->name, call->label);
        add(node, call, profile);
        t->seconds += profile->seconds;
        t->macs += account_call_macs(call) * (double)profile->runs;
    }
}

void profile_print(FILE *out, const Graph *graph, const Exec *exec, double peak_gflops)
{
    const NodeProfile *total = exec_profile_total(exec);
    size_t n = (size_t)graph->n_nodes;
    Tables t = {.layers = mem_alloc(n * sizeof(Row)),
                .ops = mem_alloc(n * sizeof(Row)),
                .nodes = mem_alloc(n * sizeof(Row))};
    if (total->runs > 0) {
        collect(graph, exec, &t);
        double gflops = 2e-9 * t.macs / total->seconds;
        fprintf(out,
                "profile of %lld steps: %.1f ms a step, %.1f%% of it in kernels; %.1f GFLOP/s, "
                "%.1f%% of the measured peak of %.0f\n",
                (long long)total->runs, 1e3 * total->seconds / (double)total->runs,
                100 * t.seconds / total->seconds, gflops, 100 * gflops / peak_gflops, peak_gflops);
        print_rows(out, "by layer", t.layers, t.n_layers, total, peak_gflops);
        print_rows(out, "by op", t.ops, t.n_ops, total, peak_gflops);
        qsort(t.nodes, (size_t)t.n_nodes, sizeof(Row), by_time);
        print_rows(out, "slowest nodes", t.nodes, t.n_nodes < N_SLOWEST ? t.n_nodes : N_SLOWEST,
                   total, peak_gflops);
    }
    free(t.layers);
    free(t.ops);
    free(t.nodes);
}

/* ---- trace ---- */

/* Microseconds, to a nanosecond. */
static double to_us(double seconds) { return round(1e9 * seconds) / 1e3; }

static void open_event(JsonWriter *json, const char *name, const char *category, double start,
                       double seconds)
{
    json_writer_object(json, NULL);
    json_writer_text(json, "name", name);
    json_writer_text(json, "cat", category);
    json_writer_text(json, "ph", "X"); /* a span, with start and duration in microseconds */
    json_writer_number(json, "ts", to_us(start));
    json_writer_number(json, "dur", to_us(seconds));
    json_writer_integer(json, "pid", 1);
    json_writer_integer(json, "tid", 1);
}

static void put_kernel(JsonWriter *json, const Graph *graph, const Exec *exec,
                       const ProfileEvent *event)
{
    const Node *node = &graph->nodes[event->node];
    const KernelCall *call = &exec_plan(exec)->calls[event->node];
    char shape[64];
    open_event(json, op_info(call->op)->name, node->backward ? "backward" : "forward", event->start,
               event->seconds);
    json_writer_object(json, "args");
    json_writer_text(json, "module", node->label ? node->label : "");
    if (call->n_dst > 0)
        json_writer_text(json, "result", shape_format(call->dst[0].shape, shape, sizeof shape));
    json_writer_number(json, "GFLOP/s", 2e-9 * account_call_macs(call) / event->seconds);
    json_writer_number(json, "GB/s", 1e-9 * account_call_bytes(call) / event->seconds);
    json_writer_end(json);
    json_writer_end(json);
}

/* Events [first, end) are of one layer: a span around them. Viewers nest spans by their times. */
static int64_t put_layer(JsonWriter *json, const Graph *graph, const ProfileEvent *events,
                         int64_t first, int64_t n)
{
    char name[NAME_BYTES], next[NAME_BYTES];
    int64_t end = first + 1;
    layer_name(graph, events[first].node, name);
    for (; end < n; end++) {
        layer_name(graph, events[end].node, next);
        if (strcmp(name, next) != 0) break;
    }
    double finish = events[end - 1].start + events[end - 1].seconds;
    open_event(json, name, "layer", events[first].start, finish - events[first].start);
    json_writer_end(json);
    return end;
}

Status profile_write_trace(const char *path, const Graph *graph, const Exec *exec)
{
    const ProfileEvent *events;
    int64_t n = exec_profile_events(exec, &events), layer_end = 0;
    JsonWriter *json = json_writer_create();
    json_writer_object(json, NULL);
    json_writer_text(json, "displayTimeUnit", "ms");
    json_writer_list(json, "traceEvents");
    for (int64_t i = 0; i < n; i++) {
        if (i == layer_end) layer_end = put_layer(json, graph, events, i, n);
        put_kernel(json, graph, exec, &events[i]);
    }
    json_writer_end(json);
    json_writer_end(json);
    return json_writer_commit(json, path);
}
