/* The state of a run. See run_state.h. */
#include "train/run_state.h"

#include <stdio.h>

#include "train/weights.h"

Status run_state_save(const Store *store, const char *path, const StateHeader *header)
{
    HostTensors tensors;
    TRY(weights_collect(store, STATE_KINDS, &tensors));
    Status status = state_write(&file_ops_system, path, header, tensors.n_items, tensors.items);
    weights_free(&tensors);
    return status;
}

static Status load_entry(Store *store, int index, const State *state, const char *path)
{
    const char *name = store->entries[index].name;
    const Tensor *tensor = safetensors_find(state->file, name);
    if (!tensor)
        return status_fail(
            E_SHAPE,
            "%s: tensor %s is missing: the state is of a run with other settings; resume with "
            "the config beside it",
            path, name);
    if (store_set(store, index, tensor) == OK) return OK;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    return status_fail(E_SHAPE, "%s: %s", path, why);
}

Status run_state_load(Store *store, const char *path, StateHeader *header)
{
    State *state = NULL;
    TRY(state_open(path, &state));
    Status status = OK;
    for (int i = 0; i < store->n_entries && status == OK; i++)
        status = load_entry(store, i, state, path);
    for (int i = 0; i < state->file->n_tensors && status == OK; i++)
        if (store_find(store, state->file->tensors[i].name) < 0)
            status = status_fail(
                E_SHAPE,
                "%s: tensor %s is not part of this run: the state is of a run with other "
                "settings; resume with the config beside it",
                path, state->file->tensors[i].name);
    *header = state->header;
    state_close(state);
    return status;
}
