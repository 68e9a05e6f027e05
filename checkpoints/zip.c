/* Reader of zip archives. See zip.h. */
#include "checkpoints/zip.h"

#include <archive.h>
#include <archive_entry.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

/* libarchive sees the mapping in pieces of this size: it counts a block's bytes in 32 bits when it
 * computes crc32, so a member of more than 4 GB must not come as one block. */
enum { PIECE_BYTES = 64 << 20 };

typedef struct ZipReader {
    ZipFile *file;
    struct archive *archive;
    int capacity; /* of file->members */
} ZipReader;

size_t zip_budget(size_t file_bytes)
{
    size_t budget;
    if (__builtin_mul_overflow(file_bytes, (size_t)ZIP_EXPANSION, &budget)) return SIZE_MAX;
    return __builtin_add_overflow(budget, (size_t)ZIP_EXTRA_BYTES, &budget) ? SIZE_MAX : budget;
}

/* ---- the file ---- */

static Status map_file(ZipFile *file)
{
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_fail(E_FILE, "%s: cannot be opened: %s", file->path, strerror(errno));
    Status status = OK;
    if (fstat(fd, &info))
        status = status_fail(E_FILE, "%s: %s", file->path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = status_fail(E_FILE, "%s: is not a file", file->path);
    else if (info.st_size == 0)
        status = status_fail(E_FORMAT, "%s: is empty", file->path);
    if (status == OK) {
        file->mapping_bytes = (size_t)info.st_size;
        file->mapping = mmap(NULL, file->mapping_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file->mapping == MAP_FAILED) {
            file->mapping = NULL;
            status = status_fail(E_MEMORY, "%s: cannot be mapped: %s", file->path, strerror(errno));
        }
    }
    close(fd);
    return status;
}

static bool in_mapping(const ZipFile *file, const void *data)
{
    uintptr_t begin = (uintptr_t)file->mapping, at = (uintptr_t)data;
    return at >= begin && at < begin + file->mapping_bytes;
}

/* ---- members ---- */

static Status refuse_damaged(const ZipReader *reader, const ZipMember *member)
{
    const char *why = archive_error_string(reader->archive);
    return status_fail(E_FORMAT,
                       "%s: member %.100s: %s; the file is damaged, or was saved with "
                       "torch.serialization.set_crc32_options(False): fetch or save it again",
                       reader->file->path, member->name, why ? why : "cannot be read");
}

/* Appends a block to a member that is not used in place. Blocks come in order and may leave out
 * zeros between them (libarchive's sparse files); zip knows none, so a gap is damage. */
static Status expand(ZipReader *reader, ZipMember *member, const void *block, size_t n_bytes)
{
    if (n_bytes > reader->file->left_bytes)
        return status_fail(E_FORMAT,
                           "%s: member %.100s: the archive expands to more than %zu bytes, which "
                           "a file of %zu may not; save it uncompressed",
                           reader->file->path, member->name,
                           zip_budget(reader->file->mapping_bytes), reader->file->mapping_bytes);
    size_t total = member->n_bytes + n_bytes;
    void *grown = realloc(member->copy, total);
    if (!grown)
        return status_fail(E_MEMORY, "%s: member %.100s: no memory for %zu bytes",
                           reader->file->path, member->name, total);
    memcpy((char *)grown + member->n_bytes, block, n_bytes);
    member->data = member->copy = grown;
    member->n_bytes = total;
    reader->file->left_bytes -= n_bytes;
    return OK;
}

/* Blocks that follow each other in the mapping are used there; any others are put together in
 * memory. */
static Status take_block(ZipReader *reader, ZipMember *member, const void *block, size_t n_bytes)
{
    bool in_place = !member->copy && in_mapping(reader->file, block);
    if (in_place && member->n_bytes == 0) member->data = block;
    if (in_place && (const char *)member->data + member->n_bytes == block) {
        member->n_bytes += n_bytes;
        return OK;
    }
    if (member->n_bytes && !member->copy) {
        size_t first_bytes = member->n_bytes;
        member->n_bytes = 0;
        TRY(expand(reader, member, member->data, first_bytes));
    }
    return expand(reader, member, block, n_bytes);
}

/* libarchive compares the sum of the blocks with the entry's size and CRC at the end, and says so.
 */
static Status read_data(ZipReader *reader, ZipMember *member)
{
    const void *block;
    size_t n_bytes;
    la_int64_t offset;
    int got;
    while ((got = archive_read_data_block(reader->archive, &block, &n_bytes, &offset)) ==
           ARCHIVE_OK) {
        if (n_bytes == 0) continue;
        if (offset != (la_int64_t)member->n_bytes) return refuse_damaged(reader, member);
        TRY(take_block(reader, member, block, n_bytes));
    }
    return got == ARCHIVE_EOF ? OK : refuse_damaged(reader, member);
}

static Status read_member(ZipReader *reader, struct archive_entry *entry)
{
    ZipFile *file = reader->file;
    const char *name = archive_entry_pathname_utf8(entry);
    if (!name) name = archive_entry_pathname(entry);
    if (!name || !*name)
        return status_fail(E_FORMAT, "%s: member %d: its name is missing or not UTF-8", file->path,
                           file->n_members);
    if (name[strlen(name) - 1] == '/') return OK; /* a folder */
    file->members = mem_grow(file->members, &reader->capacity, file->n_members + 1,
                             sizeof *file->members);
    ZipMember *member = &file->members[file->n_members++];
    member->name = mem_string(name);
    return read_data(reader, member);
}

static Status read_members(ZipReader *reader)
{
    struct archive *archive = reader->archive;
    struct archive_entry *entry;
    archive_read_support_format_zip_seekable(archive);
    int got = archive_read_open_memory2(archive, reader->file->mapping, reader->file->mapping_bytes,
                                        PIECE_BYTES);
    while (got == ARCHIVE_OK && (got = archive_read_next_header(archive, &entry)) == ARCHIVE_OK)
        TRY(read_member(reader, entry));
    if (got == ARCHIVE_EOF) return OK;
    const char *why = archive_error_string(archive);
    return status_fail(E_FORMAT, "%s: member %d: %s; is it a zip archive, and complete?",
                       reader->file->path, reader->file->n_members, why ? why : "cannot be read");
}

/* ---- names ---- */

static int compare_members(const void *a, const void *b)
{
    return strcmp((*(const ZipMember *const *)a)->name, (*(const ZipMember *const *)b)->name);
}

static Status sort_names(ZipFile *file)
{
    file->by_name = mem_alloc((size_t)file->n_members * sizeof *file->by_name);
    for (int i = 0; i < file->n_members; i++) file->by_name[i] = &file->members[i];
    if (file->n_members)
        qsort(file->by_name, (size_t)file->n_members, sizeof *file->by_name, compare_members);
    for (int i = 1; i < file->n_members; i++)
        if (!compare_members(&file->by_name[i - 1], &file->by_name[i]))
            return status_fail(E_FORMAT, "%s: member %.100s is there twice", file->path,
                               file->by_name[i]->name);
    return OK;
}

const ZipMember *zip_find(const ZipFile *file, const char *name)
{
    ZipMember wanted = {.name = name};
    const ZipMember *key = &wanted;
    if (!file->n_members) return NULL;
    const ZipMember **found = bsearch(&key, file->by_name, (size_t)file->n_members,
                                      sizeof *file->by_name, compare_members);
    return found ? *found : NULL;
}

/* ---- opening ---- */

Status zip_open(const char *path, ZipFile **out)
{
    ZipFile *file = mem_alloc(sizeof *file);
    file->path = mem_string(path);
    Status status = map_file(file);
    if (status == OK) {
        ZipReader reader = {.file = file, .archive = archive_read_new()};
        assert(reader.archive); /* fails only without memory */
        file->left_bytes = zip_budget(file->mapping_bytes);
        status = read_members(&reader);
        archive_read_free(reader.archive);
    }
    if (status == OK) status = sort_names(file);
    if (status != OK) {
        zip_close(file);
        return status;
    }
    *out = file;
    return OK;
}

void zip_close(ZipFile *file)
{
    if (!file) return;
    for (int i = 0; i < file->n_members; i++) {
        free((char *)file->members[i].name);
        free(file->members[i].copy);
    }
    if (file->mapping) munmap(file->mapping, file->mapping_bytes);
    free(file->members);
    free(file->by_name);
    free(file->path);
    free(file);
}
