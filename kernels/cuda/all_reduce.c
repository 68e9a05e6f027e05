/* The ops over ranks on CUDA: sums by NCCL on a stream of their own, beside what is computed
 * meanwhile. One rank's sum is what it has. RANK_GATHER and RANK_SCATTER are sums, too, and wait at
 * once.
 *
 * Two events order them: a sum waits for what was computed before its node; what comes behind the
 * wait's node waits for all sums begun so far. The host functions around a sum tell the watch over
 * the ranks, when the device comes there, which one this rank is in.
 */
#include <assert.h>
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

static void start_sum(const KernelCall *call, void *data)
{
    Cuda *cuda = call->context;
    const Reduction *sum = call->state;
    CUDA_RUN(call, cudaEventRecord(cuda->summable, cuda->compute));
    CUDA_RUN(call, cudaStreamWaitEvent(cuda->comm, cuda->summable, 0));
    CUDA_RUN(call, cudaLaunchHostFunc(cuda->comm, enter, call->state));
    if (cuda_ready(call) && nccl_sum(cuda->nccl, data, sum->n_elems, cuda->comm) != OK)
        cuda_note(call, "NCCL", status_message()); /* wait has the verdict, if there is one */
    CUDA_RUN(call, cudaLaunchHostFunc(cuda->comm, leave, call->state));
}

static void start_run(const KernelCall *call) { start_sum(call, call->dst[0].data); }

static void wait_run(const KernelCall *call)
{
    Cuda *cuda = call->context;
    CUDA_RUN(call, cudaEventRecord(cuda->summed, cuda->comm));
    CUDA_RUN(call, cudaStreamWaitEvent(cuda->compute, cuda->summed, 0));
}

/* The ranks meet here, once per node: they must have the same sums, in the same order. */
static Status meet(Backend *backend, KernelCall *call, int64_t n_elems)
{
    Cuda *cuda = backend->context;
    if (!backend->comm) return OK;
    if (!cuda->nccl) TRY(nccl_open(backend->comm, &cuda->nccl));
    Reduction *sum = mem_alloc(sizeof *sum);
    sum->comm = backend->comm;
    sum->n_elems = n_elems;
    snprintf(sum->name, sizeof sum->name, "%.80s of %lld", call->label, (long long)n_elems);
    call->state = sum;
    call->release = free;
    return comm_barrier(backend->comm, sum->name);
}

Status cuda_all_reduce(Backend *backend, KernelCall *call)
{
    call->run = backend->comm ? start_run : nothing_run;
    return meet(backend, call, shape_elems(call->dst[0].shape));
}

Status cuda_all_reduce_wait(Backend *backend, KernelCall *call)
{
    call->run = backend->comm ? wait_run : nothing_run;
    return OK;
}

/* ---- rows ---- */

static void sum_now(const KernelCall *call, void *data)
{
    if (!call->state) return;
    start_sum(call, data);
    wait_run(call);
}

static size_t own_row_at(const KernelCall *call, size_t row_bytes)
{
    const Reduction *sum = call->state;
    return sum ? (size_t)comm_rank(sum->comm) * row_bytes : 0;
}

/* Zeros wherever others have their row, so the sum only moves: x + 0 is x. */
static void gather_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t row = tensor_bytes(src);
    CUDA_RUN(call, cudaMemsetAsync(dst->data, 0, tensor_bytes(dst), cuda_stream(call)));
    CUDA_RUN(call, cudaMemcpyAsync((char *)dst->data + own_row_at(call, row), src->data, row,
                                   cudaMemcpyDeviceToDevice, cuda_stream(call)));
    sum_now(call, dst->data);
}

Status cuda_rank_gather(Backend *backend, KernelCall *call)
{
    assert(call->attr->rank_gather.n_ranks == comm_size(backend->comm));
    call->run = gather_run;
    return meet(backend, call, shape_elems(call->dst[0].shape));
}

static void scatter_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t row = tensor_bytes(dst);
    CUDA_RUN(call, cudaMemcpyAsync(call->scratch, src->data, tensor_bytes(src),
                                   cudaMemcpyDeviceToDevice, cuda_stream(call)));
    sum_now(call, call->scratch);
    CUDA_RUN(call, cudaMemcpyAsync(dst->data, (char *)call->scratch + own_row_at(call, row), row,
                                   cudaMemcpyDeviceToDevice, cuda_stream(call)));
}

Status cuda_rank_scatter(Backend *backend, KernelCall *call)
{
    assert(call->attr->rank_scatter.n_ranks == comm_size(backend->comm));
    call->run = scatter_run;
    return meet(backend, call, shape_elems(call->src[0].shape));
}
