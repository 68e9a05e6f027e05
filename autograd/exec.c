/* The executor: one arena, one flat program. See exec.h. */
#include "autograd/exec.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "base/clock.h"
#include "base/memory.h"
#include "kernels/comm/comm.h"

/* A call's operand whose address moves with the iteration of the loops around it. */
typedef struct Patch {
    void **slot;
    char *base;
    int64_t stride_bytes[REGION_MAX_DEPTH];
} Patch;

struct Exec {
    Graph *graph;
    Backend *backend;
    Plan *plan;
    char *arena;
    Patch *patches;
    int n_patches, patch_capacity;
    int *first_patch; /* by node, n_nodes + 1 entries: patches [first_patch[n], first_patch[n+1]) */
    int64_t iteration[REGION_MAX_DEPTH];
    int *loop_start; /* by region: instruction after its LOOP_BEGIN */
    bool profiling;
    bool warm;        /* a run was launched call by call */
    void *recording;  /* the backend's; NULL: none yet */
    double run_start; /* s, on the monotonic clock */
    NodeProfile *profile, total;
    ProfileEvent *events; /* of the last run; room for all of one */
    int64_t n_events;
};

/* ---- addresses ---- */

static char *base_address(const Exec *exec, ValueId value)
{
    const Value *view = &exec->graph->values[value];
    ValueId base = graph_base(exec->graph, value);
    const Value *v = &exec->graph->values[base];
    size_t offset_bytes = (size_t)view->offset * dtype_size(view->dtype);
    if (v->kind == VALUE_STORE) {
        assert(v->store->entries[v->entry].data);
        return (char *)v->store->entries[v->entry].data + offset_bytes;
    }
    return exec->arena + exec->plan->offset[base] + offset_bytes;
}

static void bind_operand(Exec *exec, ValueId value, Tensor *tensor)
{
    if (value == VALUE_NONE) return;
    const Value *v = &exec->graph->values[value];
    tensor->data = base_address(exec, value);
    if (v->kind != VALUE_VIEW) return;
    Patch patch = {.slot = &tensor->data, .base = tensor->data};
    bool moves = false;
    for (int depth = 0; depth < REGION_MAX_DEPTH; depth++) {
        patch.stride_bytes[depth] = v->stride[depth] * (int64_t)dtype_size(v->dtype);
        moves |= v->stride[depth] != 0;
    }
    if (!moves) return;
    exec->patches = mem_grow(exec->patches, &exec->patch_capacity, exec->n_patches + 1,
                             sizeof(Patch));
    exec->patches[exec->n_patches++] = patch;
}

static void bind_addresses(Exec *exec)
{
    for (NodeId n = 0; n < exec->graph->n_nodes; n++) {
        KernelCall *call = &exec->plan->calls[n];
        exec->first_patch[n] = exec->n_patches;
        if (!call->run) continue;
        for (int i = 0; i < call->n_src; i++)
            bind_operand(exec, exec->graph->nodes[n].src[i], &call->src[i]);
        for (int i = 0; i < call->n_dst; i++)
            bind_operand(exec, exec->graph->nodes[n].dst[i], &call->dst[i]);
        call->scratch = exec->arena + exec->plan->scratch_offset[n];
    }
    exec->first_patch[exec->graph->n_nodes] = exec->n_patches;
}

/* ---- life ---- */

Status exec_create(Graph *graph, Backend *backend, Exec **out)
{
    Exec *exec = mem_alloc(sizeof *exec);
    exec->graph = graph;
    exec->backend = backend;
    Status status = OK;
    TRY_GOTO(plan_build(graph, backend, &exec->plan), failed);
    void *arena = NULL;
    if (exec->plan->arena_bytes > 0)
        TRY_GOTO(backend->alloc(backend, exec->plan->arena_bytes, &arena), failed);
    exec->arena = arena;
    exec->first_patch = mem_alloc(((size_t)graph->n_nodes + 1) * sizeof(int));
    exec->loop_start = mem_alloc((size_t)graph->n_regions * sizeof(int));
    exec->profile = mem_alloc((size_t)graph->n_nodes * sizeof(NodeProfile));
    for (int i = 0; i < exec->plan->n_instrs; i++)
        if (exec->plan->program[i].kind == INSTR_LOOP_BEGIN)
            exec->loop_start[exec->plan->program[i].id] = i + 1;
    bind_addresses(exec);
    *out = exec;
    return OK;
failed:
    exec_destroy(exec);
    return status;
}

void exec_destroy(Exec *exec)
{
    if (!exec) return;
    if (exec->recording) exec->backend->recording_free(exec->recording);
    if (exec->arena) exec->backend->free(exec->backend, exec->arena, exec->plan->arena_bytes);
    plan_destroy(exec->plan);
    free(exec->patches);
    free(exec->first_patch);
    free(exec->loop_start);
    free(exec->profile);
    free(exec->events);
    free(exec);
}

const Plan *exec_plan(const Exec *exec) { return exec->plan; }

/* ---- host access ---- */

static size_t bytes_of(const Exec *exec, ValueId value)
{
    const Value *v = graph_value(exec->graph, value);
    return (size_t)shape_elems(v->shape) * dtype_size(v->dtype);
}

Status exec_write(Exec *exec, ValueId input, const void *host)
{
    assert(graph_value(exec->graph, input)->kind == VALUE_INPUT);
    return exec->backend->upload(exec->backend, base_address(exec, input), host,
                                 bytes_of(exec, input));
}

Status exec_read(Exec *exec, ValueId value, void *host)
{
    const Value *v = graph_value(exec->graph, value);
    assert(v->output || v->kind == VALUE_INPUT || v->kind == VALUE_STORE);
    return exec->backend->download(exec->backend, host, base_address(exec, value),
                                   bytes_of(exec, value));
}

Status exec_read_f32(Exec *exec, ValueId value, float *host)
{
    const Value *v = graph_value(exec->graph, value);
    if (v->dtype == DT_F32) return exec_read(exec, value, host);
    void *raw = mem_alloc(bytes_of(exec, value));
    Status status = exec_read(exec, value, raw);
    if (status == OK) tensor_convert(host, DT_F32, raw, v->dtype, shape_elems(v->shape));
    free(raw);
    return status;
}

/* ---- running ---- */

static const char *node_label(const KernelCall *call)
{
    return call->label[0] ? call->label : "step";
}

static void apply_patches(Exec *exec, NodeId node)
{
    for (int i = exec->first_patch[node]; i < exec->first_patch[node + 1]; i++) {
        Patch *patch = &exec->patches[i];
        int64_t offset = 0;
        for (int depth = 0; depth < REGION_MAX_DEPTH; depth++)
            offset += exec->iteration[depth] * patch->stride_bytes[depth];
        *patch->slot = patch->base + offset;
    }
}

/* Puts the node before the message of a failure that showed after it. */
static Status name_node(const Exec *exec, NodeId node, Status status)
{
    const KernelCall *call = &exec->plan->calls[node];
    char why[1024];
    snprintf(why, sizeof why, "%s", status_message());
    return status_fail(status, "%s: %s%s, micro-batch %lld, chunk %lld: %s", node_label(call),
                       op_info(call->op)->name,
                       exec->graph->nodes[node].backward ? " (backward)" : "",
                       (long long)exec->iteration[1], (long long)exec->iteration[2], why);
}

static Status run_profiled(Exec *exec, NodeId node)
{
    const KernelCall *call = &exec->plan->calls[node];
    double start = clock_seconds();
    call->run(call);
    Status status = exec->backend->wait(exec->backend);
    double seconds = clock_seconds() - start;
    exec->profile[node].seconds += seconds;
    exec->profile[node].runs++;
    exec->events[exec->n_events++] = (ProfileEvent){node, start - exec->run_start, seconds};
    return status == OK ? OK : name_node(exec, node, status);
}

/* Tells the watch over the ranks where we are; ends here if the run is over for all. Waiting, the
 * backend gives up what it has under way with the others. */
static Status report_node(const Exec *exec, NodeId node)
{
    const KernelCall *call = &exec->plan->calls[node];
    Comm *comm = exec->backend->comm;
    comm_doing(comm, node_label(call), op_info(call->op)->name, false);
    if (comm_check(comm) == OK) return OK;
    (void)exec->backend->wait(exec->backend);
    return comm_check(comm);
}

static bool is_last_iteration(const Exec *exec, RegionId region)
{
    const Region *r = &exec->graph->regions[region];
    return exec->iteration[r->depth] == r->count - 1;
}

static Status run_node(Exec *exec, NodeId node)
{
    const KernelCall *call = &exec->plan->calls[node];
    const Node *of = &exec->graph->nodes[node];
    if (of->last_only && !is_last_iteration(exec, of->region)) return OK;
    TRY(report_node(exec, node));
    apply_patches(exec, node);
    if (exec->profiling) return run_profiled(exec, node);
    call->run(call);
    if (!exec->backend->sync) return OK;
    Status status = exec->backend->wait(exec->backend);
    return status == OK ? OK : name_node(exec, node, status);
}

/* Position after a LOOP_END: back to the loop's start, or on. */
static int next_after_loop(Exec *exec, RegionId region, int position)
{
    int64_t *iteration = &exec->iteration[exec->graph->regions[region].depth];
    if (++*iteration < exec->graph->regions[region].count) return exec->loop_start[region];
    *iteration = 0;
    return position + 1;
}

static Status check_node(const Exec *exec, NodeId node);

static Status launch_program(Exec *exec, bool checked)
{
    exec->n_events = 0;
    exec->run_start = exec->profiling ? clock_seconds() : 0;
    memset(exec->iteration, 0, sizeof exec->iteration);
    for (int i = 0; i < exec->plan->n_instrs;) {
        Instr instr = exec->plan->program[i];
        if (instr.kind == INSTR_LOOP_END) {
            i = next_after_loop(exec, instr.id, i);
            continue;
        }
        if (instr.kind == INSTR_RUN) {
            TRY(run_node(exec, instr.id));
            if (checked) TRY(check_node(exec, instr.id));
        }
        i++;
    }
    return OK;
}

static bool records(const Exec *exec)
{
    const Backend *backend = exec->backend;
    return backend->replay && backend->recording && !backend->sync && !exec->profiling;
}

static Status record(Exec *exec)
{
    TRY(exec->backend->record_begin(exec->backend));
    Status launched = launch_program(exec, false);
    Status recorded = exec->backend->record_end(exec->backend, &exec->recording);
    return launched != OK ? launched : recorded;
}

Status exec_run(Exec *exec)
{
    if (records(exec) && exec->warm) {
        if (!exec->recording) TRY(record(exec));
        comm_doing(exec->backend->comm, "", "the recorded step", false);
        TRY(exec->backend->replay(exec->backend, exec->recording));
    } else {
        TRY(launch_program(exec, false));
        exec->warm = true;
    }
    TRY(exec->backend->wait(exec->backend));
    if (!exec->profiling) return OK;
    exec->total.seconds += clock_seconds() - exec->run_start;
    exec->total.runs++;
    return OK;
}

Status exec_run_checked(Exec *exec)
{
    TRY(launch_program(exec, true));
    return exec->backend->wait(exec->backend);
}

/* Index of the first element that is not finite; -1 if all are. */
static int64_t first_nonfinite(const void *data, DType dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double value;
        tensor_convert(&value, DT_F64, (const char *)data + (size_t)i * dtype_size(dtype), dtype,
                       1);
        if (!isfinite(value)) return i;
    }
    return -1;
}

static Status check_node(const Exec *exec, NodeId node)
{
    const KernelCall *call = &exec->plan->calls[node];
    TRY(exec->backend->wait(exec->backend));
    for (int d = 0; d < call->n_dst; d++) {
        const Tensor *dst = &call->dst[d];
        if (!dtype_is_float(dst->dtype)) continue;
        void *host = mem_alloc(tensor_bytes(dst));
        Status status = exec->backend->download(exec->backend, host, dst->data, tensor_bytes(dst));
        int64_t bad = status == OK ? first_nonfinite(host, dst->dtype, shape_elems(dst->shape))
                                   : -1;
        free(host);
        TRY(status);
        if (bad < 0) continue;
        char shape[64];
        return status_fail(
            E_NUMERIC,
            "%s: %s%s wrote NaN or infinity first: destination %d (%s), element %lld, "
            "micro-batch %lld, chunk %lld",
            node_label(call), op_info(call->op)->name,
            exec->graph->nodes[node].backward ? " (backward)" : "", d,
            shape_format(dst->shape, shape, sizeof shape), (long long)bad,
            (long long)exec->iteration[1], (long long)exec->iteration[2]);
    }
    return OK;
}

/* ---- profile ---- */

/* Nodes that one run executes, loops included. */
static int64_t executions_per_run(const Exec *exec)
{
    int64_t n = 0, repeats = 1;
    for (int i = 0; i < exec->plan->n_instrs; i++) {
        Instr instr = exec->plan->program[i];
        if (instr.kind == INSTR_RUN) n += repeats;
        if (instr.kind == INSTR_LOOP_BEGIN) repeats *= exec->graph->regions[instr.id].count;
        if (instr.kind == INSTR_LOOP_END) repeats /= exec->graph->regions[instr.id].count;
    }
    return n;
}

void exec_profile(Exec *exec, bool on)
{
    exec->profiling = on;
    if (on && !exec->events)
        exec->events = mem_alloc((size_t)executions_per_run(exec) * sizeof *exec->events);
}

const NodeProfile *exec_profile_of(const Exec *exec, NodeId node) { return &exec->profile[node]; }

const NodeProfile *exec_profile_total(const Exec *exec) { return &exec->total; }

int64_t exec_profile_events(const Exec *exec, const ProfileEvent **out)
{
    *out = exec->events;
    return exec->n_events;
}
