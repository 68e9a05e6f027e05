/* The kernels of the ops over ranks for backends whose tensors lie in host memory ("ref" and
 * "cpu"): call->state is the Comm, NULL for one rank, which sums nothing.
 * A failure is not theirs to report: exec.c asks comm_check between nodes.
 */
#ifndef RETORT_KERNELS_COMM_ALL_REDUCE_H
#define RETORT_KERNELS_COMM_ALL_REDUCE_H

#include "kernels/backend.h"

void all_reduce_run(const KernelCall *call);
void all_reduce_wait_run(const KernelCall *call);

void rank_gather_run(const KernelCall *call);
size_t rank_scatter_bytes(const KernelCall *call); /* of scratch */
void rank_scatter_run(const KernelCall *call);

#endif
