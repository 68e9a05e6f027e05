/* Pixels to PNG files. The only place that knows the PNG library. Used by `retort segment`. */
#ifndef RETORT_DATA_PNG_H
#define RETORT_DATA_PNG_H

#include <stdint.h>

#include "base/status.h"
#include "data/resize.h"

typedef enum PngKind { PNG_GREY = 1, PNG_RGB = 3 } PngKind; /* bytes of a pixel */

/* png_write: replaces the file `path`.
 * shapes  pixels (size.height, size.width, kind)
 * errors  E_FILE; E_MEMORY; E_FORMAT with the library's message if it refuses the image */
Status png_write(const char *path, const uint8_t *pixels, ImageSize size, PngKind kind);

#endif
