/* ALL_REDUCE and ALL_REDUCE_WAIT on CUDA: sums over the ranks on a stream of their own, beside what is
 * computed meanwhile. One rank's sum is what it has.
 *
 * Two events order them: a sum waits for what was computed before its node; what comes behind the
 * wait's node waits for all sums begun so far. The host functions around a sum tell the watch over
 * the ranks, when the device comes there, which one this rank is in.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "kernels/comm/comm.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/nccl.h"

typedef struct Reduction {
    Comm *comm;
    char name[128];
    int64_t n_elems;
} Reduction;

static void enter(void *data)
{
    const Reduction *sum = data;
    comm_entered(sum->comm, sum->name, sum->n_elems * (int64_t)sizeof(float));
}

static void leave(void *data) { comm_left(((const Reduction *)data)->comm); }

static void nothing_run(const KernelCall *call) { (void)call; }

static void start_run(const KernelCall *call)
{
    Cuda *cuda = call->context;
    const Reduction *sum = call->state;
    CUDA_RUN(call, cudaEventRecord(cuda->summable, cuda->compute));
    CUDA_RUN(call, cudaStreamWaitEvent(cuda->comm, cuda->summable, 0));
    CUDA_RUN(call, cudaLaunchHostFunc(cuda->comm, enter, call->state));
    if (cuda_ready(call) &&
        nccl_sum(cuda->nccl, call->dst[0].data, sum->n_elems, cuda->comm) != OK)
        cuda_note(call, "NCCL", status_message()); /* wait has the verdict, if there is one */
    CUDA_RUN(call, cudaLaunchHostFunc(cuda->comm, leave, call->state));
}

static void wait_run(const KernelCall *call)
{
    Cuda *cuda = call->context;
    CUDA_RUN(call, cudaEventRecord(cuda->summed, cuda->comm));
    CUDA_RUN(call, cudaStreamWaitEvent(cuda->compute, cuda->summed, 0));
}

/* The ranks meet here, once per node: they must have the same sums, in the same order. */
Status cuda_all_reduce(Backend *backend, KernelCall *call)
{
    Cuda *cuda = backend->context;
    call->run = nothing_run;
    if (!backend->comm) return OK;
    if (!cuda->nccl) TRY(nccl_open(backend->comm, &cuda->nccl));
    Reduction *sum = mem_alloc(sizeof *sum);
    sum->comm = backend->comm;
    sum->n_elems = shape_elems(call->dst[0].shape);
    snprintf(sum->name, sizeof sum->name, "%.80s of %lld", call->label, (long long)sum->n_elems);
    call->run = start_run;
    call->state = sum;
    call->release = free;
    return comm_barrier(backend->comm, sum->name);
}

Status cuda_all_reduce_wait(Backend *backend, KernelCall *call)
{
    call->run = backend->comm ? wait_run : nothing_run;
    return OK;
}
