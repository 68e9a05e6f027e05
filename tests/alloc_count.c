/* Allocators that count and pass on to the C library's. See alloc_count.h.
 *
 * Must hold: nothing here allocates, and nothing is looked up while counting: the address ranges of
 * all loaded objects are noted at the first mark. */
#include "tests/alloc_count.h"

#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined __SANITIZE_ADDRESS__

bool alloc_count_available(void) { return false; }
void alloc_count_start(void) {}
void alloc_count_stop(void) {}
AllocCount alloc_count_total(void) { return (AllocCount){0}; }

#else

/* The allocators under those that are defined here; glibc exports them for this use. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *memory);

enum { MAX_RANGES = 512 };
typedef enum Owner { OWNER_PROGRAM, OWNER_ENGINE, OWNER_OTHER } Owner;
typedef struct Range {
    uintptr_t first, end, base;
    Owner owner;
    const char *name;
} Range;

static Range ranges[MAX_RANGES];
static int n_ranges;
static atomic_bool counting;
static atomic_long n_calls[3];
static atomic_llong kept;
static atomic_size_t largest, program_at;
static _Atomic(const char *) other_name;

static Owner owner_of(const char *file)
{
    if (file[0] == '\0') return OWNER_PROGRAM;
    const char *engine[] = {"libdnnl", "libstdc++", "libgomp"};
    for (int i = 0; i < 3; i++)
        if (strstr(file, engine[i])) return OWNER_ENGINE;
    return OWNER_OTHER;
}

static int note_object(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    for (int i = 0; i < info->dlpi_phnum && n_ranges < MAX_RANGES; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        uintptr_t first = info->dlpi_addr + part->p_vaddr;
        ranges[n_ranges++] = (Range){first, first + part->p_memsz, info->dlpi_addr,
                                     owner_of(info->dlpi_name), info->dlpi_name};
    }
    return 0;
}

static void count(const void *caller, size_t n_bytes)
{
    if (!atomic_load(&counting)) return;
    uintptr_t at = (uintptr_t)caller;
    Range found = {.owner = OWNER_OTHER, .name = "code made at run time"};
    for (int i = 0; i < n_ranges; i++)
        if (at >= ranges[i].first && at < ranges[i].end) found = ranges[i];
    atomic_fetch_add(&n_calls[found.owner], 1);
    if (found.owner == OWNER_PROGRAM) atomic_store(&program_at, at - found.base);
    if (found.owner == OWNER_OTHER) atomic_store(&other_name, found.name);
    if (found.owner == OWNER_ENGINE && n_bytes > atomic_load(&largest))
        atomic_store(&largest, n_bytes);
}

static void *keep(void *memory)
{
    if (memory && atomic_load(&counting))
        atomic_fetch_add(&kept, (long long)malloc_usable_size(memory));
    return memory;
}

static void drop(void *memory)
{
    if (memory && atomic_load(&counting))
        atomic_fetch_sub(&kept, (long long)malloc_usable_size(memory));
}

void *malloc(size_t bytes)
{
    count(__builtin_return_address(0), bytes);
    return keep(__libc_malloc(bytes));
}

void *calloc(size_t n, size_t bytes)
{
    count(__builtin_return_address(0), n * bytes);
    return keep(__libc_calloc(n, bytes));
}

void *realloc(void *memory, size_t bytes)
{
    count(__builtin_return_address(0), bytes);
    drop(memory);
    return keep(__libc_realloc(memory, bytes));
}

void *memalign(size_t align, size_t bytes)
{
    count(__builtin_return_address(0), bytes);
    return keep(__libc_memalign(align, bytes));
}

void *aligned_alloc(size_t align, size_t bytes)
{
    count(__builtin_return_address(0), bytes);
    return keep(__libc_memalign(align, bytes));
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    count(__builtin_return_address(0), bytes);
    void *memory = keep(__libc_memalign(align, bytes));
    if (!memory) return ENOMEM;
    *out = memory;
    return 0;
}

void free(void *memory)
{
    drop(memory);
    __libc_free(memory);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    count(__builtin_return_address(0), bytes);
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}

bool alloc_count_available(void) { return true; }

void alloc_count_start(void)
{
    if (n_ranges == 0) dl_iterate_phdr(note_object, NULL);
    atomic_store(&counting, true);
}

void alloc_count_stop(void) { atomic_store(&counting, false); }

AllocCount alloc_count_total(void)
{
    return (AllocCount){.program = atomic_load(&n_calls[OWNER_PROGRAM]),
                        .engine = atomic_load(&n_calls[OWNER_ENGINE]),
                        .other = atomic_load(&n_calls[OWNER_OTHER]),
                        .largest = atomic_load(&largest),
                        .kept = atomic_load(&kept),
                        .program_at = atomic_load(&program_at),
                        .other_name = atomic_load(&other_name)};
}

#endif
