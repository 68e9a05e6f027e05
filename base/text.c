/* Text to values and nearest names. See text.h. */
#include "base/text.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

bool text_to_int(const char *text, int64_t *out)
{
    /* strtoll alone would take leading blanks and an empty text. */
    if (!*text || strspn(text, "+-0123456789") != strlen(text)) return false;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || end == text) return false;
    *out = value;
    return true;
}

bool text_to_double(const char *text, double *out)
{
    /* strtod alone would take blanks, hexadecimal numbers, "inf" and "nan". */
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return false;
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !isfinite(value)) return false;
    *out = value;
    return true;
}

static int min3(int a, int b, int c)
{
    int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein's distance, one row of the table at a time; row[j] is the distance of a[..i] and
 * b[..j]. */
static int edit_distance(const char *a, const char *b)
{
    int length_a = (int)strlen(a), length_b = (int)strlen(b);
    int *row = mem_alloc((size_t)(length_b + 1) * sizeof *row);
    for (int j = 0; j <= length_b; j++) row[j] = j;
    for (int i = 1; i <= length_a; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= length_b; j++) {
            int above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    int distance = row[length_b];
    free(row);
    return distance;
}

const char *nearest_name(const char *name, int n, const char *const *candidates)
{
    const char *nearest = NULL;
    int smallest = 0;
    for (int i = 0; i < n; i++) {
        int distance = edit_distance(name, candidates[i]);
        if (nearest && distance >= smallest) continue;
        nearest = candidates[i];
        smallest = distance;
    }
    return nearest;
}
