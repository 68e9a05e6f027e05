/* See fuzz.h. */
#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

const char *fuzz_file(const uint8_t *bytes, size_t n_bytes)
{
    static int file = -1;
    static char path[64];
    if (file >= 0) close(file);
    file = memfd_create("input", MFD_CLOEXEC);
    assert(file >= 0);
    ssize_t written = write(file, bytes, n_bytes);
    assert(written == (ssize_t)n_bytes);
    (void)written;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return path;
}
