/* Run-length coded masks. See rle.h. */
#include "data/rle.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum { GROUP_BITS = 5, GROUP_MASK = 31, GROUP_SIGN = 16, GROUP_MORE = 32, FIRST_CHAR = 48 };

/* One number: five-bit groups, lowest first; the highest group's top bit is the sign. */
static Status parse_number(const char *text, size_t n_chars, size_t *position, int64_t *number)
{
    int64_t value = 0;
    for (int group = 0; group < RLE_MAX_CHARS_PER_RUN; group++) {
        if (*position == n_chars)
            return status_fail(
                E_FORMAT, "run-length string ends inside a number after %zu characters", n_chars);
        int bits = (unsigned char)text[*position] - FIRST_CHAR;
        if (bits < 0 || bits >= 2 * GROUP_MORE)
            return status_fail(
                E_FORMAT, "run-length string: character %zu has code %d, wanted %d..%d", *position,
                (unsigned char)text[*position], FIRST_CHAR, FIRST_CHAR + 2 * GROUP_MORE - 1);
        ++*position;
        value |= (int64_t)(bits & GROUP_MASK) << (GROUP_BITS * group);
        if (bits & GROUP_MORE) continue;
        if (bits & GROUP_SIGN) value -= (int64_t)1 << (GROUP_BITS * (group + 1));
        *number = value;
        return OK;
    }
    return status_fail(E_FORMAT,
                       "run-length string: the number at character %zu has more than %d characters",
                       *position, RLE_MAX_CHARS_PER_RUN);
}

Status rle_parse(const char *text, size_t n_chars, uint32_t *counts, int64_t *n_counts)
{
    int64_t n = 0;
    for (size_t position = 0; position < n_chars; n++) {
        int64_t run = 0;
        TRY(parse_number(text, n_chars, &position, &run));
        if (n > 2) run += counts[n - 2]; /* the first three are plain, the others differences */
        if (run < 0 || run > UINT32_MAX)
            return status_fail(E_FORMAT, "run-length string: run %lld is %lld px, wanted 0..2^32-1",
                               (long long)n, (long long)run);
        counts[n] = (uint32_t)run;
    }
    *n_counts = n;
    return OK;
}

Status rle_check(const Rle *rle)
{
    int64_t height = rle->height, width = rle->width;
    if (height < 1 || width < 1 || height > UINT32_MAX / width)
        return status_fail(E_FORMAT,
                           "mask of height %lld and width %lld px, wanted 1..2^32-1 px in all",
                           (long long)height, (long long)width);
    uint64_t sum = 0;
    for (int64_t i = 0; i < rle->n; i++) sum += rle->counts[i];
    if (sum != (uint64_t)(height * width))
        return status_fail(E_FORMAT,
                           "the %lld runs sum to %llu px, wanted height %lld x width %lld = %lld",
                           (long long)rle->n, (unsigned long long)sum, (long long)height,
                           (long long)width, (long long)(height * width));
    return OK;
}

size_t rle_to_string(const Rle *rle, char *text)
{
    size_t length = 0;
    for (int64_t i = 0; i < rle->n; i++) {
        int64_t value = rle->counts[i];
        if (i > 2) value -= rle->counts[i - 2];
        bool more = true;
        while (more) {
            int bits = (int)(value & GROUP_MASK);
            value >>= GROUP_BITS;
            more = bits & GROUP_SIGN ? value != -1 : value != 0;
            text[length++] = (char)(FIRST_CHAR + (bits | (more ? GROUP_MORE : 0)));
        }
    }
    return length;
}

int64_t rle_encode(const uint8_t *mask, int64_t height, int64_t width, uint32_t *counts)
{
    int64_t n = 0;
    uint32_t run = 0;
    bool inside = false;
    for (int64_t x = 0; x < width; x++) {
        for (int64_t y = 0; y < height; y++, run++) {
            if ((mask[y * width + x] != 0) == inside) continue;
            counts[n++] = run;
            run = 0;
            inside = !inside;
        }
    }
    counts[n++] = run;
    return n;
}

void rle_decode(const Rle *rle, uint8_t *mask)
{
    memset(mask, 0, (size_t)(rle->height * rle->width));
    int64_t position = 0;
    for (int64_t i = 0; i < rle->n; i++) {
        int64_t end = position + rle->counts[i];
        assert(end <= rle->height * rle->width);
        if (i % 2 == 0) position = end;
        for (; position < end; position++)
            mask[position % rle->height * rle->width + position / rle->height] = 1;
    }
}

int64_t rle_area(const Rle *rle)
{
    int64_t area = 0;
    for (int64_t i = 1; i < rle->n; i += 2) area += rle->counts[i];
    return area;
}

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

void rle_bbox(const Rle *rle, int64_t box[4])
{
    int64_t height = rle->height, position = 0;
    int64_t left = rle->width, right = -1, top = height, bottom = -1;
    for (int64_t i = 0; i < rle->n; position += rle->counts[i], i++) {
        if (i % 2 == 0 || rle->counts[i] == 0) continue;
        int64_t last = position + rle->counts[i] - 1;
        int64_t first_x = position / height, last_x = last / height;
        left = min_i64(left, first_x);
        right = last_x;          /* runs come in order of columns */
        if (first_x != last_x) { /* goes through the bottom of one column and the top of the next */
            top = 0;
            bottom = height - 1;
        } else {
            top = min_i64(top, position - first_x * height);
            bottom = max_i64(bottom, last - last_x * height);
        }
    }
    bool empty = right < 0;
    box[0] = empty ? 0 : left;
    box[1] = empty ? 0 : top;
    box[2] = empty ? 0 : right - left + 1;
    box[3] = empty ? 0 : bottom - top + 1;
}
