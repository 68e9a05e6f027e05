/* Streams, events and recorded graphs: work is queued, and done as late and in as odd an order as
 * the rules of CUDA allow.
 *
 * Nothing runs before the host waits for it, except a few operations now and then (a real device
 * may be early, too). A drain picks at random among the streams whose first operation may run; only
 * a stream's own order and its waits for events hold it back. Clocks, kept as the host queues, tell
 * memory.c which operations are ordered: races are found whatever order was drawn.
 *
 * A capture writes the same operations into a script, which a launch queues again: on the stream of
 * the launch, and on streams of its own for those that were forked from the first.
 */
#include "tests/cudasim/sim.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum OpKind {
    OP_KERNEL,
    OP_COPY,
    OP_SET,
    OP_FUNCTION,
    OP_CALL_BEGIN,
    OP_CALL_END,
    OP_RECORD,
    OP_WAIT,
} OpKind;

typedef struct SimEvent {
    SimClock clock;           /* of the last record that was queued */
    uint64_t queued, reached; /* how many records were queued, and were passed */
    struct Script *script;    /* the capture it was recorded in last; NULL: none */
    int script_event;         /* its number there */
    SimClock script_clock;
} SimEvent;

/* What is done; a script's operations are queued many times. */
typedef struct Work {
    OpKind kind;
    char *name;
    SimKernel kernel;
    void *dst;
    const void *src;
    size_t bytes;
    int value; /* of OP_SET */
    bool (*ready)(void *data); /* NULL: at once */
    void (*run)(void *data);
    void *data;
    SimCall *call;
} Work;

typedef struct Op {
    Work *work;
    SimEvent *event; /* of OP_RECORD and OP_WAIT */
    uint64_t version;
    bool owns_work;
    uint32_t number;
    SimClock clock;
    struct Op *next;
} Op;

struct CUstream_st {
    int index;
    Op *first, *last;
    uint32_t n_queued;
    SimClock clock;
    SimCall call; /* what the operations that run now belong to */
    bool in_call;
    struct Script *script; /* the capture it takes part in; NULL: none */
    uint32_t n_scripted;
    SimClock script_clock;
};

typedef struct Action {
    Work *work;
    int stream; /* index of the captured stream */
    int event;  /* of OP_RECORD and OP_WAIT, by number */
} Action;

/* A captured graph; also what an executable graph is. */
typedef struct Script {
    int n_owners;
    int origin; /* index of the stream that was captured */
    Action *actions;
    int n_actions, capacity;
    int n_events;
    bool broken;
    SimEvent *events;                      /* of the replays */
    cudaStream_t streams[SIM_MAX_STREAMS]; /* of the replays, by index of the captured stream */
} Script;

static struct {
    struct CUstream_st *streams[SIM_MAX_STREAMS];
    SimClock host;
} sim;

static void join(SimClock *clock, const SimClock *other)
{
    for (int i = 0; i < SIM_MAX_STREAMS; i++)
        if (other->seen[i] > clock->seen[i]) clock->seen[i] = other->seen[i];
}

/* ---- work ---- */

static Work *work_create(OpKind kind, const char *name)
{
    Work *work = calloc(1, sizeof *work);
    work->kind = kind;
    work->name = strdup(name);
    return work;
}

static void work_destroy(Work *work)
{
    free(work->name);
    free(work->kernel.args);
    free(work->call);
    free(work->data);
    free(work);
}

static void do_copy(const Work *work)
{
    bool to = sim_is_device(work->dst), from = sim_is_device(work->src);
    if (from && !sim_touch(work->src, work->bytes, false)) return;
    if (to && !sim_touch(work->dst, work->bytes, true)) return;
    memmove(work->dst, work->src, work->bytes);
}

static void do_work(struct CUstream_st *stream, const Op *op)
{
    const Work *work = op->work;
    sim_op_begin(work->name, stream->in_call ? &stream->call : NULL, stream->index, op->number,
                 &op->clock);
    switch (work->kind) {
    case OP_KERNEL: sim_kernel_run(&work->kernel); break;
    case OP_COPY: do_copy(work); break;
    case OP_SET:
        if (work->value == 0 && sim_clear_fresh(work->dst, work->bytes)) break;
        if (sim_touch(work->dst, work->bytes, true)) memset(work->dst, work->value, work->bytes);
        break;
    case OP_FUNCTION: work->run(work->data); break;
    case OP_CALL_BEGIN:
        stream->call = *work->call;
        stream->in_call = true;
        sim_call_begin(work->call);
        break;
    case OP_CALL_END:
        sim_call_end(work->call);
        stream->in_call = false;
        break;
    case OP_RECORD: op->event->reached = op->version; break;
    case OP_WAIT: break;
    }
    sim_op_end();
}

/* ---- doing what is queued ---- */

static bool may_run(const struct CUstream_st *stream)
{
    const Op *op = stream ? stream->first : NULL;
    if (!op) return false;
    if (op->work->ready && !sim_failed()) return op->work->ready(op->work->data);
    return op->work->kind != OP_WAIT || op->event->reached >= op->version;
}

/* Whether what is queued waits for another process; then it is given time. */
static bool is_held(void)
{
    const struct timespec nap = {.tv_nsec = 100000};
    for (int i = 0; i < SIM_MAX_STREAMS; i++) {
        const struct CUstream_st *stream = sim.streams[i];
        if (!stream || !stream->first || !stream->first->work->ready) continue;
        nanosleep(&nap, NULL);
        return true;
    }
    return false;
}

static void run_first(struct CUstream_st *stream)
{
    Op *op = stream->first;
    if (!sim_failed()) do_work(stream, op);
    if (op->work->kind == OP_RECORD) op->event->reached = op->version;
    stream->first = op->next;
    if (!stream->first) stream->last = NULL;
    if (op->owns_work) work_destroy(op->work);
    free(op);
}

/* A drawn one of the streams that may go on; `shunned` only if there is no other. NULL: none. */
static struct CUstream_st *draw_stream(const struct CUstream_st *shunned)
{
    struct CUstream_st *able[SIM_MAX_STREAMS];
    uint32_t n = 0;
    for (int i = 0; i < SIM_MAX_STREAMS; i++)
        if (may_run(sim.streams[i]) && sim.streams[i] != shunned) able[n++] = sim.streams[i];
    if (n > 0) return able[sim_random(n)];
    return may_run(shunned) ? (struct CUstream_st *)shunned : NULL;
}

/* Until `stream` (NULL: every stream) is empty. The drawn manner: the others first, itself first,
 * or all mixed. */
static void drain(struct CUstream_st *stream)
{
    enum { OTHERS_FIRST, ITSELF_FIRST, MIXED } manner = sim_random(3);
    sim_device_open();
    while (!stream || stream->first) {
        struct CUstream_st *next = manner == ITSELF_FIRST && may_run(stream)
                                       ? stream
                                       : draw_stream(manner == OTHERS_FIRST ? stream : NULL);
        if (next)
            run_first(next);
        else if (!is_held())
            break;
    }
    assert(!stream || !stream->first); /* a wait's record is always queued before it */
    sim_device_close();
}

static void run_up_to(uint32_t n)
{
    sim_device_open();
    for (; n > 0; n--) {
        struct CUstream_st *next = draw_stream(NULL);
        if (!next) break;
        run_first(next);
    }
    sim_device_close();
}

/* A real device does not wait to be waited for. */
static void run_a_few(void)
{
    if (sim_random(8) == 0) run_up_to(sim_random(6));
}

/* ---- queueing ---- */

static void queue(struct CUstream_st *stream, Work *work, bool owns_work, SimEvent *event)
{
    Op *op = calloc(1, sizeof *op);
    op->work = work;
    op->owns_work = owns_work;
    op->event = event;
    join(&stream->clock, &sim.host);
    if (work->kind == OP_WAIT) {
        join(&stream->clock, &event->clock);
        op->version = event->queued;
    }
    op->number = ++stream->n_queued;
    stream->clock.seen[stream->index] = op->number;
    op->clock = stream->clock;
    if (work->kind == OP_RECORD) {
        event->clock = stream->clock;
        op->version = ++event->queued;
    }
    if (stream->last)
        stream->last->next = op;
    else
        stream->first = op;
    stream->last = op;
}

static void script_add(struct CUstream_st *stream, Work *work, int event)
{
    Script *script = stream->script;
    if (script->n_actions == script->capacity) {
        script->capacity = script->capacity * 2 + 64;
        script->actions = realloc(script->actions,
                                  (size_t)script->capacity * sizeof *script->actions);
    }
    script->actions[script->n_actions++] = (Action){work, stream->index, event};
    stream->script_clock.seen[stream->index] = ++stream->n_scripted;
}

static cudaError_t add(cudaStream_t stream, Work *work)
{
    if (sim_failed() || !stream) {
        work_destroy(work);
        return sim_failed() ? cudaErrorLaunchFailure : cudaErrorInvalidResourceHandle;
    }
    if (stream->script) {
        script_add(stream, work, -1);
        return cudaSuccess;
    }
    queue(stream, work, true, NULL);
    run_a_few();
    return sim_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

static unsigned long long volume(dim3 size) { return (unsigned long long)size.x * size.y * size.z; }

static bool launch_is_legal(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    return volume(grid) > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 &&
           volume(block) > 0 && volume(block) <= SIM_MAX_THREADS && block.z <= 64 &&
           shared_bytes <= sim_allowed_shared(kernel);
}

void cudasim_enqueue_kernel(const char *name, const void *kernel, dim3 grid, dim3 block,
                            size_t shared_bytes, cudaStream_t stream, void *args, size_t args_bytes,
                            void (*run)(const void *kernel, const void *args));
void cudasim_enqueue_kernel(const char *name, const void *kernel, dim3 grid, dim3 block,
                            size_t shared_bytes, cudaStream_t stream, void *args, size_t args_bytes,
                            void (*run)(const void *kernel, const void *args))
{
    if (!launch_is_legal(kernel, grid, block, shared_bytes)) {
        free(args);
        cudasim_set_error(cudaErrorInvalidConfiguration);
        return;
    }
    Work *work = work_create(OP_KERNEL, name);
    work->kernel = (SimKernel){.name = work->name,
                               .kernel = kernel,
                               .grid = {grid.x, grid.y, grid.z},
                               .block = {block.x, block.y, block.z},
                               .shared_bytes = shared_bytes,
                               .args = args,
                               .args_bytes = args_bytes,
                               .run = run};
    cudasim_set_error(add(stream, work));
}

cudaError_t sim_stream_gated(cudaStream_t stream, const char *name, bool (*ready)(void *data),
                             void (*run)(void *data), void *data)
{
    Work *work = work_create(OP_FUNCTION, name);
    work->ready = ready;
    work->run = run;
    work->data = data;
    return add(stream, work);
}

cudaError_t sim_stream_function(cudaStream_t stream, const char *name, void (*run)(void *data),
                                void *data)
{
    return sim_stream_gated(stream, name, NULL, run, data);
}

typedef struct HostCall {
    cudaHostFn_t function;
    void *data;
} HostCall;

static void call_host(void *data)
{
    const HostCall *call = data;
    call->function(call->data);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    HostCall *call = malloc(sizeof *call);
    *call = (HostCall){function, data};
    return sim_stream_function(stream, "cudaLaunchHostFunc", call_host, call);
}

void sim_stream_call(cudaStream_t stream, const SimCall *call, bool begin)
{
    Work *work = work_create(begin ? OP_CALL_BEGIN : OP_CALL_END, call->name);
    work->call = malloc(sizeof *call);
    *work->call = *call;
    add(stream, work); /* a failure shows in whatever the call launches */
}

/* Copies between device and pinned host memory; pageable memory would make them synchronous. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind;
    if (!sim_is_device(dst) && !sim_is_pinned(dst, bytes)) return cudaErrorInvalidValue;
    if (!sim_is_device(src) && !sim_is_pinned(src, bytes)) return cudaErrorInvalidValue;
    Work *work = work_create(OP_COPY, "cudaMemcpyAsync");
    work->dst = dst;
    work->src = src;
    work->bytes = bytes;
    return add(stream, work);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    Work *work = work_create(OP_SET, "cudaMemsetAsync");
    work->dst = memory;
    work->value = value;
    work->bytes = bytes;
    return add(stream, work);
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue; /* the only kind used here */
    for (int i = 0; i < SIM_MAX_STREAMS; i++) {
        if (sim.streams[i]) continue;
        sim.streams[i] = calloc(1, sizeof **sim.streams);
        sim.streams[i]->index = i;
        /* a reused number: all that bore it before is over */
        sim.streams[i]->n_queued = sim.host.seen[i];
        *out = sim.streams[i];
        return cudaSuccess;
    }
    return cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    drain(stream);
    join(&sim.host, &stream->clock);
    sim.streams[stream->index] = NULL;
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->script) {
        stream->script->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    drain(stream);
    join(&sim.host, &stream->clock);
    return sim_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

/* The host may be quick or slow to ask again. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream->script) {
        stream->script->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    run_up_to(1 + sim_random(500));
    if (sim_failed()) return cudaErrorLaunchFailure;
    if (stream->first) return cudaErrorNotReady;
    join(&sim.host, &stream->clock);
    return cudaSuccess;
}

void sim_drain_all(void)
{
    drain(NULL);
    for (int i = 0; i < SIM_MAX_STREAMS; i++)
        if (sim.streams[i]) join(&sim.host, &sim.streams[i]->clock);
}

bool sim_is_capturing(void)
{
    for (int i = 0; i < SIM_MAX_STREAMS; i++)
        if (sim.streams[i] && sim.streams[i]->script) return true;
    return false;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue; /* the only kind used here */
    *event = (cudaEvent_t)calloc(1, sizeof(SimEvent));
    return cudaSuccess;
}

/* Queued operations may still name it, so its few bytes stay. */
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    (void)event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream)
{
    SimEvent *event = (SimEvent *)handle;
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (!stream->script) {
        event->script = NULL;
        queue(stream, work_create(OP_RECORD, "cudaEventRecord"), true, event);
        run_a_few();
        return cudaSuccess;
    }
    event->script = stream->script;
    event->script_event = stream->script->n_events++;
    script_add(stream, work_create(OP_RECORD, "cudaEventRecord"), event->script_event);
    event->script_clock = stream->script_clock;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags)
{
    SimEvent *event = (SimEvent *)handle;
    if (!stream || flags) return cudaErrorInvalidValue;
    if (!event->script && stream->script) { /* what came before the capture */
        stream->script->broken = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (!event->script) {
        if (event->queued > 0)
            queue(stream, work_create(OP_WAIT, "cudaStreamWaitEvent"), true, event);
        return cudaSuccess;
    }
    if (!stream->script) { /* joins the capture */
        stream->script = event->script;
        stream->n_scripted = 0;
        memset(&stream->script_clock, 0, sizeof stream->script_clock);
    }
    join(&stream->script_clock, &event->script_clock);
    script_add(stream, work_create(OP_WAIT, "cudaStreamWaitEvent"), event->script_event);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    SimEvent *event = (SimEvent *)handle;
    sim_device_open();
    while (event->reached < event->queued) {
        struct CUstream_st *next = draw_stream(NULL);
        if (next)
            run_first(next);
        else if (!is_held())
            break;
    }
    assert(event->reached == event->queued); /* its record is always queued before */
    sim_device_close();
    join(&sim.host, &event->clock);
    return sim_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    if (stream->script) return cudaErrorIllegalState;
    Script *script = calloc(1, sizeof *script);
    script->n_owners = 1;
    script->origin = stream->index;
    stream->script = script;
    stream->n_scripted = 0;
    memset(&stream->script_clock, 0, sizeof stream->script_clock);
    return cudaSuccess;
}

static void script_drop(Script *script)
{
    if (--script->n_owners > 0) return;
    for (int i = 0; i < script->n_actions; i++) work_destroy(script->actions[i].work);
    for (int i = 0; i < SIM_MAX_STREAMS; i++)
        if (script->streams[i]) cudaStreamDestroy(script->streams[i]);
    free(script->actions);
    free(script->events);
    free(script);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    Script *script = stream->script;
    *graph = NULL;
    if (!script || script->origin != stream->index) return cudaErrorIllegalState;
    bool joined = true;
    for (int i = 0; i < SIM_MAX_STREAMS; i++) {
        struct CUstream_st *s = sim.streams[i];
        if (!s || s->script != script) continue;
        joined &= stream->script_clock.seen[i] >= s->n_scripted;
        s->script = NULL;
    }
    if (script->broken || !joined) {
        cudaError_t error = joined ? cudaErrorStreamCaptureInvalidated
                                   : cudaErrorStreamCaptureUnjoined;
        script_drop(script);
        return error;
    }
    *graph = (cudaGraph_t)script;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags)
{
    Script *script = (Script *)graph;
    if (!script || flags) return cudaErrorInvalidValue;
    script->n_owners++;
    script->events = calloc((size_t)script->n_events + 1, sizeof *script->events);
    for (int i = 0; i < script->n_actions; i++) {
        int s = script->actions[i].stream;
        if (s == script->origin || script->streams[s]) continue;
        cudaError_t error = cudaStreamCreateWithFlags(&script->streams[s], cudaStreamNonBlocking);
        if (error != cudaSuccess) return error;
    }
    *executable = (cudaGraphExec_t)script;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    Script *script = (Script *)executable;
    if (sim_failed()) return cudaErrorLaunchFailure;
    for (int i = 0; i < script->n_actions; i++) {
        const Action *a = &script->actions[i];
        cudaStream_t on = a->stream == script->origin ? stream : script->streams[a->stream];
        queue(on, a->work, false, a->event >= 0 ? &script->events[a->event] : NULL);
    }
    run_a_few();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    script_drop((Script *)graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    sim_drain_all(); /* what is queued names its work */
    script_drop((Script *)executable);
    return cudaSuccess;
}
