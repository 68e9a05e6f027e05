/* Sums between GPUs by NCCL, one process per GPU; the one place that knows NCCL.
 *
 * Used by all_reduce.c and backend.c. The ranks find each other over the Comm that the run has
 * already: rank 0's unique id is broadcast there. The communicator never blocks the host: what NCCL
 * does in threads of its own is asked for, and meanwhile the watch over the ranks (comm_check) can
 * end the run. Its buffers (some 100 MB of a GPU) are NCCL's own, beside the backend's one
 * allocation.
 *
 * Must hold: sums are f32 and of one order. NCCL picks among algorithms by its own measurements, so
 * the ring is asked for by NCCL_ALGO: there the order follows from the ranks' places alone.
 */
#ifndef RETORT_KERNELS_CUDA_NCCL_H
#define RETORT_KERNELS_CUDA_NCCL_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/status.h"

struct Comm;
typedef struct Nccl Nccl;

/* nccl_open: all ranks of `comm`, with the GPU that is current on this thread; comes back when all
 * have come.
 * errors  E_NETWORK: the verdict of the watch; E_DEVICE */
Status nccl_open(struct Comm *comm, Nccl **out);

/* nccl_close: ends what is under way; needs no other rank. NULL is fine. */
void nccl_close(Nccl *nccl);

/* nccl_sum: data[i] = sum over the ranks, in place, in the order of `stream`; can be captured.
 * errors  as nccl_check */
Status nccl_sum(Nccl *nccl, float *data, int64_t n_elems, cudaStream_t stream);

/* nccl_check: OK while the run goes on; asked by whoever waits for a stream that sums are in. After
 * an error the sums under way are ended, so that their stream can be waited for. NULL is fine.
 * errors  E_NETWORK: the verdict of the watch */
Status nccl_check(Nccl *nccl);

/* nccl_end: ends the sums under way, because this rank has failed; none can be begun after. */
void nccl_end(Nccl *nccl);

#endif
