/* The state of a run: the whole store plus a few integers, to a training-state file and back, bit
 * for bit. */
#ifndef RETORT_TRAIN_RUN_STATE_H
#define RETORT_TRAIN_RUN_STATE_H

#include "autograd/store.h"
#include "checkpoints/state.h"

/* run_state_save: every entry of `store` under its name. errors  those of state_write */
Status run_state_save(const Store *store, const char *path, const StateHeader *header);

/* run_state_load: every entry of `store` from `path`; none may be missing or left over.
 * errors  those of state_open; E_SHAPE naming the tensor; the store may then be half filled and the
 * run must stop */
Status run_state_load(Store *store, const char *path, StateHeader *header);

#endif
