/* Row sums of the normalisations. See norm_rows.h. */
#include "kernels/cpu/norm_rows.h"

#include <string.h>

NormSums norm_sums_take(char **at, int64_t n)
{
    NormSums sums = {.n = n};
    for (int k = 0; k < 2; k++) {
        sums.total[k] = norm_take(at, n, sizeof(double));
        sums.part[k] = norm_take(at, n, sizeof(float));
        memset(sums.total[k], 0, (size_t)n * sizeof(double));
        memset(sums.part[k], 0, (size_t)n * sizeof(float));
    }
    return sums;
}

void norm_sums_row(NormSums *sums)
{
    if (++sums->rows_in_part == NORM_ROWS_PER_SUM) norm_sums_flush(sums);
}

void norm_sums_flush(NormSums *sums)
{
    for (int k = 0; k < 2; k++) {
        double *restrict total = sums->total[k];
        float *restrict part = sums->part[k];
        for (int64_t i = 0; i < sums->n; i++) total[i] += part[i];
        memset(part, 0, (size_t)sums->n * sizeof *part);
    }
    sums->rows_in_part = 0;
}
