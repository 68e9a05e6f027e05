/* Time that passes, used wherever something is timed or waited for. */
#ifndef RETORT_BASE_CLOCK_H
#define RETORT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* clock_seconds, clock_ms: of the monotonic clock; only differences mean something. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* clock_cpu_seconds: that the calling thread has computed, whoever else wants its core. */
static inline double clock_cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#endif
