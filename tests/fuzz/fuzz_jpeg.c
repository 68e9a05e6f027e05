/* JPEG files, at full and at reduced size. */
#include <assert.h>

#include "data/jpeg.h"
#include "tests/fuzz/fuzz.h"

void fuzz_jpeg(const uint8_t *bytes, size_t n_bytes)
{
    JpegDecoder *decoder;
    JpegImage image;
    if (n_bytes == 0 || jpeg_create(&decoder) != OK) return;
    for (int64_t side = 0; side <= 32; side += 32) {
        uint64_t sum = 0;
        if (jpeg_decode(decoder, "input", bytes, n_bytes, side, &image) != OK) continue;
        for (int64_t i = 0; i < image.height * image.width * 3; i++) sum += image.pixels[i];
        assert(sum <= (uint64_t)(image.height * image.width * 3) * 255);
    }
    jpeg_destroy(decoder);
}
