/* Pixels to PNG files. See png.h. */
#include "data/png.h"

#include <png.h>

#include <stdlib.h>

#include "base/file.h"

Status png_write(const char *path, const uint8_t *pixels, ImageSize size, PngKind kind)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)size.width,
                       .height = (png_uint_32)size.height,
                       .format = kind == PNG_RGB ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY};
    png_alloc_size_t n_bytes = PNG_IMAGE_PNG_SIZE_MAX(image); /* at most; then what was written */
    void *bytes = malloc(n_bytes);
    if (!bytes) return status_fail(E_MEMORY, "%s: out of memory: %zu bytes", path, (size_t)n_bytes);
    Status status;
    if (png_image_write_to_memory(&image, bytes, &n_bytes, 0, pixels, 0, NULL))
        status = file_replace(&file_ops_system, path, bytes, n_bytes);
    else
        status = status_fail(E_FORMAT, "%s: cannot be made a PNG: %s", path, image.message);
    png_image_free(&image);
    free(bytes);
    return status;
}
