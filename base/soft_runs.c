/* Encoder of soft runs. See soft_runs.h. */
#include "base/soft_runs.h"

static uint32_t kind_of(float value)
{
    return value <= 0.0f ? SOFT_ZEROS : value >= 1.0f ? SOFT_ONES : SOFT_LITERAL;
}

int64_t soft_runs_encode_row(const float *row, int64_t width, uint32_t *words, int64_t capacity)
{
    int64_t used = 0;
    while (width > 0 && row[width - 1] <= 0.0f) width--; /* trailing zeros are implied */
    for (int64_t x = 0; x < width;) {
        uint32_t kind = kind_of(row[x]);
        int64_t n = 1;
        while (x + n < width && n < SOFT_LENGTH_MASK && kind_of(row[x + n]) == kind) n++;
        int64_t need = kind == SOFT_LITERAL ? 1 + n : 1;
        if (used + need > capacity) return -1;
        words[used++] = kind | (uint32_t)n;
        if (kind == SOFT_LITERAL) {
            memcpy(words + used, row + x, (size_t)n * sizeof(float));
            used += n;
        }
        x += n;
    }
    return used;
}
