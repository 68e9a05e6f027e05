/* Time for measuring, used wherever something is timed. */
#ifndef RETORT_BASE_CLOCK_H
#define RETORT_BASE_CLOCK_H

#include <time.h>

/* clock_seconds: of the monotonic clock; only differences mean something. */
static inline double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
