/* Index of a tar shard. See tar_index.h. */
#include "data/tar_index.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/rng.h"

/* ---- building ---- */

enum { READ_BYTES = 1 << 16 };

typedef struct Member {
    size_t stem, n_stem; /* name without extension, in the text */
    uint64_t id;         /* of an image */
    uint32_t block;
    bool is_image;
    int64_t number; /* order in the archive */
} Member;

typedef struct Builder {
    const char *shard;
    struct archive *archive;
    int fd;
    int64_t shard_bytes;
    Buffer text_memory, member_memory;
    size_t n_text;
    Member *members;
    int64_t n_members;
} Builder;

static Status fail_archive(const Builder *b)
{
    const char *why = archive_error_string(b->archive);
    return status_fail(E_FORMAT, "%s: %s; wanted a plain, uncompressed tar archive", b->shard,
                       why ? why : "not a tar archive");
}

static Status fail_member(const Builder *b, const char *name, const char *what)
{
    return status_fail(E_FORMAT, "%s: member %.200s %s", b->shard, name, what);
}

/* Whether the member's header, as tar_read_member will see it, tells its size. */
static Status check_offset(const Builder *b, const char *name, int64_t header, int64_t n_bytes)
{
    uint8_t bytes[TAR_BLOCK_BYTES];
    char again[TAR_NAME_BYTES];
    int64_t said;
    if (header < 0 || header % TAR_BLOCK_BYTES != 0 ||
        header / TAR_BLOCK_BYTES >= (int64_t)TAR_NO_BLOCK)
        return fail_member(b, name, "lies beyond 2 TiB or off the archive's blocks");
    if (pread(b->fd, bytes, sizeof bytes, header) != sizeof bytes)
        return status_fail(E_FILE, "%s: cannot read: %s", b->shard, strerror(errno));
    if (!tar_header_parse(bytes, again, &said) || said != n_bytes)
        return fail_member(b, name,
                           "cannot be read by offset: it is sparse, or has no plain header");
    if (n_bytes > b->shard_bytes - header - TAR_BLOCK_BYTES)
        return fail_member(b, name, "is cut off at the end of the archive");
    return OK;
}

const char *tar_skip_dot(const char *name)
{
    while (name[0] == '.' && name[1] == '/') name += 2;
    return name;
}

static Status add_member(Builder *b, const char *name, bool is_image, int64_t header)
{
    size_t n = (size_t)(strrchr(name, '.') - name);
    TRY(buffer_grow(&b->text_memory, b->n_text + n + 1));
    TRY(buffer_grow(&b->member_memory, (size_t)(b->n_members + 1) * sizeof(Member)));
    memcpy((char *)b->text_memory.data + b->n_text, name, n);
    ((char *)b->text_memory.data)[b->n_text + n] = '\0';
    b->members = b->member_memory.data;
    b->members[b->n_members] = (Member){.stem = b->n_text,
                                        .n_stem = n,
                                        .id = is_image ? root_sample_id(name) : 0,
                                        .block = (uint32_t)(header / TAR_BLOCK_BYTES),
                                        .is_image = is_image,
                                        .number = b->n_members};
    b->n_members++;
    b->n_text += n + 1;
    return OK;
}

static Status on_entry(Builder *b, struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    if (name == NULL) return status_fail(E_FORMAT, "%s: a member's name cannot be read", b->shard);
    name = tar_skip_dot(name);
    const char *dot = strrchr(name, '.');
    bool is_image = dot && (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0);
    bool is_masks = dot && strcmp(dot, ".json") == 0;
    if (strchr(dot ? dot : "/", '/') || (!is_image && !is_masks)) return OK;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return fail_member(b, name, "is no file of its own but a link or a device");
    /* libarchive has read as far as the header goes */
    int64_t header = archive_filter_bytes(b->archive, -1) - TAR_BLOCK_BYTES;
    TRY(check_offset(b, name, header, archive_entry_size(entry)));
    return add_member(b, name, is_image, header);
}

static Status list_members(Builder *b)
{
    if (archive_read_support_format_tar(b->archive) != ARCHIVE_OK ||
        archive_read_open_filename(b->archive, b->shard, READ_BYTES) != ARCHIVE_OK)
        return fail_archive(b);
    for (;;) {
        struct archive_entry *entry;
        int result = archive_read_next_header(b->archive, &entry);
        if (result == ARCHIVE_EOF) return OK;
        if (result != ARCHIVE_OK) return fail_archive(b);
        TRY(on_entry(b, entry));
    }
}

static int by_stem(const void *left, const void *right, void *text)
{
    const Member *a = left, *b = right;
    int order = strcmp((const char *)text + a->stem, (const char *)text + b->stem);
    if (order) return order;
    return a->is_image != b->is_image ? b->is_image - a->is_image
                                      : (a->number > b->number) - (a->number < b->number);
}

typedef struct Sample {
    TarRecord record;
    int64_t number;
} Sample;

static int by_number(const void *left, const void *right)
{
    const Sample *a = left, *b = right;
    return (a->number > b->number) - (a->number < b->number);
}

static int by_id(const void *left, const void *right)
{
    const Sample *a = left, *b = right;
    return (a->record.id > b->record.id) - (a->record.id < b->record.id);
}

/* Masks are sorted behind the image of their name, if there is one. */
static void note_lone_masks(const Builder *b, const Member *masks, const Member *before,
                            TarIndex *index)
{
    const char *text = b->text_memory.data;
    if (before != NULL && strcmp(text + before->stem, text + masks->stem) == 0) return;
    if (index->n_lone_masks++ == 0)
        snprintf(index->lone_masks, sizeof index->lone_masks, "%s.json", text + masks->stem);
}

/* The images, each with the masks of its name. */
static int64_t pair_members(Builder *b, Sample *samples, TarIndex *index)
{
    const char *text = b->text_memory.data;
    int64_t n = 0;
    if (b->n_members == 0) return 0;
    qsort_r(b->members, (size_t)b->n_members, sizeof(Member), by_stem, b->text_memory.data);
    for (int64_t i = 0; i < b->n_members; i++) {
        const Member *member = &b->members[i], *next = member + 1;
        if (!member->is_image) {
            note_lone_masks(b, member, i > 0 ? member - 1 : NULL, index);
            continue;
        }
        Sample *sample = &samples[n++];
        *sample = (Sample){{member->id, member->block, TAR_NO_BLOCK}, member->number};
        if (i + 1 < b->n_members && !next->is_image &&
            strcmp(text + member->stem, text + next->stem) == 0)
            sample->record.mask_block = next->block;
    }
    return n;
}

static Status fill_index(const Builder *b, Sample *samples, int64_t n, TarIndex *out)
{
    TarRecord *records = malloc((size_t)(n + 1) * sizeof *records);
    if (records == NULL) return status_fail(E_MEMORY, "%s: out of memory: its index", b->shard);
    out->records = out->memory = records;
    out->n_records = n;
    qsort(samples, (size_t)n, sizeof *samples, by_id);
    for (int64_t i = 1; i < n; i++)
        if (samples[i].record.id == samples[i - 1].record.id)
            return status_fail(E_FORMAT, "%s: two images with the id %llu, at blocks %u and %u",
                               b->shard, (unsigned long long)samples[i].record.id,
                               samples[i - 1].record.image_block, samples[i].record.image_block);
    out->min_id = n > 0 ? samples[0].record.id : 0;
    out->max_id = n > 0 ? samples[n - 1].record.id : 0;
    qsort(samples, (size_t)n, sizeof *samples, by_number);
    for (int64_t i = 0; i < n; i++) {
        records[i] = samples[i].record;
        out->n_without_masks += records[i].mask_block == TAR_NO_BLOCK;
    }
    return OK;
}

static Status build(Builder *b, TarIndex *out)
{
    TRY(list_members(b));
    Sample *samples = malloc((size_t)(b->n_members + 1) * sizeof *samples);
    if (samples == NULL) return status_fail(E_MEMORY, "%s: out of memory: its index", b->shard);
    Status status = fill_index(b, samples, pair_members(b, samples, out), out);
    free(samples);
    return status;
}

Status tar_index_build(const char *shard, TarIndex *out)
{
    TarShard info = {0};
    TRY(tar_shard_stat(shard, &info));
    Builder b = {.shard = shard, .shard_bytes = info.n_bytes, .archive = archive_read_new()};
    b.fd = open(shard, O_RDONLY | O_CLOEXEC);
    *out = (TarIndex){0};
    Status status = OK;
    if (b.fd < 0)
        status = status_fail(E_FILE, "%s: cannot open: %s", shard, strerror(errno));
    else if (b.archive == NULL)
        status = status_fail(E_MEMORY, "%s: out of memory: reading a tar", shard);
    else
        status = build(&b, out);
    if (status != OK) tar_index_free(out);
    if (b.archive) archive_read_free(b.archive);
    if (b.fd >= 0) close(b.fd);
    buffer_free(&b.text_memory);
    buffer_free(&b.member_memory);
    return status;
}

Status tar_shard_stat(const char *shard, TarShard *out)
{
    struct stat info;
    if (stat(shard, &info) != 0)
        return status_fail(E_FILE, "%s: cannot open: %s", shard, strerror(errno));
    if (!S_ISREG(info.st_mode)) return status_fail(E_FILE, "%s: not a regular file", shard);
    *out = (TarShard){.n_bytes = info.st_size,
                      .changed_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 +
                                    info.st_mtim.tv_nsec};
    return OK;
}

/* ---- the file ---- */

/* Integers as this machine stores them: an index of another byte order has another magic. */
typedef struct IndexHeader {
    uint64_t magic;
    int64_t n_records, n_without_masks;
    uint64_t min_id, max_id;
    TarShard shard;
    uint64_t crc; /* of the records, then of this header with crc = 0 */
} IndexHeader;

Status tar_index_path(const char *folder, const char *shard, char path[ROOT_NAME_BYTES])
{
    int n = snprintf(path, ROOT_NAME_BYTES, "%s/%s.%016llx.index", folder, path_base_name(shard),
                     (unsigned long long)rng_name_hash(shard));
    if (n < ROOT_NAME_BYTES) return OK;
    return status_fail(E_FILE, "%s: a path of more than %d characters", shard, ROOT_NAME_BYTES - 1);
}

static const uint64_t index_magic = 0x3158444954524f54; /* "TORTIDX1" */

static uint64_t index_crc(IndexHeader header, const TarRecord *records)
{
    header.crc = 0;
    uLong crc = crc32_z(0, (const void *)records, (size_t)header.n_records * sizeof *records);
    return crc32_z(crc, (const void *)&header, sizeof header);
}

static Status put_index(FileWriter *file, const IndexHeader *header, const TarIndex *index)
{
    TRY(file_writer_put(file, header, sizeof *header));
    return file_writer_put(file, index->records, (size_t)index->n_records * sizeof(TarRecord));
}

Status tar_index_write(const FileOps *ops, const char *path, const TarShard *shard,
                       const TarIndex *index)
{
    FileWriter *file;
    IndexHeader header = {.magic = index_magic,
                          .n_records = index->n_records,
                          .n_without_masks = index->n_without_masks,
                          .min_id = index->min_id,
                          .max_id = index->max_id,
                          .shard = *shard};
    header.crc = index_crc(header, index->records);
    TRY(file_writer_open(ops, path, &file));
    Status status = put_index(file, &header, index);
    if (status == OK) return file_writer_commit(file);
    file_writer_discard(file);
    return status;
}

static Status check_index(const char *path, const TarShard *shard, const TarIndex *index)
{
    const IndexHeader *header = index->memory;
    size_t n_bytes = index->mapped_bytes - sizeof *header;
    bool whole = header->magic == index_magic && header->n_records >= 0 &&
                 (uint64_t)header->n_records == n_bytes / sizeof(TarRecord) &&
                 n_bytes % sizeof(TarRecord) == 0;
    const TarRecord *records = (const void *)(header + 1);
    if (!whole || index_crc(*header, records) != header->crc)
        return status_fail(E_FORMAT, "%s: damaged, or no index of a shard; remove it", path);
    if (header->shard.n_bytes != shard->n_bytes || header->shard.changed_ns != shard->changed_ns)
        return status_fail(E_FORMAT, "%s: index of another state of the shard; remove it", path);
    return OK;
}

static Status map_index(const char *path, int fd, TarIndex *out)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return status_fail(E_FILE, "%s: cannot read: %s", path, strerror(errno));
    if (info.st_size < (off_t)sizeof(IndexHeader))
        return status_fail(E_FORMAT, "%s: damaged, or no index of a shard; remove it", path);
    size_t n_bytes = (size_t)info.st_size;
    void *memory = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (memory == MAP_FAILED)
        return status_fail(E_MEMORY, "%s: cannot map: %s", path, strerror(errno));
    *out = (TarIndex){.memory = memory, .mapped_bytes = n_bytes};
    return OK;
}

Status tar_index_open(const char *path, const TarShard *shard, TarIndex *out)
{
    *out = (TarIndex){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_fail(E_FILE, "%s: cannot open: %s", path, strerror(errno));
    Status status = map_index(path, fd, out);
    close(fd);
    if (status == OK) status = check_index(path, shard, out);
    if (status != OK) {
        tar_index_free(out);
        return status;
    }
    const IndexHeader *header = out->memory;
    out->records = (const void *)(header + 1);
    out->n_records = header->n_records;
    out->min_id = header->min_id;
    out->max_id = header->max_id;
    out->n_without_masks = header->n_without_masks;
    return OK;
}

void tar_index_free(TarIndex *index)
{
    if (index->mapped_bytes > 0)
        munmap(index->memory, index->mapped_bytes);
    else
        free(index->memory);
    *index = (TarIndex){0};
}

/* ---- reading ---- */

static Status fail_read(const char *shard, int64_t offset, ssize_t n)
{
    return status_fail(E_FILE, "%s: cannot read at byte %lld: %s", shard, (long long)offset,
                       n < 0 ? strerror(errno) : "the archive became shorter");
}

/* All of the range; a regular file gives less only at its end. */
static Status read_range(int fd, const char *shard, int64_t offset, void *bytes, size_t n_bytes)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = pread(fd, (char *)bytes + done, n_bytes - done, offset + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_read(shard, offset + (int64_t)done, n);
        done += (size_t)n;
    }
    return OK;
}

static Status read_open_shard(int fd, const char *shard, int64_t offset, int64_t max_bytes,
                              Buffer *buffer, char name[TAR_NAME_BYTES], size_t *n_bytes)
{
    enum { FIRST_BYTES = 1 << 16 }; /* with the header: all of most masks, in one call */
    int64_t length;
    TRY(buffer_reserve(buffer, FIRST_BYTES));
    ssize_t got = pread(fd, buffer->data, FIRST_BYTES, offset);
    if (got < TAR_BLOCK_BYTES) return fail_read(shard, offset, got);
    if (!tar_header_parse(buffer->data, name, &length))
        return status_fail(E_FORMAT,
                           "%s: no file begins at byte %lld; the archive is not the one that was "
                           "indexed, or damaged",
                           shard, (long long)offset);
    if (length < 1 || length > max_bytes)
        return status_fail(E_FORMAT, "%s: %s: %lld bytes, wanted 1..%lld", shard, name,
                           (long long)length, (long long)max_bytes);
    *n_bytes = (size_t)length;
    size_t wanted = TAR_BLOCK_BYTES + *n_bytes, have = (size_t)got;
    if (wanted <= have) return OK;
    TRY(buffer_grow(buffer, wanted));
    return read_range(fd, shard, offset + (int64_t)have, (char *)buffer->data + have,
                      wanted - have);
}

Status tar_read_member(const char *shard, uint32_t block, int64_t max_bytes, Buffer *buffer,
                       char name[TAR_NAME_BYTES], const void **bytes, size_t *n_bytes)
{
    int fd = open(shard, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_fail(E_FILE, "%s: cannot open: %s", shard, strerror(errno));
    Status status = read_open_shard(fd, shard, (int64_t)block * TAR_BLOCK_BYTES, max_bytes, buffer,
                                    name, n_bytes);
    close(fd);
    if (status == OK) *bytes = (const char *)buffer->data + TAR_BLOCK_BYTES;
    return status;
}
