/* Helpers of the test programs. See support.h. */
#include "tests/support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/memory.h"
#include "model/model.h"
#include "train/weights.h"

bool shared_path(const char *name, char *buffer, size_t buffer_bytes)
{
    snprintf(buffer, buffer_bytes, "../shared/%s", name);
    return access(buffer, R_OK) == 0;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

const char *test_folder(const char *name, char *buffer, size_t buffer_bytes)
{
    mkdir("build", 0755);
    mkdir("build/tmp", 0755);
    snprintf(buffer, buffer_bytes, "build/tmp/%s", name);
    nftw(buffer, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    mkdir(buffer, 0755);
    return buffer;
}

Status open_source(const char *root, bool masks, Source **out)
{
    return source_open(&(SourceConfig){.roots = &root, .n_roots = 1, .masks = masks}, out);
}

void enlarge_weights(Store *store, float factor)
{
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        int64_t n = shape_elems(entry->shape);
        if (entry->kind != STORE_PARAMETER || entry->shape.rank < 2) continue;
        Tensor host = {DT_F32, entry->shape, mem_alloc((size_t)n * sizeof(float))};
        cr_assert_eq(store_get(store, i, &host), OK, "%s", status_message());
        for (int64_t k = 0; k < n; k++) ((float *)host.data)[k] *= factor;
        cr_assert_eq(store_set(store, i, &host), OK, "%s", status_message());
        free(host.data);
    }
}

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

void write_large_weights(const char *path_of_model, float factor, const char *path)
{
    Model *model = NULL;
    Backend *backend = NULL;
    must(model_load(path_of_model, &model));
    must(backend_open("cpu", 1, &backend));
    Store *store = store_create(backend);
    must(model_declare(model, store));
    must(store_allocate(store));
    must(model_init(model, store, 3));
    enlarge_weights(store, factor);
    must(weights_save(&file_ops_system, store, path));
    store_destroy(store);
    backend_close(backend);
    model_destroy(model);
}
