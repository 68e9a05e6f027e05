/* See tar_header.h. */
#include "data/tar_header.h"

#include <stdio.h>
#include <string.h>

/* Octal digits, with blanks or a zero byte around them. -1: anything else. */
static int64_t parse_octal(const uint8_t *text, int n)
{
    int64_t value = 0;
    int i = 0, n_digits = 0;
    while (i < n && text[i] == ' ') i++;
    for (; i < n && text[i] >= '0' && text[i] <= '7'; i++, n_digits++)
        value = value * 8 + (text[i] - '0');
    bool ended = i == n || text[i] == ' ' || text[i] == '\0';
    return n_digits > 0 && ended ? value : -1;
}

static bool checksum_holds(const uint8_t *header)
{
    enum { FIELD = 148, FIELD_BYTES = 8 };
    int64_t sum = 0;
    for (int i = 0; i < 512; i++) sum += i >= FIELD && i < FIELD + FIELD_BYTES ? ' ' : header[i];
    return parse_octal(header + FIELD, FIELD_BYTES) == sum;
}

bool tar_header_parse(const uint8_t header[512], char name[TAR_NAME_BYTES], int64_t *n_bytes)
{
    const char *text = (const char *)header;
    bool is_ustar = memcmp(header + 257, "ustar\0", 6) == 0; /* GNU's has other things there */
    if (!checksum_holds(header)) return false;
    if (header[156] != '0' && header[156] != '\0' && header[156] != '7') return false;
    if (is_ustar && text[345] != '\0')
        snprintf(name, TAR_NAME_BYTES, "%.155s/%.100s", text + 345, text);
    else
        snprintf(name, TAR_NAME_BYTES, "%.100s", text);
    *n_bytes = parse_octal(header + 124, 12);
    return *n_bytes >= 0;
}
