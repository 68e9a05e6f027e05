/* The state of a run. See run_state.h. */
#include "train/run_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- loading ---- */

static Status load_entry(Store *store, int index, const State *state, const char *path)
{
    const char *name = store->entries[index].name;
    const Tensor *tensor = safetensors_find(state->file, name);
    if (!tensor)
        return status_fail(
            E_SHAPE,
            "%s: tensor %s is missing: the state is of a run with other settings; resume with "
            "its own config, which `retort inspect` shows",
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
                "settings; resume with its own config, which `retort inspect` shows",
                path, state->file->tensors[i].name);
    *header = state->header;
    header->config = NULL; /* it was the file's */
    state_close(state);
    return status;
}

/* ---- saving ---- */

struct Snapshot {
    const Store *store;
    char *memory;  /* the store's, byte for byte; after snapshot_write in PyTorch's order */
    char *scratch; /* room for the largest entry */
    NamedTensor *tensors;
};

static size_t entry_bytes(const StoreEntry *entry)
{
    return (size_t)shape_elems(entry->shape) * dtype_size(entry->dtype);
}

static size_t largest_entry_bytes(const Store *store)
{
    size_t largest = 0;
    for (int i = 0; i < store->n_entries; i++) {
        size_t bytes = entry_bytes(&store->entries[i]);
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

size_t snapshot_bytes(const Store *store)
{
    return store_memory_bytes(store) + largest_entry_bytes(store);
}

/* Zeroed by hand: memory that was never touched would be paid for by the first save. */
static Status allocate(Snapshot *snapshot)
{
    size_t n_memory = store_memory_bytes(snapshot->store),
           n_scratch = largest_entry_bytes(snapshot->store);
    snapshot->memory = malloc(n_memory);
    snapshot->scratch = malloc(n_scratch);
    if (!snapshot->memory || !snapshot->scratch)
        return status_fail(E_MEMORY, "out of memory: %zu bytes for the copy that is saved",
                           n_memory + n_scratch);
    memset(snapshot->memory, 0, n_memory);
    memset(snapshot->scratch, 0, n_scratch);
    return OK;
}

Status snapshot_create(const Store *store, Snapshot **out)
{
    Snapshot *snapshot = mem_alloc(sizeof *snapshot);
    snapshot->store = store;
    Status status = allocate(snapshot);
    if (status != OK) {
        snapshot_destroy(snapshot);
        return status;
    }
    snapshot->tensors = mem_alloc((size_t)store->n_entries * sizeof *snapshot->tensors);
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        size_t at = (size_t)((const char *)entry->data - (const char *)store->memory);
        snapshot->tensors[i] = (NamedTensor){
            entry->name,
            {.dtype = entry->dtype, .shape = entry->shape, .data = snapshot->memory + at}};
    }
    *out = snapshot;
    return OK;
}

void snapshot_destroy(Snapshot *snapshot)
{
    if (!snapshot) return;
    free(snapshot->memory);
    free(snapshot->scratch);
    free(snapshot->tensors);
    free(snapshot);
}

Status snapshot_take(Snapshot *snapshot)
{
    const Store *store = snapshot->store;
    return store->backend->download(store->backend, snapshot->memory, store->memory,
                                    store->memory_bytes);
}

Status snapshot_write(Snapshot *snapshot, const FileOps *ops, const char *path,
                      const StateHeader *header)
{
    const Store *store = snapshot->store;
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (entry->layout == LAYOUT_PLAIN) continue;
        void *data = snapshot->tensors[i].tensor.data;
        store_to_torch(entry, data, snapshot->scratch, dtype_size(entry->dtype));
        memcpy(data, snapshot->scratch, entry_bytes(entry));
    }
    return state_write(ops, path, header, store->n_entries, snapshot->tensors);
}
