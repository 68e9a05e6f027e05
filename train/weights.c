/* Loading and saving of a store's entries. See weights.h. */
#include "train/weights.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool matches_any(const char *name, int n, const char *const *patterns)
{
    for (int i = 0; i < n; i++)
        if (fnmatch(patterns[i], name, 0) == 0) return true;
    return false;
}

static bool is_weight(const StoreEntry *entry)
{
    return entry->kind == STORE_PARAMETER || entry->kind == STORE_BUFFER;
}

bool weights_is_optimizer_name(const char *name)
{
    const char *prefixes[] = {"exp_avg.", "exp_avg_sq.", "step.", "ema.", "scaler."};
    for (int i = 0; i < 5; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

/* A file that is being matched with a model's entries. */
typedef struct Loading {
    WeightsFile *file;
    int n_allow;
    const char *const *allow;
    ModelInit init; /* what a frozen store gets for entries that may be missing */
    int matched, missing, unexpected;
} Loading;

/* The tensor of an entry; *out NULL if it is missing and may be. */
static Status find_tensor(const Loading *l, const StoreEntry *entry, const Tensor **out)
{
    *out = weights_file_find(l->file, entry->name);
    if (!*out && !matches_any(entry->name, l->n_allow, l->allow))
        return status_fail(
            E_SHAPE, "%s: tensor %s is missing; name a pattern in init.allow if that is meant",
            l->file->path, entry->name);
    if (!*out || store_check(entry, *out) == OK) return OK;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    return status_fail(E_SHAPE, "%s: %s", l->file->path, why);
}

static Status check_expected(Loading *l, const Store *store)
{
    for (int i = 0; i < store->n_entries; i++) {
        const Tensor *tensor;
        if (!is_weight(&store->entries[i])) continue;
        TRY(find_tensor(l, &store->entries[i], &tensor));
        l->matched += tensor != NULL;
        l->missing += tensor == NULL;
    }
    return OK;
}

static Status check_unexpected(Loading *l, const Store *store)
{
    for (int i = 0; i < l->file->n_tensors; i++) {
        const char *name = l->file->tensors[i].name;
        if (weights_is_optimizer_name(name) || store_find(store, name) >= 0) continue;
        if (!matches_any(name, l->n_allow, l->allow))
            return status_fail(
                E_SHAPE,
                "%s: tensor %s is not part of the model; name a pattern in init.allow if "
                "it may be left out",
                l->file->path, name);
        l->unexpected++;
    }
    return OK;
}

/* Opens the file and checks it against `store`, before anything is changed. */
static Status start_loading(Loading *l, const Store *store, const char *path)
{
    TRY(weights_file_open(path, &l->file));
    TRY(check_unexpected(l, store));
    return check_expected(l, store);
}

static Status write_report(const Loading *l, char *report, size_t report_bytes)
{
    char sha256[65];
    if (!report) return OK;
    TRY(file_sha256(l->file->path, sha256));
    snprintf(report, report_bytes,
             "loaded %s: %d tensors matched, %d missing, %d unexpected, sha256 %s%s%s",
             l->file->path, l->matched, l->missing, l->unexpected, sha256,
             l->file->note ? "; not read: " : "", l->file->note ? l->file->note : "");
    return OK;
}

Status weights_load(Store *store, const char *path, int n_allow, const char *const *allow,
                    char *report, size_t report_bytes)
{
    Loading l = {.n_allow = n_allow, .allow = allow};
    Status status = start_loading(&l, store, path);
    for (int i = 0; i < store->n_entries && status == OK; i++) {
        const Tensor *tensor = NULL;
        if (is_weight(&store->entries[i])) status = find_tensor(&l, &store->entries[i], &tensor);
        if (status == OK && tensor) status = store_set(store, i, tensor);
    }
    if (status == OK) status = write_report(&l, report, report_bytes);
    weights_file_close(l.file);
    return status;
}

/* An EntrySource. */
static Status entry_of_file(void *context, const StoreEntry *entry, Tensor *host)
{
    Loading *l = context;
    const Tensor *tensor;
    TRY(find_tensor(l, entry, &tensor));
    if (!tensor) return model_initial(&l->init, entry, host);
    tensor_convert(host->data, host->dtype, tensor->data, tensor->dtype, shape_elems(host->shape));
    return OK;
}

Status weights_freeze(const Model *model, Store *frozen, const char *path, int n_allow,
                      const char *const *allow, uint64_t seed, char *report, size_t report_bytes)
{
    Loading l = {.n_allow = n_allow, .allow = allow, .init = {model, seed}};
    Store *full = store_create(frozen->backend); /* only declared: what the file must hold */
    Status status = model_declare(model, full);
    if (status == OK) status = start_loading(&l, full, path);
    if (status == OK) status = model_freeze(model, entry_of_file, &l, frozen);
    if (status == OK) status = write_report(&l, report, report_bytes);
    weights_file_close(l.file);
    store_destroy(full);
    return status;
}

static Status host_copy(const Store *store, int index, Tensor *out)
{
    const StoreEntry *entry = &store->entries[index];
    *out = (Tensor){.dtype = entry->dtype, .shape = entry->shape};
    out->data = mem_alloc(tensor_bytes(out));
    return store_get(store, index, out);
}

Status weights_copy(Store *dst, const Store *src, const char *prefix)
{
    for (int i = 0; i < dst->n_entries; i++) {
        const StoreEntry *entry = &dst->entries[i];
        if (!is_weight(entry) || strncmp(entry->name, prefix, strlen(prefix)) != 0) continue;
        int from = store_find(src, entry->name);
        if (from < 0) return status_fail(E_SHAPE, "the teacher has no tensor %s", entry->name);
        Tensor host;
        Status status = host_copy(src, from, &host);
        if (status == OK) status = store_set(dst, i, &host);
        free(host.data);
        TRY(status);
    }
    return OK;
}

static void free_tensors(int n, NamedTensor *tensors)
{
    for (int i = 0; i < n; i++) free(tensors[i].tensor.data);
    free(tensors);
}

Status weights_save(const FileOps *ops, const Store *store, const char *path)
{
    NamedTensor *tensors = mem_alloc((size_t)store->n_entries * sizeof *tensors);
    MetaPair meta[] = {{"format", "pt"}};
    int n = 0;
    Status status = OK;
    for (int i = 0; i < store->n_entries && status == OK; i++) {
        if (!is_weight(&store->entries[i])) continue;
        tensors[n].name = store->entries[i].name;
        status = host_copy(store, i, &tensors[n++].tensor);
    }
    if (status == OK) status = safetensors_write_with(ops, path, n, tensors, 1, meta);
    free_tensors(n, tensors);
    return status;
}
