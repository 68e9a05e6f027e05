/* Tar shards as a root, read in place. See root.h.
 *
 * Must hold: shards lie in the order of their paths, and their records in the order of the archive;
 * shard s begins at index first[s] of the root.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "data/root.h"
#include "data/tar_index.h"

static const int64_t max_file_bytes = (int64_t)1 << 30;

typedef struct Shard {
    char *path;
    TarIndex index;
    int64_t first;
} Shard;

typedef struct Shards {
    Shard *items;
    int n;
} Shards;

static void close_shards(void *self)
{
    Shards *shards = self;
    for (int i = 0; i < shards->n; i++) {
        free(shards->items[i].path);
        tar_index_free(&shards->items[i].index);
    }
    free(shards->items);
    free(shards);
}

/* ---- reading ---- */

static const Shard *find_shard(const Shards *shards, int64_t index)
{
    int low = 0, high = shards->n - 1; /* the last one that begins at or before index */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (shards->items[middle].first <= index)
            low = middle;
        else
            high = middle - 1;
    }
    return &shards->items[low];
}

static const TarRecord *find_record(const Shards *shards, int64_t index, const Shard **shard)
{
    *shard = find_shard(shards, index);
    return &(*shard)->index.records[index - (*shard)->first];
}

static uint64_t sample_id(const void *self, int64_t index)
{
    const Shard *shard;
    return find_record(self, index, &shard)->id;
}

static int64_t id_group(const void *self, int64_t index, uint64_t *min_id, uint64_t *max_id)
{
    const Shard *shard = find_shard(self, index);
    *min_id = shard->index.min_id;
    *max_id = shard->index.max_id;
    return shard->first + shard->index.n_records;
}

static void image_name(const void *self, int64_t index, char name[ROOT_NAME_BYTES])
{
    const Shard *shard;
    const TarRecord *record = find_record(self, index, &shard);
    snprintf(name, ROOT_NAME_BYTES, "%s: image %llu", shard->path, (unsigned long long)record->id);
}

static Status read_member(const Shard *shard, uint32_t block, RootReader *reader)
{
    char name[TAR_NAME_BYTES];
    TRY(tar_read_member(shard->path, block, max_file_bytes, &reader->file, name, &reader->bytes,
                        &reader->n_bytes));
    int n = snprintf(reader->name, sizeof reader->name, "%s: ", shard->path);
    if (n >= (int)sizeof reader->name) n = (int)sizeof reader->name - 1;
    snprintf(reader->name + n, sizeof reader->name - (size_t)n, "%s", name);
    reader->below = tar_skip_dot(reader->name + n);
    return OK;
}

static Status read_image(const void *self, int64_t index, RootReader *reader)
{
    const Shard *shard;
    const TarRecord *record = find_record(self, index, &shard);
    return read_member(shard, record->image_block, reader);
}

static bool has_masks(const void *self, int64_t index)
{
    const Shard *shard;
    return find_record(self, index, &shard)->mask_block != TAR_NO_BLOCK;
}

static Status read_masks(const void *self, int64_t index, RootReader *reader, Annotations *out)
{
    const Shard *shard;
    const TarRecord *record = find_record(self, index, &shard);
    if (record->mask_block == TAR_NO_BLOCK)
        return status_fail(E_FORMAT, "%s: image %llu has no json in the archive", shard->path,
                           (unsigned long long)record->id);
    TRY(read_member(shard, record->mask_block, reader));
    return annotations_parse(reader->name, reader->bytes, reader->n_bytes, out);
}

static const RootOps ops = {close_shards, sample_id, id_group,  image_name,
                            read_image,   has_masks, read_masks};

/* ---- opening ---- */

static Status build_and_keep(const char *shard, const TarShard *info, const char *path,
                             TarIndex *out)
{
    Status status = tar_index_open(path, info, out); /* another process was faster */
    if (status == OK || status == E_MEMORY) return status;
    TRY(tar_index_build(shard, out));
    status = tar_index_write(&file_ops_system, path, info, out);
    if (status != OK) tar_index_free(out);
    return status;
}

/* The kept index, or a new one, which says what the shard says. One of the processes that share the
 * folder builds it, the others wait for that. */
static Status open_index(const char *shard, const char *folder, TarIndex *out)
{
    char path[ROOT_NAME_BYTES];
    TarShard info;
    if (folder == NULL) return tar_index_build(shard, out);
    TRY(tar_shard_stat(shard, &info));
    TRY(tar_index_path(folder, shard, path));
    Status status = tar_index_open(path, &info, out);
    if (status == OK || status == E_MEMORY) return status;
    int lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) return status_fail(E_FILE, "%s: cannot open: %s", folder, strerror(errno));
    (void)flock(lock, LOCK_EX); /* file systems without locks have none to wait for */
    status = build_and_keep(shard, &info, path, out);
    close(lock);
    return status;
}

static Status check_masks(const Shard *shard)
{
    const TarIndex *index = &shard->index;
    int64_t i = 0;
    if (index->n_without_masks == 0) return OK;
    while (index->records[i].mask_block != TAR_NO_BLOCK) i++;
    return status_fail(E_FILE, "%s: %lld of %lld images have no json, the first is image %llu",
                       shard->path, (long long)index->n_without_masks, (long long)index->n_records,
                       (unsigned long long)index->records[i].id);
}

static Status open_shards(Shards *shards, const PathList *paths, const RootConfig *config,
                          int64_t *n_samples)
{
    shards->items = calloc((size_t)paths->n, sizeof *shards->items);
    if (shards->items == NULL) return status_fail(E_MEMORY, "out of memory: list of shards");
    if (config->index_folder) TRY(file_make_folders(config->index_folder));
    for (int64_t i = 0; i < paths->n; i++) {
        Shard *shard = &shards->items[shards->n++];
        shard->path = strdup(path_list_get(paths, i));
        if (shard->path == NULL) return status_fail(E_MEMORY, "out of memory: list of shards");
        TRY(open_index(shard->path, config->index_folder, &shard->index));
        if (config->masks && !config->gaps) TRY(check_masks(shard));
        shard->first = *n_samples;
        *n_samples += shard->index.n_records;
    }
    return OK;
}

/* Empty shards would make groups without ids. */
static void drop_empty(Shards *shards)
{
    int kept = 0;
    for (int i = 0; i < shards->n; i++) {
        if (shards->items[i].index.n_records > 0) {
            shards->items[kept++] = shards->items[i];
            continue;
        }
        free(shards->items[i].path);
        tar_index_free(&shards->items[i].index);
    }
    shards->n = kept;
}

Status root_open_tar(const PathList *paths, const RootConfig *config, Root *out)
{
    assert(paths->n > 0);
    int64_t n_samples = 0;
    Shards *shards = calloc(1, sizeof *shards);
    if (shards == NULL) return status_fail(E_MEMORY, "out of memory: list of shards");
    Status status = open_shards(shards, paths, config, &n_samples);
    if (status == OK) drop_empty(shards);
    if (status == OK && n_samples == 0)
        status = status_fail(E_CONFIG, "%s%s: no image in the archive%s", path_list_get(paths, 0),
                             paths->n > 1 ? " and the other shards" : "", paths->n > 1 ? "s" : "");
    if (status == OK)
        *out = (Root){.ops = &ops, .self = shards, .n_samples = n_samples};
    else
        close_shards(shards);
    return status;
}
