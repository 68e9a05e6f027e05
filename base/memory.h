/* Host memory for small structures (graphs, plans, configs).
 *
 * Running out of a few kilobytes is treated as a programmer's mistake (assert): the big
 * allocations, whose failure a user can meet, go through Backend.alloc and report what was planned.
 */
#ifndef RETORT_BASE_MEMORY_H
#define RETORT_BASE_MEMORY_H

#include <stddef.h>

void *mem_alloc(size_t bytes);      /* zero-filled, never NULL */
char *mem_string(const char *text); /* copy, to be freed by free() */

/* mem_grow: makes room for `need` elements in a dynamic array, doubling its capacity; new room is
 * zero. */
void *mem_grow(void *items, int *capacity, int need, size_t element_bytes);

#endif
