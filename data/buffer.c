/* Memory that is kept between samples. See buffer.h. */
#include "data/buffer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static Status out_of_memory(size_t bytes)
{
    return status_fail(
        E_MEMORY, "out of memory: %zu bytes for reading samples; use fewer data threads", bytes);
}

Status buffer_reserve(Buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->bytes) return OK;
    buffer_free(buffer);
    buffer->data = malloc(bytes);
    if (buffer->data == NULL) return out_of_memory(bytes);
    buffer->bytes = bytes;
    return OK;
}

Status buffer_grow(Buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->bytes) return OK;
    if (bytes < 2 * buffer->bytes) bytes = 2 * buffer->bytes;
    void *data = realloc(buffer->data, bytes);
    if (data == NULL) return out_of_memory(bytes);
    *buffer = (Buffer){data, bytes};
    return OK;
}

static Status read_open_file(Buffer *buffer, FILE *file, const char *path, int64_t max_bytes,
                             size_t *n_bytes)
{
    struct stat info;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        return status_fail(E_FILE, "%s: not a regular file", path);
    if (info.st_size == 0) return status_fail(E_FORMAT, "%s: the file is empty", path);
    if (info.st_size > max_bytes)
        return status_fail(E_FORMAT, "%s: %lld bytes, such files are read up to %lld", path,
                           (long long)info.st_size, (long long)max_bytes);
    *n_bytes = (size_t)info.st_size;
    TRY(buffer_reserve(buffer, *n_bytes));
    if (fread(buffer->data, 1, *n_bytes, file) != *n_bytes)
        return status_fail(E_FILE, "%s: cannot read %zu bytes: %s", path, *n_bytes,
                           ferror(file) ? strerror(errno) : "the file became shorter");
    return OK;
}

Status buffer_read_file(Buffer *buffer, const char *path, int64_t max_bytes, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) return status_fail(E_FILE, "%s: cannot open: %s", path, strerror(errno));
    Status status = read_open_file(buffer, file, path, max_bytes, n_bytes);
    fclose(file);
    return status;
}

void buffer_free(Buffer *buffer)
{
    free(buffer->data);
    *buffer = (Buffer){0};
}
