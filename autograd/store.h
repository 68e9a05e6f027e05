/* The store: every tensor that outlives a step and has a name: parameters, buffers (running
 * statistics, the positional matrix), optimiser moments, step counts, EMA. Graphs refer to its
 * entries; several graphs (training, evaluation, token buckets) share one store. A checkpoint is a
 * dump of it.
 *
 * Invariants
 *  1. Names are unique; those of parameters and buffers are the released checkpoints' names.
 *  2. `shape` is PyTorch's; `stored` is how the memory lies: for LAYOUT_OIHW (O,I,H,W) is kept as
 * (O,H,W,I).
 *  3. Entries are declared by the model builder in the order of PyTorch's state dict.
 */
#ifndef RETORT_AUTOGRAD_STORE_H
#define RETORT_AUTOGRAD_STORE_H

#include "base/status.h"
#include "kernels/backend.h"

typedef enum StoreKind {
    STORE_PARAMETER,
    STORE_BUFFER,
    STORE_EXP_AVG, /* optimiser entries carry the parameter's name as "exp_avg.NAME" and so on */
    STORE_EXP_AVG_SQ,
    STORE_STEP,
    STORE_EMA,
    STORE_SCALER, /* "scaler.scale", "scaler.good_steps", "scaler.skipped_steps" of fp16 runs */
} StoreKind;

typedef enum ParamLayout { LAYOUT_PLAIN, LAYOUT_OIHW } ParamLayout;

typedef struct StoreEntry {
    char *name;
    StoreKind kind;
    ParamLayout layout;
    DType dtype;
    Shape shape;    /* PyTorch's */
    Shape stored;   /* of the memory */
    void *data;     /* device memory; NULL until store_allocate */
    bool trainable; /* parameters only; false: frozen by the user */
} StoreEntry;

typedef struct Store {
    Backend *backend;
    StoreEntry *entries;
    int n_entries, capacity;
    void *memory; /* one allocation for all entries */
    size_t memory_bytes;
} Store;

Store *store_create(Backend *backend);
void store_destroy(Store *store);

/* store_declare: index of the entry `name`; made if absent, zero-filled when allocated.
 * errors  E_SHAPE if it exists with another shape, dtype, kind or layout (two builders disagree);
 *         declaring a new entry after store_allocate is a programmer's mistake (assert) */
Status store_declare(Store *store, const char *name, StoreKind kind, ParamLayout layout,
                     DType dtype, Shape shape, int *out_index);
int store_find(const Store *store, const char *name); /* -1 if absent */

/* store_allocate: memory for all entries, 64-byte aligned each. errors  E_MEMORY */
Status store_allocate(Store *store);
size_t store_bytes(const Store *store, StoreKind kind);
/* store_memory_bytes: what store_allocate takes, or took, for all entries. */
size_t store_memory_bytes(const Store *store);

/* store_check: whether a host tensor has the entry's shape and a dtype that converts to its.
 * errors  E_SHAPE naming entry, got and wanted; float dtypes convert, integer ones must be equal */
Status store_check(const StoreEntry *entry, const Tensor *host);

/* store_set / store_get: one entry from or to host memory in PyTorch's shape and order.
 * errors  those of store_check */
Status store_set(Store *store, int index, const Tensor *host);
Status store_get(const Store *store, int index,
                 Tensor *host); /* host->data allocated by the caller */

/* store_to_torch: elements of an entry (or of a gradient in its layout) from stored to PyTorch's
 * order. */
void store_to_torch(const StoreEntry *entry, const void *stored, void *torch, size_t element_bytes);

#endif
