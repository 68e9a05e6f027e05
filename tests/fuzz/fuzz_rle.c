/* Compressed run lengths: the string, and the string made of its runs again. The first two bytes
 * are the size of the mask. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "data/rle.h"
#include "tests/fuzz/fuzz.h"

static void use_mask(const Rle *rle)
{
    char *text = malloc((size_t)rle->n * RLE_MAX_CHARS_PER_RUN + 1);
    uint32_t *again = malloc((size_t)rle->n * RLE_MAX_CHARS_PER_RUN * sizeof *again + 1);
    uint8_t *pixels = malloc((size_t)(rle->height * rle->width));
    int64_t box[4], n_again;
    size_t n = rle_to_string(rle, text);
    assert(rle_parse(text, n, again, &n_again) == OK && n_again == rle->n);
    assert(memcmp(again, rle->counts, (size_t)n_again * sizeof *again) == 0);
    rle_decode(rle, pixels);
    rle_bbox(rle, box);
    int64_t area = 0;
    for (int64_t i = 0; i < rle->height * rle->width; i++) area += pixels[i];
    assert(area == rle_area(rle));
    free(text);
    free(again);
    free(pixels);
}

void fuzz_rle(const uint8_t *bytes, size_t n_bytes)
{
    if (n_bytes < 3) return;
    Rle rle = {.height = bytes[0], .width = bytes[1]};
    rle.counts = malloc((n_bytes - 2) * sizeof *rle.counts);
    if (rle_parse((const char *)bytes + 2, n_bytes - 2, rle.counts, &rle.n) == OK &&
        rle_check(&rle) == OK)
        use_mask(&rle);
    free(rle.counts);
}
