/* Zip containers: members of an archive read in place, and archives of stored members written.
 *
 * Used by checkpoints/torch_file (PyTorch's .pth files are zip archives whose members are stored,
 * not compressed, and lie at multiples of 64 bytes).
 *
 * Reading goes through libarchive over a mapping of the file. For a stored member it hands out the
 * place in the mapping itself, so gigabytes of weights are never copied; a compressed one is
 * expanded into memory, within a budget. Each member's crc32 is checked when the file is opened.
 *
 * Writing is done here: libarchive's writer cannot place the data of a member at a multiple of
 * anything, and without that neither this reader nor PyTorch's could use it in place.
 *
 * Invariant: nothing is allocated because a number in the file says so; expanded members take at
 * most ZIP_EXPANSION times the file and ZIP_EXTRA_BYTES.
 * source  PKWARE's APPNOTE, version 6.3.3 (zip64: section 4.5.3)
 */
#ifndef RETORT_CHECKPOINTS_ZIP_H
#define RETORT_CHECKPOINTS_ZIP_H

#include "base/file.h"
#include "base/status.h"

/* A file may cost 64 MB beyond four times its size; half of it is for what grows and moves. */
enum { ZIP_ALIGN_BYTES = 64, ZIP_EXPANSION = 4, ZIP_EXTRA_BYTES = 32 << 20 };

typedef struct ZipMember {
    const char *name;
    const void *data; /* into the mapping, or into `copy`; NULL if n_bytes is 0 */
    size_t n_bytes;
    void *copy; /* memory of a member that was compressed, else NULL */
} ZipMember;

typedef struct ZipFile { /* an open archive, mapped read-only */
    char *path;
    ZipMember *members; /* in the order of the file, folders left out */
    int n_members;
    const ZipMember **by_name; /* the same, sorted by name */
    void *mapping;
    size_t mapping_bytes;
    size_t left_bytes; /* that may still be allocated on behalf of the file; see zip_budget */
} ZipFile;

/* zip_open: maps an archive and reads all its members.
 * errors  E_FILE; E_FORMAT if it is no zip archive, cut short, damaged (crc32), holds a name twice
 *         or expands beyond the budget; E_MEMORY */
Status zip_open(const char *path, ZipFile **out);
void zip_close(ZipFile *file);                                    /* NULL is fine */
const ZipMember *zip_find(const ZipFile *file, const char *name); /* NULL if absent */

/* zip_budget: bytes that may be allocated on behalf of an archive of file_bytes, by all who read
 * it. */
size_t zip_budget(size_t file_bytes);

typedef struct ZipWriter ZipWriter;

/* zip_writer_open: starts to replace `path` (base/file.h) by an archive. errors  E_FILE */
Status zip_writer_open(const FileOps *ops, const char *path, ZipWriter **out);

/* zip_writer_put: appends a stored member whose data lies at a multiple of ZIP_ALIGN_BYTES.
 * Names are UTF-8 and the caller sees to it that each comes once. errors  E_FILE; the writer can
 * then only be discarded */
Status zip_writer_put(ZipWriter *writer, const char *name, const void *data, size_t n_bytes);

/* zip_writer_commit: writes the directory and makes the archive visible under its path; frees the
 * writer in any case. errors  those of file_writer_commit */
Status zip_writer_commit(ZipWriter *writer);
void zip_writer_discard(ZipWriter *writer); /* NULL is fine */

#endif
