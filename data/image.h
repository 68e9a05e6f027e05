/* A JPEG file to the normalised, padded square tensor that an encoder takes.
 *
 * Two forms, as in the published code: training resizes in float, inference as Pillow does, in
 * bytes. Used by the loader (training form, two sizes of one decode) and by the commands that run a
 * model on an image.
 */
#ifndef RETORT_DATA_IMAGE_H
#define RETORT_DATA_IMAGE_H

#include <stdbool.h>

#include "data/jpeg.h"
#include "data/resize.h"
#include "data/source.h"

typedef struct ImageReader { /* of one thread; zero-initialise before image_reader_open */
    JpegDecoder *decoder;
    JpegImage image; /* the one read last */
    Resizer resizer;
    Buffer bytes; /* resized image of the inference form */
} ImageReader;

Status image_reader_open(ImageReader *reader); /* errors  E_MEMORY */
void image_reader_close(ImageReader *reader);

/* image_read: decodes a file; the tensors below are made of it.
 * min_side_px  see jpeg_read; 0: full size
 * errors  those of jpeg_read */
Status image_read(ImageReader *reader, const char *path, int64_t min_side_px);

/* image_decode: the same of a file's content; `name` stands for it in messages. */
Status image_decode(ImageReader *reader, const char *name, const void *bytes, size_t n_bytes,
                    int64_t min_side_px);

/* image_read_sample: the same of a sample; root->name says what it was.
 * errors  those of source_read_image and image_decode */
Status image_read_sample(ImageReader *reader, RootReader *root, const Source *source,
                         int64_t sample, int64_t min_side_px);
ImageSize image_full_size(const ImageReader *reader); /* of the file read last, px */

/* image_to_train_tensor: flip, resize the longer side to `side`, normalise, pad.
 * shapes  dst (side, side, 3)
 * extent  size of the part that is image, px
 * errors  E_MEMORY */
Status image_to_train_tensor(ImageReader *reader, int64_t side, bool flip, float *dst,
                             ImageSize *extent);

/* image_to_infer_tensor: the same of an image read at full size, with Pillow's 8-bit resize, no
 * flip. */
Status image_to_infer_tensor(ImageReader *reader, int64_t side, float *dst, ImageSize *extent);

#endif
