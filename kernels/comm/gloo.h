/* Gloo's collectives over TCP, for ranks on CPUs, behind plain C functions.
 *
 * Called by comm.c's worker thread alone. The implementation, gloo.cc, is the one C++ file of the
 * project. A peer that is gone makes the pending call fail at once.
 */
#ifndef RETORT_KERNELS_COMM_GLOO_H
#define RETORT_KERNELS_COMM_GLOO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Gloo Gloo;

/* gloo_open: connects all ranks with each other.
 * address   the numeric address under which the other ranks reach this one
 * values_fd a connection to the hub (wire.h), over which addresses are exchanged
 * errors  E_NETWORK */
Status gloo_open(int rank, int world_size, const char *address, int values_fd, int timeout_ms,
                 Gloo **out);
void gloo_close(Gloo *gloo);

/* gloo_all_reduce: data[i] = sum over the ranks, in place, the same bits on all of them and in
 * every run: a ring, so each element is summed in one order and then passed on. errors  E_NETWORK
 */
Status gloo_all_reduce(Gloo *gloo, float *data, int64_t n_elems);

/* gloo_agree: whether all ranks gave the same four words; ends on no rank before all have come. */
Status gloo_agree(Gloo *gloo, const uint64_t words[4], bool *equal);

Status gloo_broadcast(Gloo *gloo, void *data, size_t n_bytes, int root);

#endif
