/* Named tensors that outlive a step, in one allocation. See store.h. */
#include "autograd/store.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { STORE_ALIGN = 64 }; /* bytes: a vector register and a cache line */

Store *store_create(Backend *backend)
{
    Store *store = mem_alloc(sizeof *store);
    store->backend = backend;
    return store;
}

void store_destroy(Store *store)
{
    if (!store) return;
    if (store->memory) store->backend->free(store->backend, store->memory, store->memory_bytes);
    for (int i = 0; i < store->n_entries; i++) free(store->entries[i].name);
    free(store->entries);
    free(store);
}

static Shape stored_shape(ParamLayout layout, Shape shape)
{
    if (layout == LAYOUT_PLAIN) return shape;
    assert(shape.rank == 4);
    return SHAPE(shape.dim[0], shape.dim[2], shape.dim[3], shape.dim[1]);
}

static Status check_same(const StoreEntry *entry, StoreKind kind, ParamLayout layout, DType dtype,
                         Shape shape)
{
    if (entry->kind == kind && entry->layout == layout && entry->dtype == dtype &&
        shape_equal(entry->shape, shape))
        return OK;
    char was[64], now[64];
    return status_fail(E_SHAPE, "%s: declared as %s (%s) and again as %s (%s)", entry->name,
                       shape_format(entry->shape, was, sizeof was), dtype_name(entry->dtype),
                       shape_format(shape, now, sizeof now), dtype_name(dtype));
}

Status store_declare(Store *store, const char *name, StoreKind kind, ParamLayout layout,
                     DType dtype, Shape shape, int *out_index)
{
    int found = store_find(store, name);
    if (found >= 0) {
        *out_index = found;
        return check_same(&store->entries[found], kind, layout, dtype, shape);
    }
    assert(!store->memory);
    store->entries = mem_grow(store->entries, &store->capacity, store->n_entries + 1,
                              sizeof(StoreEntry));
    store->entries[store->n_entries] = (StoreEntry){.name = mem_string(name),
                                                    .kind = kind,
                                                    .layout = layout,
                                                    .dtype = dtype,
                                                    .shape = shape,
                                                    .stored = stored_shape(layout, shape),
                                                    .trainable = kind == STORE_PARAMETER};
    *out_index = store->n_entries++;
    return OK;
}

int store_find(const Store *store, const char *name)
{
    for (int i = 0; i < store->n_entries; i++)
        if (strcmp(store->entries[i].name, name) == 0) return i;
    return -1;
}

static size_t entry_bytes(const StoreEntry *entry)
{
    return (size_t)shape_elems(entry->shape) * dtype_size(entry->dtype);
}

static size_t align_up(size_t bytes)
{
    return (bytes + STORE_ALIGN - 1) / STORE_ALIGN * STORE_ALIGN;
}

size_t store_memory_bytes(const Store *store)
{
    size_t total = 0;
    for (int i = 0; i < store->n_entries; i++) total += align_up(entry_bytes(&store->entries[i]));
    return total;
}

Status store_allocate(Store *store)
{
    size_t total = store_memory_bytes(store);
    if (total == 0) return OK;
    TRY(store->backend->alloc(store->backend, total, &store->memory));
    store->memory_bytes = total;
    char *next = store->memory;
    for (int i = 0; i < store->n_entries; i++) {
        store->entries[i].data = next;
        next += align_up(entry_bytes(&store->entries[i]));
    }
    return OK;
}

size_t store_bytes(const Store *store, StoreKind kind)
{
    size_t bytes = 0;
    for (int i = 0; i < store->n_entries; i++)
        if (store->entries[i].kind == kind) bytes += entry_bytes(&store->entries[i]);
    return bytes;
}

/* Moves the channels of (O,I,R) to the end, or back: dst[o][r][i] = src[o][i][r]. */
static void permute(char *dst, const char *src, Shape shape, size_t element, bool to_stored)
{
    int64_t outer = shape.dim[0], inner = shape.dim[1], rest = shape.dim[2] * shape.dim[3];
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++)
            for (int64_t r = 0; r < rest; r++) {
                size_t torch = (size_t)((o * inner + i) * rest + r) * element;
                size_t stored = (size_t)((o * rest + r) * inner + i) * element;
                if (to_stored)
                    memcpy(dst + stored, src + torch, element);
                else
                    memcpy(dst + torch, src + stored, element);
            }
}

Status store_check(const StoreEntry *entry, const Tensor *host)
{
    char got[64], wanted[64];
    if (!shape_equal(entry->shape, host->shape))
        return status_fail(E_SHAPE, "%s: got shape %s, wanted %s", entry->name,
                           shape_format(host->shape, got, sizeof got),
                           shape_format(entry->shape, wanted, sizeof wanted));
    bool both_float = dtype_is_float(entry->dtype) && dtype_is_float(host->dtype);
    if (!both_float && entry->dtype != host->dtype)
        return status_fail(E_SHAPE, "%s: got dtype %s, wanted %s", entry->name,
                           dtype_name(host->dtype), dtype_name(entry->dtype));
    return OK;
}

Status store_set(Store *store, int index, const Tensor *host)
{
    const StoreEntry *entry = &store->entries[index];
    TRY(store_check(entry, host));
    size_t bytes = entry_bytes(entry);
    char *converted = mem_alloc(bytes), *arranged = mem_alloc(bytes);
    tensor_convert(converted, entry->dtype, host->data, host->dtype, shape_elems(entry->shape));
    const char *source = converted;
    if (entry->layout == LAYOUT_OIHW) {
        permute(arranged, converted, entry->shape, dtype_size(entry->dtype), true);
        source = arranged;
    }
    Status status = store->backend->upload(store->backend, entry->data, source, bytes);
    free(converted);
    free(arranged);
    return status;
}

void store_to_torch(const StoreEntry *entry, const void *stored, void *torch, size_t element_bytes)
{
    if (entry->layout == LAYOUT_OIHW)
        permute(torch, stored, entry->shape, element_bytes, false);
    else
        memcpy(torch, stored, (size_t)shape_elems(entry->shape) * element_bytes);
}

Status store_get(const Store *store, int index, Tensor *host)
{
    const StoreEntry *entry = &store->entries[index];
    TRY(store_check(entry, host));
    size_t bytes = entry_bytes(entry);
    char *raw = mem_alloc(bytes), *arranged = mem_alloc(bytes);
    Status status = store->backend->download(store->backend, raw, entry->data, bytes);
    if (status == OK) {
        store_to_torch(entry, raw, arranged, dtype_size(entry->dtype));
        tensor_convert(host->data, host->dtype, arranged, entry->dtype, shape_elems(entry->shape));
    }
    free(raw);
    free(arranged);
    return status;
}
