/* NCCL's entry points between processes that each simulate a GPU, over a file that all of them map.
 *
 * A sum is two operations of its stream. The first hands the own numbers out, as soon as all ranks
 * have read the ones before; the second adds those of all ranks up, as soon as they are there, and
 * before that compares what the ranks gave: element counts, types and operators must be equal,
 * which NCCL itself does not check. Until then both hold their stream back, and the host that waits
 * for it, for ever if a rank is gone: only ncclCommAbort lets them pass, without doing anything.
 *
 * The communicator is of the kind that never blocks, the only one used here: joining takes a while,
 * and so, now and then, does starting a sum; whoever does not wait for it is reported.
 */
#include "tests/cudasim/sim.h"

#include <fcntl.h>
#include <nccl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_RANKS = 8, SLOT_BYTES = 64 << 20 };

typedef struct Given { /* what a rank has called for */
    size_t count;
    int type, op;
} Given;

typedef struct Shared {
    atomic_int n_joined;
    struct {
        atomic_ulong given, taken; /* sums that the rank has handed out, and has added up */
        Given what;
    } ranks[MAX_RANKS];
} Shared;

enum { SHARED_BYTES = 4096 };

struct ncclComm {
    int rank, n_ranks;
    char path[NCCL_UNIQUE_ID_BYTES];
    Shared *shared;
    char *numbers; /* SLOT_BYTES for each rank, behind Shared in the file */
    unsigned long n_given, n_taken;
    unsigned unsettled; /* so many questions more are answered by ncclInProgress */
    bool joined, aborted;
};

typedef struct Sum {
    ncclComm_t comm;
    const float *src;
    float *dst;
    Given what;
} Sum;

static float *numbers_of(const struct ncclComm *comm, int rank)
{
    return (float *)(comm->numbers + (size_t)rank * SLOT_BYTES);
}

/* ---- in the order of the stream ---- */

static bool may_give(void *data)
{
    const struct ncclComm *comm = ((Sum *)data)->comm;
    if (comm->aborted) return true;
    for (int r = 0; r < comm->n_ranks; r++)
        if (atomic_load(&comm->shared->ranks[r].taken) < comm->n_given) return false;
    return true;
}

static void give(void *data)
{
    const Sum *sum = data;
    struct ncclComm *comm = sum->comm;
    size_t bytes = sum->what.count * sizeof(float);
    if (comm->aborted || !sim_touch(sum->src, bytes, false)) return;
    memcpy(numbers_of(comm, comm->rank), sum->src, bytes);
    comm->shared->ranks[comm->rank].what = sum->what;
    atomic_store(&comm->shared->ranks[comm->rank].given, ++comm->n_given);
}

static bool may_take(void *data)
{
    const struct ncclComm *comm = ((Sum *)data)->comm;
    if (comm->aborted) return true;
    for (int r = 0; r < comm->n_ranks; r++)
        if (atomic_load(&comm->shared->ranks[r].given) <= comm->n_taken) return false;
    return true;
}

static bool all_gave_the_same(const struct ncclComm *comm, const Given *own)
{
    for (int r = 0; r < comm->n_ranks; r++) {
        const Given *other = &comm->shared->ranks[r].what;
        if (other->count == own->count && other->type == own->type && other->op == own->op)
            continue;
        sim_report("rank %d sums %zu elements, rank %d %zu (of type %d and %d, by %d and %d)",
                   comm->rank, own->count, r, other->count, own->type, other->type, own->op,
                   other->op);
        return false;
    }
    return true;
}

static void take(void *data)
{
    const Sum *sum = data;
    struct ncclComm *comm = sum->comm;
    if (comm->aborted || !all_gave_the_same(comm, &sum->what) ||
        !sim_touch(sum->dst, sum->what.count * sizeof(float), true))
        return;
    for (size_t i = 0; i < sum->what.count; i++) {
        float total = numbers_of(comm, 0)[i];
        for (int r = 1; r < comm->n_ranks; r++) total += numbers_of(comm, r)[i];
        sum->dst[i] = total;
    }
    atomic_store(&comm->shared->ranks[comm->rank].taken, ++comm->n_taken);
}

/* ---- the library's calls ---- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const char *folder = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    int length = snprintf(id->internal, sizeof id->internal, "%s/cudasim_nccl_XXXXXX",
                          folder ? folder : "/tmp");
    int fd = length < (int)sizeof id->internal ? mkstemp(id->internal) : -1;
    if (fd < 0 || ftruncate(fd, SHARED_BYTES + (off_t)MAX_RANKS * SLOT_BYTES) != 0)
        return ncclSystemError;
    close(fd);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config->blocking != 0 || n_ranks > MAX_RANKS || rank < 0 || rank >= n_ranks)
        return ncclInvalidArgument;
    int fd = open(id.internal, O_RDWR | O_CLOEXEC);
    if (fd < 0) return ncclSystemError;
    char *memory = mmap(NULL, SHARED_BYTES + (size_t)MAX_RANKS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) return ncclSystemError;
    struct ncclComm *comm = calloc(1, sizeof *comm);
    comm->rank = rank;
    comm->n_ranks = n_ranks;
    comm->shared = (Shared *)memory;
    comm->numbers = memory + SHARED_BYTES;
    snprintf(comm->path, sizeof comm->path, "%s", id.internal);
    atomic_fetch_add(&comm->shared->n_joined, 1);
    *out = comm;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    if (!comm->joined && atomic_load(&comm->shared->n_joined) == comm->n_ranks) {
        comm->joined = true;
        if (comm->rank == 0) unlink(comm->path);
    }
    bool busy = !comm->joined || comm->unsettled > 0;
    if (comm->unsettled > 0) comm->unsettled--;
    *result = busy ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    if (!comm->joined || comm->unsettled > 0) {
        sim_report("ncclAllReduce before the communicator's last call has ended");
        return ncclInvalidUsage;
    }
    if (type != ncclFloat32 || op != ncclSum || count * sizeof(float) > SLOT_BYTES)
        return ncclInvalidArgument; /* the only kind used here */
    Sum *first = malloc(sizeof *first), *second = malloc(sizeof *second);
    *first = *second = (Sum){comm, src, dst, {count, (int)type, (int)op}};
    if (sim_stream_gated(stream, "ncclAllReduce", may_give, give, first) != cudaSuccess ||
        sim_stream_gated(stream, "ncclAllReduce", may_take, take, second) != cudaSuccess)
        return ncclUnhandledCudaError;
    comm->unsettled = sim_random(3);
    return comm->unsettled > 0 ? ncclInProgress : ncclSuccess;
}

/* Queued operations may still name it, so it stays, small as it is. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->aborted = true;
    if (!comm->joined && comm->rank == 0) unlink(comm->path);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess: return "no error";
    case ncclSystemError: return "unhandled system error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    default: return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return sim_report_text();
}
