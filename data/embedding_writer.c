/* A folder of shards, written. See embedding_cache.h. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/embedding_folder.h"

#define SHARD_NAME "embeddings_%dof%d_%05d.shard"

enum { MAX_NAME_BYTES = 80 };

struct EmbeddingWriter {
    EmbeddingWriterConfig config;
    char *folder;
    EmbeddingCache *present;     /* what was there when it was opened */
    EmbeddingShardWriter *shard; /* NULL: the next one is not begun */
    int next_number;
    int64_t cut_bytes;
    int lock;
};

/* ---- names ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

Status embedding_folder_list(const char *folder, char ***out, int *n)
{
    DIR *stream = opendir(folder);
    int capacity = 0;
    *out = NULL;
    *n = 0;
    if (!stream) return status_fail(E_FILE, "%s: cannot be listed: %s", folder, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(stream));) {
        if (fnmatch("embeddings_*.shard", entry->d_name, 0) != 0) continue;
        *out = mem_grow(*out, &capacity, *n + 1, sizeof **out);
        (*out)[(*n)++] = mem_string(entry->d_name);
    }
    closedir(stream);
    if (*n) qsort(*out, (size_t)*n, sizeof **out, compare_names);
    return OK;
}

static char *shard_path(const EmbeddingWriter *writer, int number)
{
    char name[MAX_NAME_BYTES];
    snprintf(name, sizeof name, SHARD_NAME, writer->config.part, writer->config.n_parts, number);
    return file_join(writer->folder, name);
}

/* ---- opening ---- */

/* Free again when the process ends, however it ends. The file itself stays, empty: removing it
 * would let two processes hold locks on two files of one name. */
static Status take_lock(EmbeddingWriter *writer)
{
    char name[MAX_NAME_BYTES];
    snprintf(name, sizeof name, ".embeddings_%dof%d.lock", writer->config.part,
             writer->config.n_parts);
    char *path = file_join(writer->folder, name);
    Status status = OK;
    writer->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (writer->lock < 0)
        status = status_fail(E_FILE, "%s: cannot be created: %s", path, strerror(errno));
    else if (flock(writer->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        status = status_fail(E_CONFIG, "%s: another process writes part %d of %d of it",
                             writer->folder, writer->config.part, writer->config.n_parts);
    free(path);
    return status;
}

static Status check_info(const EmbeddingWriter *writer)
{
    char why[512];
    const EmbeddingCache *present = writer->present;
    if (present->n_shards == 0 ||
        !embedding_info_differs(&present->info, &writer->config.info, why, sizeof why))
        return OK;
    return status_fail(E_CONFIG, "%s: holds embeddings %s; give an empty folder", writer->folder,
                       why);
}

static Status seal_shard(EmbeddingWriter *writer)
{
    EmbeddingShardWriter *shard = writer->shard;
    writer->shard = NULL;
    return shard ? embedding_shard_seal(shard) : OK;
}

static Status seal_if_full(EmbeddingWriter *writer)
{
    bool full = embedding_shard_bytes(writer->shard) >= writer->config.shard_bytes;
    return full ? seal_shard(writer) : OK;
}

/* Only the last shard of a part can be unsealed: the next one is begun when it is sealed. */
static Status take_up_shard(EmbeddingWriter *writer)
{
    char *path = shard_path(writer, writer->next_number - 1);
    EmbeddingShard shard;
    int64_t file_bytes = 0;
    Status status = file_size(path, &file_bytes);
    if (status == OK) status = embedding_shard_open(path, &shard);
    free(path);
    if (status != OK) return status;
    if (!shard.sealed) {
        writer->cut_bytes = file_bytes - shard.end;
        status = embedding_shard_resume(writer->config.ops, &shard, &writer->shard);
        if (status == OK) status = seal_if_full(writer); /* killed between its end and its index */
    }
    embedding_shard_close(&shard);
    return status;
}

static void count_shards(EmbeddingWriter *writer)
{
    for (bool there = true; there; writer->next_number += there) {
        char *path = shard_path(writer, writer->next_number);
        there = file_exists(path);
        free(path);
    }
}

static Status open_all(EmbeddingWriter *writer)
{
    TRY(file_make_folders(writer->folder));
    TRY(take_lock(writer));
    TRY(embedding_folder_open(writer->folder, &writer->present));
    TRY(check_info(writer));
    count_shards(writer);
    return writer->next_number > 0 ? take_up_shard(writer) : OK;
}

Status embedding_writer_open(const EmbeddingWriterConfig *config, EmbeddingWriter **out)
{
    assert(config->part >= 1 && config->part <= config->n_parts && config->shard_bytes > 0);
    EmbeddingWriter *writer = mem_alloc(sizeof *writer);
    writer->config = *config;
    writer->folder = mem_string(config->folder);
    writer->lock = -1;
    Status status = open_all(writer);
    if (status == OK)
        *out = writer;
    else
        embedding_writer_leave(writer);
    return status;
}

void embedding_writer_leave(EmbeddingWriter *writer)
{
    if (!writer) return;
    embedding_shard_leave(writer->shard);
    embedding_cache_close(writer->present);
    if (writer->lock >= 0) close(writer->lock);
    free(writer->folder);
    free(writer);
}

bool embedding_writer_has(const EmbeddingWriter *writer, uint64_t id)
{
    return embedding_cache_has(writer->present, id);
}

int64_t embedding_writer_cut_bytes(const EmbeddingWriter *writer) { return writer->cut_bytes; }

/* ---- writing ---- */

static Status begin_shard(EmbeddingWriter *writer)
{
    char *path = shard_path(writer, writer->next_number);
    Status status = embedding_shard_create(writer->config.ops, path, &writer->config.info,
                                           &writer->shard);
    free(path);
    if (status == OK) writer->next_number++;
    return status;
}

Status embedding_writer_append(EmbeddingWriter *writer, uint64_t id, const void *const *bytes,
                               const size_t *n_bytes)
{
    if (!writer->shard) TRY(begin_shard(writer));
    TRY(embedding_shard_append(writer->shard, id, bytes, n_bytes));
    return seal_if_full(writer);
}

Status embedding_writer_merge(EmbeddingWriter *writer, const EmbeddingCache *from,
                              int64_t *n_merged)
{
    Buffer buffers[EMBEDDING_MAX_VIEWS] = {0};
    const EmbeddingPlace *places = from->places.data;
    const void *bytes[EMBEDDING_MAX_VIEWS];
    size_t n_bytes[EMBEDDING_MAX_VIEWS];
    Status status = OK;
    *n_merged = 0;
    for (int64_t i = 0; i < from->n_places && status == OK; i++) {
        if (embedding_writer_has(writer, places[i].id)) continue;
        for (int v = 0; v < from->info.n_views && status == OK; v++) {
            status = embedding_place_read(from, &places[i], v, &buffers[v], &n_bytes[v]);
            bytes[v] = buffers[v].data;
        }
        if (status == OK) status = embedding_writer_append(writer, places[i].id, bytes, n_bytes);
        *n_merged += status == OK;
    }
    for (int v = 0; v < EMBEDDING_MAX_VIEWS; v++) buffer_free(&buffers[v]);
    return status;
}

Status embedding_writer_finish(EmbeddingWriter *writer)
{
    Status status = seal_shard(writer);
    embedding_writer_leave(writer);
    return status;
}
