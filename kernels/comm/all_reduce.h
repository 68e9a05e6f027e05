/* The kernels of ALL_REDUCE and ALL_REDUCE_WAIT for backends whose tensors lie in host memory ("ref"
 * and "cpu"): call->state is the Comm, NULL for one rank, which has nothing to do.
 * A failure is not theirs to report: exec.c asks comm_check between nodes.
 */
#ifndef RETORT_KERNELS_COMM_ALL_REDUCE_H
#define RETORT_KERNELS_COMM_ALL_REDUCE_H

#include "kernels/backend.h"

void all_reduce_run(const KernelCall *call);
void all_reduce_wait_run(const KernelCall *call);

#endif
