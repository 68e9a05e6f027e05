/* A run of several ranks: joining it, dividing its batch, and sharing what rank 0 loaded.
 *
 * Used by the training loop and by `retort eval`. In training rank 0 alone reads checkpoints and
 * weights and writes files; the others receive the store from it, so that all start from the same
 * bits wherever the files lie.
 */
#ifndef RETORT_TRAIN_RANKS_H
#define RETORT_TRAIN_RANKS_H

#include "autograd/store.h"
#include "kernels/comm/comm.h"
#include "train/options.h"

/* ranks_open: joins the run as the launcher's variables say; *out is NULL for one rank. Sets
 * run.threads, where it is 0, to this rank's share of the host's cores. Rank 0 prints who the ranks
 * are.
 * errors  those of launch_from_environment and comm_open */
Status ranks_open(Options *options, Comm **out);

/* ranks_divide_batch: train.batch and train.micro_batch of each of n ranks, from
 * train.global_batch, so that one config serves any number of them. errors  E_CONFIG if the batch
 * cannot be divided */
Status ranks_divide_batch(Options *options, int n_ranks);

/* ranks_share_store: rank 0's whole store to all. errors  E_NETWORK, E_DEVICE */
Status ranks_share_store(Comm *comm, const char *name, Store *store);

/* ranks_share_buffers: rank 0's buffers alone, which each rank's own batch norms make its own.
 * errors  E_NETWORK, E_DEVICE */
Status ranks_share_buffers(Comm *comm, Store *store);

/* ranks_print_lr: the peak learning rate, and by which rule it came about. */
void ranks_print_lr(const Options *options, int world_size, FILE *out);

#endif
