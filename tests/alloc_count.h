/* Counts the calls to allocators between two marks, by who made them. Linked into one test program,
 * whose malloc, free and so on then are those of alloc_count.c, for all libraries in the process
 * too.
 *
 * Counts all threads; so who wants to know about some must see to it that there are no others. Not
 * available under AddressSanitizer, which has allocators of its own. */
#ifndef RETORT_TESTS_ALLOC_COUNT_H
#define RETORT_TESTS_ALLOC_COUNT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct AllocCount {
    long program;      /* calls from the program's own code, mmap included */
    long engine;       /* from oneDNN (or the C++ library on its behalf) and OpenMP */
    long other;        /* from the C library and the rest */
    size_t largest;    /* bytes of the largest request in `engine` */
    long long kept;    /* bytes allocated minus bytes freed, by all */
    size_t program_at; /* offset in the program's file of the last call from it, for addr2line */
    const char *other_name; /* file of the last library in `other` */
} AllocCount;

bool alloc_count_available(void);
void alloc_count_start(void); /* goes on counting */
void alloc_count_stop(void);
AllocCount alloc_count_total(void); /* since the program began */

#endif
