/* What the two normalisations share: carving of scratch, and sums of rows that go to double in
 * steps. Called by batchnorm.c and layernorm.c.
 */
#ifndef RETORT_KERNELS_CPU_NORM_ROWS_H
#define RETORT_KERNELS_CPU_NORM_ROWS_H

#include "kernels/cpu/cpu.h"

enum { NORM_ROWS_PER_SUM = 32, NORM_ALIGN_BYTES = 64 };

static inline size_t norm_round(size_t bytes)
{
    return (bytes + NORM_ALIGN_BYTES - 1) / NORM_ALIGN_BYTES * NORM_ALIGN_BYTES;
}

/* Takes n elements from the scratch at *at; each piece begins a cache line. */
static inline void *norm_take(char **at, int64_t n, size_t element_bytes)
{
    void *piece = *at;
    *at += norm_round((size_t)n * element_bytes);
    return piece;
}

/* Two sums per column: f32 over NORM_ROWS_PER_SUM rows, then double. One of these per thread. */
typedef struct NormSums {
    int64_t n;
    double *total[2];
    float *part[2];
    int rows_in_part;
} NormSums;

static inline size_t norm_sums_bytes(int64_t n)
{
    return 2 * (norm_round((size_t)n * sizeof(double)) + norm_round((size_t)n * sizeof(float)));
}

/* norm_sums_take: carved from the scratch and set to zero. */
NormSums norm_sums_take(char **at, int64_t n);
/* norm_sums_row: call after each row has been added to `part`; moves the parts to `total` when it
 * is time. */
void norm_sums_row(NormSums *sums);
void norm_sums_flush(NormSums *sums);

#endif
