/* Soft runs: one row of a training mask, resampled with antialiasing, as spans of 0, spans of 1 and
 * the literal values of its fringe. A mask of 512x512 takes some ten kB instead of one MB, and the
 * loss expands a row where it reads it, on any device.
 *
 * A row is a sequence of 32-bit words. A token is one word: the upper two bits are its kind, the
 * lower 16 its length n in pixels (1..65535); SOFT_LITERAL is followed by n words that hold float
 * bits in (0,1). A row shorter than the image is zero to its end; an empty row has no words.
 *
 * Written by data/ (from run-length codes) and `retort trace` (from dense masks), read by the
 * losses.
 */
#ifndef RETORT_BASE_SOFT_RUNS_H
#define RETORT_BASE_SOFT_RUNS_H

#include <stdint.h>
#include <string.h>

#define SOFT_ZEROS 0x00000000u
#define SOFT_ONES 0x40000000u
#define SOFT_LITERAL 0x80000000u
#define SOFT_KIND_MASK 0xC0000000u
#define SOFT_LENGTH_MASK 0x0000FFFFu

/* soft_runs_expand_row: writes `width` values from the words [word, end). Inline: the innermost
 * loop of every loss kernel. */
static inline void soft_runs_expand_row(const uint32_t *word, const uint32_t *end, float *dst,
                                        int64_t width)
{
    int64_t x = 0;
    while (word < end && x < width) {
        uint32_t kind = *word & SOFT_KIND_MASK;
        int64_t n = *word++ & SOFT_LENGTH_MASK;
        if (n > width - x) n = width - x;
        if (kind == SOFT_LITERAL) {
            memcpy(dst + x, word, (size_t)n * sizeof(float));
            word += n;
        } else {
            float value = kind == SOFT_ONES ? 1.0f : 0.0f;
            for (int64_t i = 0; i < n; i++) dst[x + i] = value;
        }
        x += n;
    }
    for (; x < width; x++) dst[x] = 0.0f;
}

/* soft_runs_encode_row: the words of one row of `width` values in [0,1].
 * returns the number of words written, or -1 if more than `capacity` would be needed
 */
int64_t soft_runs_encode_row(const float *row, int64_t width, uint32_t *words, int64_t capacity);

#endif
