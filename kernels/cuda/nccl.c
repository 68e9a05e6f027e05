/* NCCL behind nccl.h. */
#include "kernels/cuda/nccl.h"

#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/memory.h"
#include "kernels/comm/comm.h"

struct Nccl {
    Comm *comm;
    ncclComm_t ranks; /* NULL: not there yet, or ended after a failure */
};

static Status fail(const Nccl *nccl, const char *what, ncclResult_t result)
{
    char why[512];
    const char *detail = nccl->ranks ? ncclGetLastError(nccl->ranks) : NULL;
    snprintf(why, sizeof why, "%s: %s%s%.300s", what, ncclGetErrorString(result),
             detail && detail[0] ? ": " : "", detail ? detail : "");
    return comm_broken(nccl->comm, why);
}

/* What was asked for goes on in a thread of NCCL's: until it is done. */
static Status settle(const Nccl *nccl, const char *what, ncclResult_t result)
{
    const struct timespec nap = {.tv_nsec = 100000};
    while (result == ncclInProgress) {
        TRY(comm_check(nccl->comm));
        nanosleep(&nap, NULL);
        ncclResult_t asked = ncclCommGetAsyncError(nccl->ranks, &result);
        if (asked != ncclSuccess) result = asked;
    }
    return result == ncclSuccess ? OK : fail(nccl, what, result);
}

static Status share_id(Comm *comm, ncclUniqueId *id)
{
    ncclResult_t result = comm_rank(comm) == 0 ? ncclGetUniqueId(id) : ncclSuccess;
    if (result != ncclSuccess)
        return status_fail(E_DEVICE, "cuda: ncclGetUniqueId: %s", ncclGetErrorString(result));
    return comm_broadcast(comm, "NCCL's unique id", id, sizeof *id, 0);
}

static Status join(Nccl *nccl)
{
    static const char what[] = "joining the GPUs by NCCL";
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    TRY(share_id(nccl->comm, &id));
    comm_entered(nccl->comm, what, 0);
    TRY(settle(nccl, what,
               ncclCommInitRankConfig(&nccl->ranks, comm_size(nccl->comm), id,
                                      comm_rank(nccl->comm), &config)));
    comm_left(nccl->comm);
    return OK;
}

Status nccl_open(Comm *comm, Nccl **out)
{
    setenv("NCCL_ALGO", "Ring", 1);
    Nccl *nccl = mem_alloc(sizeof *nccl);
    nccl->comm = comm;
    Status status = join(nccl);
    if (status != OK)
        nccl_close(nccl);
    else
        *out = nccl;
    return status;
}

/* A failure of the abort itself would say nothing new: the communicator is given up anyway. */
void nccl_end(Nccl *nccl)
{
    if (!nccl || !nccl->ranks) return;
    (void)ncclCommAbort(nccl->ranks);
    nccl->ranks = NULL;
}

void nccl_close(Nccl *nccl)
{
    if (!nccl) return;
    nccl_end(nccl);
    free(nccl);
}

Status nccl_check(Nccl *nccl)
{
    if (!nccl) return OK;
    ncclResult_t result = ncclSuccess;
    Status status = comm_check(nccl->comm);
    if (status == OK && nccl->ranks) {
        ncclResult_t asked = ncclCommGetAsyncError(nccl->ranks, &result);
        if (asked != ncclSuccess) result = asked;
        if (result != ncclSuccess && result != ncclInProgress)
            status = fail(nccl, "NCCL", result);
    }
    if (status != OK) nccl_end(nccl);
    return status;
}

Status nccl_sum(Nccl *nccl, float *data, int64_t n_elems, cudaStream_t stream)
{
    TRY(nccl_check(nccl));
    if (!nccl->ranks)
        return status_fail(E_NETWORK, "sums over the ranks ended with this rank's failure");
    Status status = settle(nccl, "ncclAllReduce",
                           ncclAllReduce(data, data, (size_t)n_elems, ncclFloat32, ncclSum,
                                         nccl->ranks, stream));
    if (status != OK) nccl_end(nccl);
    return status;
}
