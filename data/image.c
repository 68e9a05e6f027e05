/* JPEG to encoder input. See image.h. */
#include "data/image.h"

#include <assert.h>

Status image_reader_open(ImageReader *reader) { return jpeg_create(&reader->decoder); }

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

Status image_decode(ImageReader *reader, const char *name, const void *bytes, size_t n_bytes,
                    int64_t min_side_px)
{
    return jpeg_decode(reader->decoder, name, bytes, n_bytes, min_side_px, &reader->image);
}

Status image_read_sample(ImageReader *reader, RootReader *root, const Source *source,
                         int64_t sample, int64_t min_side_px)
{
    TRY(source_read_image(source, sample, root));
    return image_decode(reader, root->name, root->bytes, root->n_bytes, min_side_px);
}

ImageSize image_full_size(const ImageReader *reader)
{
    return (ImageSize){reader->image.full_height, reader->image.full_width};
}

static Pixels decoded_pixels(const ImageReader *reader)
{
    const JpegImage *image = &reader->image;
    return (Pixels){.rgb = image->pixels,
                    .size = {image->height, image->width},
                    .height = (double)image->full_height / image->reduction,
                    .width = (double)image->full_width / image->reduction};
}

Status image_to_train_tensor(ImageReader *reader, int64_t side, bool flip, float *dst,
                             ImageSize *extent)
{
    *extent = resize_fit(image_full_size(reader), side);
    Pixels pixels = decoded_pixels(reader);
    return resize_to_tensor(&reader->resizer, &pixels, *extent, flip, side, dst);
}

Status image_to_infer_tensor(ImageReader *reader, int64_t side, float *dst, ImageSize *extent)
{
    assert(reader->image.reduction == 1);
    *extent = resize_fit(image_full_size(reader), side);
    TRY(buffer_reserve(&reader->bytes, (size_t)(extent->height * extent->width * 3)));
    Pixels pixels = decoded_pixels(reader);
    TRY(resize_bytes(&reader->resizer, &pixels, *extent, reader->bytes.data));
    bytes_to_tensor(reader->bytes.data, *extent, side, dst);
    return OK;
}
