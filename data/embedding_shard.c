/* Shards of embeddings: form and reading. See embedding_shard.h; embedding_shard_write.c writes. */
#include "data/embedding_shard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/embedding_form.h"

EmbeddingForm embedding_form(const EmbeddingInfo *info)
{
    return (EmbeddingForm){.dtype = info->dtype,
                           .packed = info->packed,
                           .cells = info->grid * info->grid,
                           .dim = info->dim};
}

bool embedding_info_differs(const EmbeddingInfo *got, const EmbeddingInfo *wanted, char *why,
                            size_t why_bytes)
{
    const char *const packed[] = {"plain", "packed by zstd"};
    why[0] = '\0';
    if (strcmp(got->teacher, wanted->teacher))
        snprintf(why, why_bytes, "of another teacher: sha256 %.16s, wanted %.16s", got->teacher,
                 wanted->teacher);
    else if (got->image_size != wanted->image_size)
        snprintf(why, why_bytes, "made at %" PRId64 " px, wanted %" PRId64, got->image_size,
                 wanted->image_size);
    else if (got->grid != wanted->grid || got->dim != wanted->dim)
        snprintf(why, why_bytes,
                 "of %" PRId64 "x%" PRId64 "x%" PRId64 ", wanted %" PRId64 "x%" PRId64 "x%" PRId64,
                 got->dim, got->grid, got->grid, wanted->dim, wanted->grid, wanted->grid);
    else if (strcmp(got->preprocess, wanted->preprocess))
        snprintf(why, why_bytes, "of images by '%s', wanted '%s'", got->preprocess,
                 wanted->preprocess);
    else if (strcmp(got->precision, wanted->precision))
        snprintf(why, why_bytes, "computed in %s, wanted %s", got->precision, wanted->precision);
    else if (got->n_views != wanted->n_views)
        snprintf(why, why_bytes, "with %d of the two flips, wanted %d", got->n_views,
                 wanted->n_views);
    else if (got->dtype != wanted->dtype || got->packed != wanted->packed)
        snprintf(why, why_bytes, "kept in %s, %s, wanted %s, %s", embedding_dtype_names[got->dtype],
                 packed[got->packed], embedding_dtype_names[wanted->dtype], packed[wanted->packed]);
    return why[0] != '\0';
}

/* ---- header ---- */

static bool is_text(const char *field, size_t room) { return memchr(field, '\0', room) != NULL; }

/* What the CRC vouches for is still checked: a file may be written by anyone. */
static Status info_of_header(const EmbeddingHeader *h, const char *path, EmbeddingInfo *info)
{
    if (h->dtype >= EMBEDDING_DTYPES || h->packed > 1 || h->n_views < 1 ||
        h->n_views > EMBEDDING_MAX_VIEWS || h->grid < 1 || h->grid > 1 << 12 || h->dim < 1 ||
        h->dim > 1 << 14 || h->grid * h->grid > (1u << 28) / h->dim ||
        !is_text(h->teacher, sizeof h->teacher) || !is_text(h->preprocess, sizeof h->preprocess) ||
        !is_text(h->precision, sizeof h->precision))
        return status_fail(E_FORMAT, "%s: its header has values that no embedding has", path);
    *info = (EmbeddingInfo){.image_size = h->image_size,
                            .grid = h->grid,
                            .dim = h->dim,
                            .n_views = (int)h->n_views,
                            .dtype = (EmbeddingDType)h->dtype,
                            .packed = h->packed};
    memcpy(info->teacher, h->teacher, sizeof info->teacher);
    memcpy(info->preprocess, h->preprocess, sizeof info->preprocess);
    memcpy(info->precision, h->precision, sizeof info->precision);
    return OK;
}

static Status read_header(int fd, EmbeddingShard *shard)
{
    EmbeddingHeader h;
    ssize_t n = pread(fd, &h, sizeof h, 0);
    if (n < 0) return status_fail(E_FILE, "%s: cannot be read: %s", shard->path, strerror(errno));
    if (n < (ssize_t)sizeof h || memcmp(h.magic, EMBEDDING_MAGIC, sizeof h.magic) ||
        h.byte_order != EMBEDDING_BYTE_ORDER)
        return status_fail(E_FORMAT, "%s: is no shard of embeddings; write one with retort teach",
                           shard->path);
    if (h.version != EMBEDDING_VERSION)
        return status_fail(E_FORMAT, "%s: is of version %u, this program reads %d", shard->path,
                           h.version, EMBEDDING_VERSION);
    if (h.crc != embedding_crc(&h, offsetof(EmbeddingHeader, crc)))
        return status_fail(E_FORMAT,
                           "%s: its header is damaged; remove the file, and run retort "
                           "teach again for its images",
                           shard->path);
    return info_of_header(&h, shard->path, &shard->info);
}

/* ---- records ---- */

/* Whether the head at `offset` is whole and fits into a file of `file_bytes`. */
static bool read_head(int fd, const EmbeddingInfo *info, int64_t offset, int64_t file_bytes,
                      EmbeddingRecordHead *head)
{
    EmbeddingForm form = embedding_form(info);
    size_t max_bytes = 2 * embedding_plain_bytes(&form) + 4096;
    if (offset < 0 || offset > file_bytes - (int64_t)sizeof *head) return false;
    if (pread(fd, head, sizeof *head, offset) != (ssize_t)sizeof *head) return false;
    if (head->magic != EMBEDDING_RECORD_MAGIC || head->crc != embedding_head_crc(head))
        return false;
    for (int v = 0; v < EMBEDDING_MAX_VIEWS; v++)
        if (v < info->n_views ? head->view_bytes[v] == 0 || head->view_bytes[v] > max_bytes
                              : head->view_bytes[v] != 0)
            return false;
    return offset + embedding_record_bytes(head) <= file_bytes;
}

/* Bytes of view `view` into the buffer; false if they cannot be read or are damaged. */
static bool read_view(int fd, const EmbeddingRecordHead *head, int64_t offset, int view, char *dst)
{
    int64_t at = offset + (int64_t)sizeof *head + (view ? (int64_t)head->view_bytes[0] : 0);
    size_t n_bytes = head->view_bytes[view], done = 0;
    while (done < n_bytes) {
        ssize_t n = pread(fd, dst + done, n_bytes - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return embedding_crc(dst, n_bytes) == head->view_crc[view];
}

static Status open_file(const char *path, int *fd, int64_t *file_bytes)
{
    struct stat file;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &file)) {
        Status status = status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
        if (*fd >= 0) close(*fd);
        return status;
    }
    *file_bytes = file.st_size;
    return OK;
}

Status embedding_shard_read(const char *path, const EmbeddingInfo *info, EmbeddingEntry entry,
                            int view, Buffer *buffer, size_t *n_bytes)
{
    EmbeddingRecordHead head;
    int64_t file_bytes = 0, offset = (int64_t)entry.offset;
    int fd;
    TRY(open_file(path, &fd, &file_bytes));
    Status status = OK;
    bool whole = read_head(fd, info, offset, file_bytes, &head) && head.id == entry.id;
    if (whole) status = buffer_reserve(buffer, head.view_bytes[view]);
    if (whole && status == OK) whole = read_view(fd, &head, offset, view, buffer->data);
    close(fd);
    if (!whole)
        return status_fail(E_FORMAT,
                           "%s: the embedding of image %" PRIu64 " at byte %" PRId64
                           " is damaged; see retort teach --verify",
                           path, entry.id, offset);
    *n_bytes = head.view_bytes[view];
    return status;
}

/* ---- entries ---- */

/* By the index; false if there is none, or it is not sound: then it is only a shortcut less. */
static bool read_index(int fd, int64_t file_bytes, EmbeddingShard *shard)
{
    EmbeddingTrailer t;
    int64_t at = file_bytes - (int64_t)sizeof t;
    if (at < (int64_t)sizeof(EmbeddingHeader)) return false;
    if (pread(fd, &t, sizeof t, at) != (ssize_t)sizeof t) return false;
    if (memcmp(t.magic, EMBEDDING_INDEX_MAGIC, sizeof t.magic) ||
        t.crc != embedding_crc(&t, offsetof(EmbeddingTrailer, crc)) ||
        t.n_entries > (uint64_t)at / sizeof(EmbeddingEntry))
        return false;
    size_t n_bytes = (size_t)t.n_entries * sizeof(EmbeddingEntry);
    if (t.index_offset < sizeof(EmbeddingHeader) || t.index_offset + n_bytes != (uint64_t)at)
        return false;
    EmbeddingEntry *entries = malloc(n_bytes + 1);
    bool sound = entries &&
                 pread(fd, entries, n_bytes, (off_t)t.index_offset) == (ssize_t)n_bytes &&
                 embedding_crc(entries, n_bytes) == t.index_crc;
    for (uint64_t i = 0; sound && i < t.n_entries; i++)
        sound = (i == 0 || entries[i - 1].id < entries[i].id) && entries[i].offset % 8 == 0 &&
                entries[i].offset >= sizeof(EmbeddingHeader) && entries[i].offset < t.index_offset;
    if (!sound) {
        free(entries);
        return false;
    }
    shard->entries = entries;
    shard->n_entries = (int64_t)t.n_entries;
    shard->sealed = true;
    shard->end = (int64_t)t.index_offset;
    return true;
}

/* By reading through: all records up to the first that is not whole. */
static Status read_through(int fd, int64_t file_bytes, EmbeddingShard *shard)
{
    Buffer view = {0}, entries = {0};
    EmbeddingRecordHead head;
    int64_t offset = sizeof(EmbeddingHeader), n = 0;
    Status status = OK;
    while (status == OK && read_head(fd, &shard->info, offset, file_bytes, &head)) {
        bool whole = true;
        for (int v = 0; v < shard->info.n_views && whole && status == OK; v++) {
            status = buffer_reserve(&view, head.view_bytes[v]);
            if (status == OK) whole = read_view(fd, &head, offset, v, view.data);
        }
        if (!whole || status != OK) break;
        status = buffer_grow(&entries, (size_t)(n + 1) * sizeof(EmbeddingEntry));
        if (status == OK)
            ((EmbeddingEntry *)entries.data)[n++] = (EmbeddingEntry){head.id, (uint64_t)offset};
        offset += embedding_record_bytes(&head);
    }
    buffer_free(&view);
    shard->entries = entries.data;
    shard->n_entries = n;
    shard->end = offset;
    return status;
}

Status embedding_shard_open(const char *path, EmbeddingShard *out)
{
    int64_t file_bytes = 0;
    int fd;
    *out = (EmbeddingShard){.path = mem_string(path)};
    Status status = open_file(path, &fd, &file_bytes);
    if (status == OK) {
        status = read_header(fd, out);
        if (status == OK && !read_index(fd, file_bytes, out))
            status = read_through(fd, file_bytes, out);
        close(fd);
    }
    if (status != OK) embedding_shard_close(out);
    return status;
}

void embedding_shard_close(EmbeddingShard *shard)
{
    free(shard->path);
    free(shard->entries);
    *shard = (EmbeddingShard){0};
}
