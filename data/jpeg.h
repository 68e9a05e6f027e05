/* JPEG files to RGB bytes. The only place that knows the JPEG library.
 *
 * A decoder serves one thread and keeps its memory between files. Decoding uses the accurate
 * integer DCT and smooth chroma up-sampling, as Pillow and torchvision do. EXIF orientation is not
 * applied, as in the published pipelines. A file that the library would only warn about (cut off,
 * damaged) is an error: its missing part would be trained on as grey.
 */
#ifndef RETORT_DATA_JPEG_H
#define RETORT_DATA_JPEG_H

#include <stdint.h>

#include "base/status.h"

typedef struct JpegDecoder JpegDecoder;

typedef struct JpegImage { /* valid until the decoder's next use */
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

#endif
