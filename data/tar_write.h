/* Tar archives of files that lie in memory, over libarchive.
 *
 * An archive is a function of its entries: no times, no users. It appears under its name when it is
 * complete (base/file.h). Called by `retort synth` and data/pack.c for shards as SA-1B has them.
 */
#ifndef RETORT_DATA_TAR_WRITE_H
#define RETORT_DATA_TAR_WRITE_H

#include <stddef.h>

#include "base/file.h"

typedef struct TarWriter TarWriter;

/* tar_open: starts the archive `path`.
 * ops     the system calls to write with; kept
 * errors  E_FILE, E_MEMORY */
Status tar_open(const FileOps *ops, const char *path, TarWriter **out);

/* tar_add: one file, whose name is of at most 100 characters, or of 155, a slash and 100.
 * errors  E_FILE, also for a longer name; the archive can then only be discarded */
Status tar_add(TarWriter *tar, const char *name, const void *bytes, size_t n_bytes);

/* tar_commit: ends the archive, puts it in place and frees the writer in any case.
 * errors  E_FILE */
Status tar_commit(TarWriter *tar);
void tar_discard(TarWriter *tar); /* NULL is fine */

#endif
