/* Shards of embeddings: writing. See embedding_shard.h. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/embedding_form.h"

enum { SYNC_BYTES = 64 << 20 };

struct EmbeddingShardWriter {
    const FileOps *ops;
    char *path;
    int n_views, fd;
    int64_t bytes, synced_bytes;
    Buffer entries;
    int64_t n_entries;
};

static Status failed(const EmbeddingShardWriter *writer, const char *step)
{
    return status_fail(E_FILE,
                       "%s: %s failed: %s; its whole records stay, go on with the same command",
                       writer->path, step, strerror(errno));
}

static Status put(EmbeddingShardWriter *writer, const void *data, size_t n_bytes)
{
    if (!file_write_all(writer->ops, writer->fd, data, n_bytes)) return failed(writer, "write");
    writer->bytes += (int64_t)n_bytes;
    return OK;
}

static Status sync_file(EmbeddingShardWriter *writer)
{
    if (writer->ops->fsync(writer->ops->context, writer->fd)) return failed(writer, "fsync");
    writer->synced_bytes = writer->bytes;
    return OK;
}

/* ---- opening ---- */

static EmbeddingHeader header_of(const EmbeddingInfo *info)
{
    EmbeddingHeader h = {.version = EMBEDDING_VERSION,
                         .byte_order = EMBEDDING_BYTE_ORDER,
                         .image_size = (uint32_t)info->image_size,
                         .grid = (uint32_t)info->grid,
                         .dim = (uint32_t)info->dim,
                         .n_views = (uint32_t)info->n_views,
                         .dtype = (uint32_t)info->dtype,
                         .packed = info->packed};
    memcpy(h.magic, EMBEDDING_MAGIC, sizeof h.magic);
    memcpy(h.teacher, info->teacher, sizeof h.teacher);
    memcpy(h.preprocess, info->preprocess, sizeof h.preprocess);
    memcpy(h.precision, info->precision, sizeof h.precision);
    h.crc = embedding_crc(&h, offsetof(EmbeddingHeader, crc));
    return h;
}

static Status open_at(const FileOps *ops, const char *path, int n_views, int64_t end,
                      EmbeddingShardWriter **out)
{
    EmbeddingShardWriter *writer = mem_alloc(sizeof *writer);
    *writer = (EmbeddingShardWriter){.ops = ops,
                                     .path = mem_string(path),
                                     .n_views = n_views,
                                     .fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC),
                                     .bytes = end,
                                     .synced_bytes = end};
    if (writer->fd >= 0 && ftruncate(writer->fd, end) == 0) {
        *out = writer;
        return OK;
    }
    Status status = status_fail(E_FILE, "%s: cannot be opened for writing: %s", path,
                                strerror(errno));
    embedding_shard_leave(writer);
    return status;
}

Status embedding_shard_create(const FileOps *ops, const char *path, const EmbeddingInfo *info,
                              EmbeddingShardWriter **out)
{
    EmbeddingHeader header = header_of(info);
    TRY(file_replace(ops, path, &header, sizeof header));
    return open_at(ops, path, info->n_views, sizeof header, out);
}

static Status note_entry(EmbeddingShardWriter *writer, EmbeddingEntry entry)
{
    TRY(buffer_grow(&writer->entries, (size_t)(writer->n_entries + 1) * sizeof entry));
    ((EmbeddingEntry *)writer->entries.data)[writer->n_entries++] = entry;
    return OK;
}

Status embedding_shard_resume(const FileOps *ops, const EmbeddingShard *shard,
                              EmbeddingShardWriter **out)
{
    assert(!shard->sealed);
    TRY(open_at(ops, shard->path, shard->info.n_views, shard->end, out));
    Status status = OK;
    for (int64_t i = 0; i < shard->n_entries && status == OK; i++)
        status = note_entry(*out, shard->entries[i]);
    if (status != OK) embedding_shard_leave(*out);
    return status;
}

void embedding_shard_leave(EmbeddingShardWriter *writer)
{
    if (!writer) return;
    if (writer->fd >= 0) close(writer->fd);
    buffer_free(&writer->entries);
    free(writer->path);
    free(writer);
}

/* ---- writing ---- */

Status embedding_shard_append(EmbeddingShardWriter *writer, uint64_t id, const void *const *bytes,
                              const size_t *n_bytes)
{
    static const char zeros[8];
    EmbeddingRecordHead head = {.magic = EMBEDDING_RECORD_MAGIC, .id = id};
    EmbeddingEntry entry = {id, (uint64_t)writer->bytes};
    size_t n_views_bytes = 0;
    for (int v = 0; v < writer->n_views; v++) {
        head.view_bytes[v] = (uint32_t)n_bytes[v];
        head.view_crc[v] = embedding_crc(bytes[v], n_bytes[v]);
        n_views_bytes += n_bytes[v];
    }
    head.crc = embedding_head_crc(&head);
    TRY(put(writer, &head, sizeof head));
    for (int v = 0; v < writer->n_views; v++) TRY(put(writer, bytes[v], n_bytes[v]));
    TRY(put(writer, zeros, (size_t)embedding_record_bytes(&head) - sizeof head - n_views_bytes));
    TRY(note_entry(writer, entry));
    return writer->bytes - writer->synced_bytes < SYNC_BYTES ? OK : sync_file(writer);
}

int64_t embedding_shard_bytes(const EmbeddingShardWriter *writer) { return writer->bytes; }

static int compare_ids(const void *a, const void *b)
{
    uint64_t left = ((const EmbeddingEntry *)a)->id, right = ((const EmbeddingEntry *)b)->id;
    return left < right ? -1 : left > right;
}

static Status put_index(EmbeddingShardWriter *writer)
{
    size_t n = (size_t)writer->n_entries, n_bytes = n * sizeof(EmbeddingEntry);
    EmbeddingTrailer trailer = {.n_entries = n, .index_offset = (uint64_t)writer->bytes};
    memcpy(trailer.magic, EMBEDDING_INDEX_MAGIC, sizeof trailer.magic);
    if (n) qsort(writer->entries.data, n, sizeof(EmbeddingEntry), compare_ids);
    trailer.index_crc = embedding_crc(writer->entries.data, n_bytes);
    trailer.crc = embedding_crc(&trailer, offsetof(EmbeddingTrailer, crc));
    TRY(put(writer, writer->entries.data, n_bytes));
    return put(writer, &trailer, sizeof trailer);
}

Status embedding_shard_seal(EmbeddingShardWriter *writer)
{
    Status status = put_index(writer);
    if (status == OK) status = sync_file(writer);
    embedding_shard_leave(writer);
    return status;
}
