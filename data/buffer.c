/* Memory that is kept between samples. See buffer.h. */
#include "data/buffer.h"

#include <stdlib.h>

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

void buffer_free(Buffer *buffer)
{
    free(buffer->data);
    *buffer = (Buffer){0};
}
