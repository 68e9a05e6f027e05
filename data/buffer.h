/* A block of memory that is kept between samples and only ever grows.
 *
 * The readers of data/ hold a few of these each, so that after the largest sample of a run nothing
 * is allocated any more. Zero-initialise before the first use.
 */
#ifndef RETORT_DATA_BUFFER_H
#define RETORT_DATA_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Buffer {
    void *data;
    size_t bytes;
} Buffer;

/* buffer_reserve: makes room for `bytes`; the content is lost when the block moves.
 * errors  E_MEMORY */
Status buffer_reserve(Buffer *buffer, size_t bytes);

/* buffer_grow: makes room for `bytes` and keeps the content; at least doubles, so that appending is
 * cheap.
 * errors  E_MEMORY; the old content stays valid */
Status buffer_grow(Buffer *buffer, size_t bytes);

/* buffer_read_file: a whole file.
 * errors  E_FILE if it cannot be read or is no regular file; E_FORMAT if it is empty or larger than
 *         max_bytes; E_MEMORY */
Status buffer_read_file(Buffer *buffer, const char *path, int64_t max_bytes, size_t *n_bytes);

void buffer_free(Buffer *buffer);

#endif
