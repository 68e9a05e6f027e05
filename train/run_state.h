/* The state of a run: the whole store plus a few integers, to a training-state file and back, bit
 * for bit.
 *
 * Saving has two halves, so that training waits only for the first: snapshot_take copies the store
 * as it lies, between two steps; snapshot_write puts the copy into PyTorch's order and into a file,
 * on another thread if one likes (train/saver.h).
 */
#ifndef RETORT_TRAIN_RUN_STATE_H
#define RETORT_TRAIN_RUN_STATE_H

#include "autograd/store.h"
#include "checkpoints/state.h"

/* run_state_load: every entry of `store` from `path`; none may be missing or left over.
 * errors  those of state_open, the store is then untouched; E_SHAPE naming the tensor: the store
 *         may then be half filled and the run must stop */
Status run_state_load(Store *store, const char *path, StateHeader *header);

typedef struct Snapshot Snapshot;

/* snapshot_create: memory for a copy of `store`, which is allocated and outlives it; touched, so
 * that what a run takes is taken before its first step. errors  E_MEMORY */
Status snapshot_create(const Store *store, Snapshot **out);
void snapshot_destroy(Snapshot *snapshot);

/* snapshot_bytes: what snapshot_create will take for a store, allocated or not. */
size_t snapshot_bytes(const Store *store);

/* snapshot_take: copies the store. errors  E_DEVICE */
Status snapshot_take(Snapshot *snapshot);

/* snapshot_write: the copy taken last, once, as a training state. errors  those of state_write */
Status snapshot_write(Snapshot *snapshot, const FileOps *ops, const char *path,
                      const StateHeader *header);

#endif
