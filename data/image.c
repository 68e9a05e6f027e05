/* JPEG to encoder input. See image.h. */
#include "data/image.h"

#include <assert.h>

Status image_reader_open(ImageReader *reader)
{
    return jpeg_create(&reader->decoder);
}

void image_reader_close(ImageReader *reader)
{
    jpeg_destroy(reader->decoder);
    resizer_free(&reader->resizer);
    buffer_free(&reader->bytes);
    *reader = (ImageReader){0};
}

Status image_read(ImageReader *reader, const char *path, int64_t min_side_px)
{
    return jpeg_read(reader->decoder, path, min_side_px, &reader->image);
}

ImageSize image_full_size(const ImageReader *reader)
{
    return (ImageSize){reader->image.full_height, reader->image.full_width};
}

static ImageSize decoded_size(const ImageReader *reader)
{
    return (ImageSize){reader->image.height, reader->image.width};
}

Status image_to_train_tensor(ImageReader *reader, int64_t side, bool flip, float *dst, ImageSize *extent)
{
    *extent = resize_fit(image_full_size(reader), side);
    return resize_to_tensor(&reader->resizer, reader->image.pixels, decoded_size(reader), *extent, flip,
                            side, dst);
}

Status image_to_infer_tensor(ImageReader *reader, int64_t side, float *dst, ImageSize *extent)
{
    assert(reader->image.height == reader->image.full_height);
    assert(reader->image.width == reader->image.full_width);
    *extent = resize_fit(image_full_size(reader), side);
    TRY(buffer_reserve(&reader->bytes, (size_t)(extent->height * extent->width * 3)));
    TRY(resize_bytes(&reader->resizer, reader->image.pixels, decoded_size(reader), *extent,
                     reader->bytes.data));
    bytes_to_tensor(reader->bytes.data, *extent, side, dst);
    return OK;
}
