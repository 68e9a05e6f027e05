/* Host memory for small structures. See memory.h. */
#include "base/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void *mem_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    assert(memory);
    return memory;
}

char *mem_string(const char *text)
{
    char *copy = mem_alloc(strlen(text) + 1);
    strcpy(copy, text);
    return copy;
}

void *mem_grow(void *items, int *capacity, int need, size_t element_bytes)
{
    if (need <= *capacity) return items;
    int grown = *capacity ? *capacity : 16;
    while (grown < need) grown *= 2;
    items = realloc(items, (size_t)grown * element_bytes);
    assert(items);
    memset((char *)items + (size_t)*capacity * element_bytes, 0,
           (size_t)(grown - *capacity) * element_bytes);
    *capacity = grown;
    return items;
}
