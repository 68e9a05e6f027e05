/* ALL_REDUCE and ALL_REDUCE_WAIT on CUDA. One rank's sum is what it has; more ranks are refused when the
 * graph is bound, not when the first gradient is there.
 */
#include "kernels/cuda/cuda.h"

static void nothing_run(const KernelCall *call) { (void)call; }

static Status bind_reduction(const Backend *backend, KernelCall *call)
{
    if (backend->comm)
        return cuda_unsupported(call, "this build has no collectives between GPUs; run one rank");
    call->run = nothing_run;
    return OK;
}

Status cuda_all_reduce(Backend *backend, KernelCall *call)
{
    return bind_reduction(backend, call);
}

Status cuda_all_reduce_wait(Backend *backend, KernelCall *call)
{
    return bind_reduction(backend, call);
}
