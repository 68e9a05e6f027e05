/* Files: replaced as a whole or not at all, and read as a whole within a limit.
 *
 * Used by checkpoints/ (weights, training states), train/ (configs, run folder) and whoever writes
 * a file that must never be seen half written.
 *
 * A FileWriter writes to "PATH.tmp" beside the file; commit makes it durable (fsync), renames it
 * over PATH and makes the rename durable (fsync of the folder). Killed at any point, PATH holds the
 * old content or the new. A left-over PATH.tmp is harmless: the next writer of PATH takes its
 * place.
 * Invariant: one writer per path at a time (in a run, rank 0).
 */
#ifndef RETORT_BASE_FILE_H
#define RETORT_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

/* The system calls that can fail late. Passed explicitly, so that a test can make the n-th one
 * fail. Each returns -1 and sets errno on failure, as its namesake does. */
typedef struct FileOps {
    void *context; /* given to each call */
    ssize_t (*write)(void *context, int fd, const void *data, size_t n_bytes);
    int (*fsync)(void *context, int fd);
    int (*rename)(void *context, const char *from, const char *to);
} FileOps;

extern const FileOps file_ops_system; /* write(2), fsync(2), rename(2) */

typedef struct FileWriter FileWriter;

/* file_writer_open: starts to replace `path`.
 * errors  E_FILE naming path and reason; nothing is left behind */
Status file_writer_open(const FileOps *ops, const char *path, FileWriter **out);

/* file_writer_put: appends bytes. errors  E_FILE, naming the step; the writer can then only be
 * discarded */
Status file_writer_put(FileWriter *writer, const void *data, size_t n_bytes);

/* file_writer_commit: makes the new content durable and visible under `path`; frees the writer
 * in any case.
 * errors  E_FILE naming the step that failed. The old file is then untouched and the temporary
 *         removed; only if the last step (fsync of the folder) fails, the new content is in
 *         place, but a power cut may still bring the old one back */
Status file_writer_commit(FileWriter *writer);
void file_writer_discard(FileWriter *writer); /* removes the temporary, frees; NULL is fine */

/* file_replace: the three calls above for content that lies in memory. errors  as above */
Status file_replace(const FileOps *ops, const char *path, const void *data, size_t n_bytes);

/* file_write_all: all bytes to an open file, however many calls that takes; for files that are
 * appended to. errors  false, with errno set; a part may then be written */
bool file_write_all(const FileOps *ops, int fd, const void *data, size_t n_bytes);

/* file_read: the whole file, with a zero byte behind it, to be freed by free().
 * errors  E_FILE if it cannot be read; E_FORMAT if it is larger than max_bytes */
Status file_read(const char *path, size_t max_bytes, char **out, size_t *out_bytes);

/* file_make_folders: creates `path` and the folders above it that are missing.
 * errors  E_FILE naming the folder that could not be made, also if a file stands in the way */
Status file_make_folders(const char *path);

bool file_exists(const char *path);                     /* a file or folder of that name is there */
Status file_size(const char *path, int64_t *out_bytes); /* errors  E_FILE */

/* file_join: "FOLDER/NAME" (NAME alone if it is absolute or folder is ""), to be freed.
 * file_folder: the folder `path` lies in, "." if it names none, to be freed. */
char *file_join(const char *folder, const char *name);
char *file_folder(const char *path);

#endif
