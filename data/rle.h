/* Run-length coded masks, as COCO, SA-1B and SA-V store them.
 *
 * Runs go down the columns, column after column; the first run is background (it may be 0), then
 * they alternate. Runs of length 0 inside are accepted when read and never written.
 *
 * Invariant: an Rle that passed rle_check has runs that sum to height*width, so its users need no
 * checks.
 * source  the mask format of the COCO API (compressed strings: six bits a character, delta coded)
 */
#ifndef RETORT_DATA_RLE_H
#define RETORT_DATA_RLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Of the compressed string: 7 groups of 5 bits hold any difference. */
enum { RLE_MAX_CHARS_PER_RUN = 7 };

typedef struct Rle {
    int64_t height, width; /* px */
    int64_t n;             /* runs */
    uint32_t *counts;      /* (n) px; memory of the caller */
} Rle;

/* rle_parse: the runs of a compressed string; does not yet know the mask's size.
 * counts  room for n_chars runs, since each takes at least one character
 * errors  E_FORMAT: a character out of range, a number cut off, too long, or a run that is negative
 *         or does not fit 32 bits */
Status rle_parse(const char *text, size_t n_chars, uint32_t *counts, int64_t *n_counts);

/* rle_check: the size is sane (1 .. 2^32-1 px) and the runs sum to it.
 * errors  E_FORMAT */
Status rle_check(const Rle *rle);

/* rle_to_string: the compressed string, not terminated.
 * text    room for RLE_MAX_CHARS_PER_RUN * rle->n characters
 * returns its length */
size_t rle_to_string(const Rle *rle, char *text);

/* rle_encode: the runs of a dense mask (height, width), row-major, nonzero = foreground.
 * counts  room for height*width + 1 runs
 * returns their number */
int64_t rle_encode(const uint8_t *mask, int64_t height, int64_t width, uint32_t *counts);

/* rle_decode: writes the dense mask (height, width), row-major, 0 or 1, of a checked Rle. */
void rle_decode(const Rle *rle, uint8_t *mask);

int64_t rle_area(const Rle *rle); /* foreground px */

/* rle_bbox: x, y, width, height of the tight pixel box, as COCO's toBbox; all 0 for no pixel. */
void rle_bbox(const Rle *rle, int64_t box[4]);

#endif
