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

typedef struct LoadCount {
    int matched, missing, unexpected;
} LoadCount;

static Status load_entries(Store *store, const WeightsFile *file, int n_allow,
                           const char *const *allow, LoadCount *count)
{
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (!is_weight(entry)) continue;
        const Tensor *tensor = weights_file_find(file, entry->name);
        if (!tensor && !matches_any(entry->name, n_allow, allow))
            return status_fail(
                E_SHAPE, "%s: tensor %s is missing; name a pattern in init.allow if that is meant",
                file->path, entry->name);
        if (!tensor) {
            count->missing++;
            continue;
        }
        if (store_set(store, i, tensor) != OK) {
            char why[512];
            snprintf(why, sizeof why, "%s", status_message());
            return status_fail(E_SHAPE, "%s: %s", file->path, why);
        }
        count->matched++;
    }
    return OK;
}

static Status check_unexpected(const Store *store, const WeightsFile *file, int n_allow,
                               const char *const *allow, LoadCount *count)
{
    for (int i = 0; i < file->n_tensors; i++) {
        const char *name = file->tensors[i].name;
        if (weights_is_optimizer_name(name) || store_find(store, name) >= 0) continue;
        if (!matches_any(name, n_allow, allow))
            return status_fail(
                E_SHAPE,
                "%s: tensor %s is not part of the model; name a pattern in init.allow if "
                "it may be left out",
                file->path, name);
        count->unexpected++;
    }
    return OK;
}

Status weights_load(Store *store, const char *path, int n_allow, const char *const *allow,
                    char *report, size_t report_bytes)
{
    WeightsFile *file = NULL;
    LoadCount count = {0};
    char sha256[65];
    Status status = OK;
    TRY(weights_file_open(path, &file));
    TRY_GOTO(check_unexpected(store, file, n_allow, allow, &count), done);
    TRY_GOTO(load_entries(store, file, n_allow, allow, &count), done);
    if (report) {
        TRY_GOTO(file_sha256(path, sha256), done);
        snprintf(report, report_bytes,
                 "loaded %s: %d tensors matched, %d missing, %d unexpected, sha256 %s%s%s", path,
                 count.matched, count.missing, count.unexpected, sha256,
                 file->note ? "; not read: " : "", file->note ? file->note : "");
    }
done:
    weights_file_close(file);
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
