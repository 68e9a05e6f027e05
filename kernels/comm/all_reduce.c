/* Sums over the ranks, in host memory. See all_reduce.h. */
#include "kernels/comm/all_reduce.h"

#include <assert.h>
#include <string.h>

#include "kernels/comm/comm.h"

void all_reduce_run(const KernelCall *call)
{
    assert(!call->state || call->dst[0].dtype == DT_F32);
    comm_all_reduce_start(call->state, call->label, call->dst[0].data,
                          shape_elems(call->dst[0].shape));
}

void all_reduce_wait_run(const KernelCall *call)
{
    (void)comm_all_reduce_wait(call->state, call->dst[0].data); /* comm_check tells it again */
}

/* A sum of n elements that is waited for. */
static void sum_now(const KernelCall *call, float *data, int64_t n)
{
    assert(!call->state || call->dst[0].dtype == DT_F32);
    comm_all_reduce_start(call->state, call->label, data, n);
    (void)comm_all_reduce_wait(call->state, data);
}

/* Zeros wherever others have their row, so the sum only moves: x + 0 is x. */
void rank_gather_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t row = tensor_bytes(src);
    assert(call->attr->rank_gather.n_ranks == comm_size(call->state));
    memset(dst->data, 0, tensor_bytes(dst));
    memcpy((char *)dst->data + (size_t)comm_rank(call->state) * row, src->data, row);
    sum_now(call, dst->data, shape_elems(dst->shape));
}

size_t rank_scatter_bytes(const KernelCall *call) { return tensor_bytes(&call->src[0]); }

void rank_scatter_run(const KernelCall *call)
{
    const Tensor *src = &call->src[0], *dst = &call->dst[0];
    size_t row = tensor_bytes(dst);
    assert(call->attr->rank_scatter.n_ranks == comm_size(call->state));
    memcpy(call->scratch, src->data, tensor_bytes(src));
    sum_now(call, call->scratch, shape_elems(src->shape));
    memcpy(dst->data, (char *)call->scratch + (size_t)comm_rank(call->state) * row, row);
}
