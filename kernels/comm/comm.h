/* The ranks of a run: collectives, and a watch over all of them.
 *
 * Called by the backends (all_reduce.c), by autograd/exec.c (what a rank is doing) and by train/.
 * A run of one rank has no Comm: every function takes NULL and then has nothing to do.
 *
 * How it works. Rank 0 serves a small hub (wire.h) over which the ranks find each other. Gloo
 * moves the data between CPUs; between GPUs NCCL does (kernels/cuda/nccl.h), which finds its ranks
 * over Gloo and tells the watch here what it is at. Each rank has two threads: a worker that does
 * the collectives in the order in which they were started, so that they overlap with computation,
 * and a watcher that tells rank 0 once a second where its rank is, and hears whether the run is
 * over.
 *
 * Invariants
 *  1. Every rank starts the same collectives in the same order. Before data moves, step, name and
 *     size are compared; ranks that differ end the run.
 *  2. Nothing waits for ever: a rank that dies, hangs or diverges makes every call on every other
 *     rank return E_NETWORK, with one line that names rank, step and op.
 *  3. Sums are f32, the same bits on all ranks and in every run with as many ranks.
 */
#ifndef RETORT_KERNELS_COMM_COMM_H
#define RETORT_KERNELS_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/comm/launch.h"

typedef struct Comm Comm;

/* comm_open: joins the run; returns when all ranks have come. *out is NULL for one rank.
 * units   timeout_ms: how long a rank may be absent, silent or idle while others wait for it
 * errors  E_NETWORK, naming who did not come */
Status comm_open(const Launch *launch, int64_t timeout_ms, Comm **out);

/* comm_close: leaves the run. `status` is how this rank ended: unless it is OK or E_INTERRUPTED
 * (which all agree upon), the other ranks are told so, with status_message(), and end too.
 * returns false if a collective is still under way and cannot be ended: what it works on must then
 *         be left alone until the process ends */
bool comm_close(Comm *comm, Status status);

int comm_rank(const Comm *comm);        /* 0 for NULL */
int comm_size(const Comm *comm);        /* 1 for NULL */
int comm_local_rank(const Comm *comm);  /* among the ranks of this host: which GPU is ours */
int comm_local_size(const Comm *comm);  /* ranks on this host */
const char *comm_map(const Comm *comm); /* one line per rank: rank, host, process; "" for NULL */

/* ---- collectives; the names must be the same on all ranks ---- */

/* comm_all_reduce_start: data[i] becomes the sum over the ranks; until the wait for the same data
 * nobody may touch it. comm_all_reduce_wait: errors  E_NETWORK */
void comm_all_reduce_start(Comm *comm, const char *name, float *data, int64_t n_elems);
Status comm_all_reduce_wait(Comm *comm, const float *data);

/* comm_broadcast: rank `root`'s bytes to all. comm_barrier: until all are here. errors  E_NETWORK
 */
Status comm_broadcast(Comm *comm, const char *name, void *data, size_t n_bytes, int root);
Status comm_barrier(Comm *comm, const char *name);

/* ---- collectives that another library does, for the watch ---- */

/* comm_entered, comm_left: this rank begins and has ended one; on any thread, in the order in which
 * they are done, which must be the same on all ranks. */
void comm_entered(Comm *comm, const char *name, int64_t n_bytes);
void comm_left(Comm *comm);
/* comm_broken: one failed, `why` says how: mostly another rank's fault. Waits for rank 0's word on
 * whose. returns E_NETWORK: the verdict, or `why` if there is none */
Status comm_broken(Comm *comm, const char *why);

/* ---- for the watch ---- */

void comm_at_step(Comm *comm, int64_t step); /* of training; -1: not yet */
/* comm_doing: what comes now: module and op, or ("", phase). A phase that may take long without
 * being a hang (loading, saving) is excused. Both texts are copied. */
void comm_doing(Comm *comm, const char *label, const char *what, bool excused);
/* comm_check: OK while the run goes on. errors  E_NETWORK: the verdict */
Status comm_check(Comm *comm);

#endif
