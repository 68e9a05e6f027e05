/* Rank 0's side of the hub: a thread that keeps the values, hears the beats and gives the verdict.
 *
 * Called by comm.c on rank 0. Once there is a verdict (verdict.h) it is sent to every rank's
 * heartbeat connection and answers all further questions.
 * Silence is counted in the hub's own wake-ups, each for half a second at most: a machine that
 * slept, or a job that was suspended and went on, accuses nobody.
 */
#ifndef RETORT_KERNELS_COMM_HUB_H
#define RETORT_KERNELS_COMM_HUB_H

#include "kernels/comm/wire.h"

typedef struct Hub Hub;

/* hub_open: listens on launch->port and starts the thread.
 * units   timeout_ms as in verdict.h
 * errors  E_NETWORK if the port is taken, saying what to do */
Status hub_open(const Launch *launch, int64_t timeout_ms, Hub **out);

/* hub_close: waits until all other ranks have left, linger_ms at most; NULL is fine. */
void hub_close(Hub *hub, int linger_ms);

/* hub_address: under which address the ranks of other hosts reached us; "" if all came
 * from this host. */
void hub_address(Hub *hub, char *out, size_t out_bytes);

#endif
