/* The simulator's plug-in: the CUDA backend's own, with each call watched.
 *
 * The backend's sources are compiled with retort_plugin_open renamed to cuda_plugin_open; this file
 * gives the name that the program looks for. Binds go through to the backend; then `run` is put
 * behind one that tells the device which operands the call has, so that every access can be held
 * against them.
 */
#include "tests/cudasim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "kernels/cuda/cuda.h"
#include "kernels/plugin.h"

/* What the watched call keeps of the backend's. */
typedef struct Watched {
    void (*run)(const KernelCall *call);
    void *state;
    void (*release)(void *state);
} Watched;

/* The opened backend's own bind: the same for all of them. */
static Status (*inner_bind)(Backend *backend, KernelCall *call);

static SimOperand operand(const Tensor *tensor, SimRole role, int index)
{
    uintptr_t begin = (uintptr_t)tensor->data;
    return (SimOperand){begin, begin + tensor_bytes(tensor), role, index,
                        (int)dtype_size(tensor->dtype)};
}

static SimCall describe(const KernelCall *call)
{
    SimCall out = {.n_operands = 0};
    snprintf(out.name, sizeof out.name, "%s: %s", call->label, op_info(call->op)->name);
    for (int i = 0; i < call->n_src; i++)
        if (cuda_present(&call->src[i]))
            out.operands[out.n_operands++] = operand(&call->src[i], SIM_SOURCE, i);
    for (int i = 0; i < call->n_dst; i++) {
        OpOperand facts = {0};
        op_dst(call->op, i, &facts);
        out.operands[out.n_operands++] = operand(&call->dst[i],
                                                 facts.mutated ? SIM_STATE : SIM_DESTINATION, i);
    }
    if (call->scratch_bytes > 0) {
        uintptr_t begin = (uintptr_t)call->scratch;
        out.operands[out.n_operands++] = (SimOperand){begin, begin + call->scratch_bytes,
                                                      SIM_SCRATCH, 0, 1};
    }
    return out;
}

static void run_watched(const KernelCall *call)
{
    const Watched *watched = call->state;
    SimCall facts = describe(call);
    KernelCall inner = *call;
    inner.state = watched->state;
    sim_stream_call(cuda_stream(call), &facts, true);
    watched->run(&inner);
    sim_stream_call(cuda_stream(call), &facts, false);
}

static void release_watched(void *state)
{
    Watched *watched = state;
    if (watched->release) watched->release(watched->state);
    free(watched);
}

static Status bind_watched(Backend *backend, KernelCall *call)
{
    TRY(inner_bind(backend, call));
    Watched *watched = mem_alloc(sizeof *watched);
    *watched = (Watched){call->run, call->state, call->release};
    call->run = run_watched;
    call->state = watched;
    call->release = release_watched;
    return OK;
}

Status cuda_plugin_open(PluginAbi program, int n_threads, Backend **out);

__attribute__((visibility("default"))) Status retort_plugin_open(PluginAbi program, int n_threads,
                                                                 Backend **out);
Status retort_plugin_open(PluginAbi program, int n_threads, Backend **out)
{
    TRY(cuda_plugin_open(program, n_threads, out));
    inner_bind = (*out)->bind;
    (*out)->bind = bind_watched;
    (*out)->name = "cudasim";
    return OK;
}
