/* JPEG files to RGB bytes and back. The only place that knows the JPEG library.
 *
 * A decoder serves one thread and keeps its memory between files. Decoding uses the accurate
 * integer DCT and smooth chroma up-sampling, as Pillow and torchvision do. EXIF orientation is not
 * applied, as in the published pipelines. A file that the library would only warn about (cut off,
 * damaged) is an error: its missing part would be trained on as grey.
 */
#ifndef RETORT_DATA_JPEG_H
#define RETORT_DATA_JPEG_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct JpegDecoder JpegDecoder;

typedef struct JpegImage {           /* valid until the decoder's next use */
    int64_t height, width;           /* of the pixels, px */
    int64_t full_height, full_width; /* of the file, px */
    int reduction;                   /* 1, 2, 4 or 8: height = ceil(full_height / reduction) */
    const uint8_t *pixels;           /* (height, width, 3) RGB */
} JpegImage;

/* jpeg_create: a decoder for one thread.
 * errors  E_MEMORY */
Status jpeg_create(JpegDecoder **out);
void jpeg_destroy(JpegDecoder *decoder);

/* jpeg_read: decodes the file.
 * min_side_px  0: full size. Else the smallest of 1, 1/2, 1/4, 1/8 of the size whose longer side is
 *              still at least this: the inverse DCT then makes only the frequencies that are wanted
 * errors  E_FILE; E_FORMAT naming the file if it is no JPEG, damaged, not convertible to RGB, or of
 *         more than 2^28 px */
Status jpeg_read(JpegDecoder *decoder, const char *path, int64_t min_side_px, JpegImage *image);

/* jpeg_decode: the same of a file's content; `name` stands for it in messages. */
Status jpeg_decode(JpegDecoder *decoder, const char *name, const void *bytes, size_t n_bytes,
                   int64_t min_side_px, JpegImage *image);

typedef struct JpegEncoder JpegEncoder; /* of one thread; keeps its memory between images */

Status jpeg_encoder_create(JpegEncoder **out); /* errors  E_MEMORY */
void jpeg_encoder_destroy(JpegEncoder *encoder);

/* jpeg_encode: a baseline file with halved chroma, as SA-1B's are.
 * shapes  pixels (height, width, 3) RGB, 1 .. 65,500 px a side
 * quality  1..100, of the IJG tables (SA-1B: 95)
 * bytes   the file, valid until the encoder's next use
 * errors  E_MEMORY if the library fails */
Status jpeg_encode(JpegEncoder *encoder, const uint8_t *pixels, int64_t height, int64_t width,
                   int quality, const uint8_t **bytes, size_t *n_bytes);

#endif
