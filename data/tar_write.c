/* Tar archives over libarchive. See tar_write.h. */
#include "data/tar_write.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>

struct TarWriter {
    struct archive *archive;
    struct archive_entry *entry;
    FileWriter *file;
    Status status; /* of the file: the library only knows that writing failed */
};

static la_ssize_t write_bytes(struct archive *archive, void *user, const void *bytes,
                              size_t n_bytes)
{
    TarWriter *tar = user;
    tar->status = file_writer_put(tar->file, bytes, n_bytes);
    if (tar->status == OK) return (la_ssize_t)n_bytes;
    archive_set_error(archive, EIO, "%s", status_message());
    return -1;
}

static void tar_free(TarWriter *tar)
{
    if (tar->archive != NULL) archive_write_free(tar->archive);
    if (tar->entry != NULL) archive_entry_free(tar->entry);
    free(tar);
}

void tar_discard(TarWriter *tar)
{
    if (tar == NULL) return;
    if (tar->archive != NULL) archive_write_fail(tar->archive); /* nothing more is written */
    file_writer_discard(tar->file);
    tar_free(tar);
}

/* Failures of writing carry their own message; others are the library's. */
static Status fail_archive(const TarWriter *tar)
{
    if (tar->status != OK) return tar->status;
    return status_fail(E_FILE, "tar archive: %s", archive_error_string(tar->archive));
}

static Status open_archive(TarWriter *tar, const FileOps *ops, const char *path)
{
    tar->archive = archive_write_new();
    tar->entry = archive_entry_new();
    if (tar->archive == NULL || tar->entry == NULL)
        return status_fail(E_MEMORY, "%s: out of memory: tar archive", path);
    TRY(file_writer_open(ops, path, &tar->file));
    if (archive_write_set_format_ustar(tar->archive) != ARCHIVE_OK ||
        archive_write_open(tar->archive, tar, NULL, write_bytes, NULL) != ARCHIVE_OK)
        return fail_archive(tar);
    return OK;
}

Status tar_open(const FileOps *ops, const char *path, TarWriter **out)
{
    TarWriter *tar = calloc(1, sizeof *tar);
    if (tar == NULL) return status_fail(E_MEMORY, "%s: out of memory: tar archive", path);
    Status status = open_archive(tar, ops, path);
    if (status == OK)
        *out = tar;
    else
        tar_discard(tar);
    return status;
}

Status tar_add(TarWriter *tar, const char *name, const void *bytes, size_t n_bytes)
{
    archive_entry_clear(tar->entry);
    archive_entry_set_pathname(tar->entry, name);
    archive_entry_set_size(tar->entry, (la_int64_t)n_bytes);
    archive_entry_set_filetype(tar->entry, AE_IFREG);
    archive_entry_set_perm(tar->entry, 0644);
    archive_entry_set_mtime(tar->entry, 0, 0);
    if (archive_write_header(tar->archive, tar->entry) != ARCHIVE_OK ||
        archive_write_data(tar->archive, bytes, n_bytes) != (la_ssize_t)n_bytes)
        return fail_archive(tar);
    return OK;
}

Status tar_commit(TarWriter *tar)
{
    if (archive_write_close(tar->archive) != ARCHIVE_OK) {
        Status status = fail_archive(tar);
        tar_discard(tar);
        return status;
    }
    FileWriter *file = tar->file;
    tar_free(tar);
    return file_writer_commit(file);
}
