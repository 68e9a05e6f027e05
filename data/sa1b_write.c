/* SA-1B files over yajl and the JPEG library. See sa1b_write.h. */
#include "data/sa1b_write.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_gen.h>

#include "data/buffer.h"
#include "data/jpeg.h"

enum { QUALITY = 95, MASKS_PER_IMAGE_BITS = 16 };

struct Sa1bEncoder {
    JpegEncoder *jpeg;
    yajl_gen json; /* of the file made last: it owns the text */
    Buffer counts; /* compressed string of the mask at hand */
};

Status sa1b_encoder_create(Sa1bEncoder **out)
{
    Sa1bEncoder *encoder = calloc(1, sizeof *encoder);
    if (encoder == NULL) return status_fail(E_MEMORY, "out of memory: writer of images and masks");
    Status status = jpeg_encoder_create(&encoder->jpeg);
    if (status == OK)
        *out = encoder;
    else
        sa1b_encoder_destroy(encoder);
    return status;
}

void sa1b_encoder_destroy(Sa1bEncoder *encoder)
{
    if (encoder == NULL) return;
    jpeg_encoder_destroy(encoder->jpeg);
    if (encoder->json != NULL) yajl_gen_free(encoder->json);
    buffer_free(&encoder->counts);
    free(encoder);
}

/* ---- Values. yajl remembers its first error, so the last call's result tells of all ---- */

static void put_key(yajl_gen gen, const char *key)
{
    yajl_gen_string(gen, (const unsigned char *)key, strlen(key));
}

static void put_integer(yajl_gen gen, const char *key, int64_t value)
{
    put_key(gen, key);
    yajl_gen_integer(gen, value);
}

static void put_text(yajl_gen gen, const char *key, const char *text, size_t n_chars)
{
    put_key(gen, key);
    yajl_gen_string(gen, (const unsigned char *)text, n_chars);
}

static void put_double(yajl_gen gen, double value)
{
    char text[32]; /* always with a point, as Python writes floats; millionths of a px are enough */
    int n_chars = snprintf(text, sizeof text, "%.6f", value);
    while (text[n_chars - 1] == '0' && text[n_chars - 2] != '.') n_chars--;
    yajl_gen_number(gen, text, (size_t)n_chars);
}

static void put_number(yajl_gen gen, const char *key, double value)
{
    put_key(gen, key);
    put_double(gen, value);
}

static void put_numbers(yajl_gen gen, const char *key, int n, const double *values)
{
    put_key(gen, key);
    yajl_gen_array_open(gen);
    for (int i = 0; i < n; i++) put_double(gen, values[i]);
    yajl_gen_array_close(gen);
}

/* ---- Records ---- */

static Status put_mask(Sa1bEncoder *encoder, const Rle *mask)
{
    yajl_gen gen = encoder->json;
    TRY(buffer_reserve(&encoder->counts, (size_t)mask->n * RLE_MAX_CHARS_PER_RUN));
    put_key(gen, "segmentation");
    yajl_gen_map_open(gen);
    put_key(gen, "size");
    yajl_gen_array_open(gen);
    yajl_gen_integer(gen, mask->height);
    yajl_gen_integer(gen, mask->width);
    yajl_gen_array_close(gen);
    put_text(gen, "counts", encoder->counts.data, rle_to_string(mask, encoder->counts.data));
    yajl_gen_map_close(gen);
    return OK;
}

static void put_box(yajl_gen gen, const Rle *mask)
{
    int64_t box[4];
    rle_bbox(mask, box);
    const double values[] = {(double)box[0], (double)box[1], (double)(box[2] - 1),
                             (double)(box[3] - 1)};
    put_numbers(gen, "bbox", 4, values);
}

static void put_point(yajl_gen gen, const double point[2])
{
    put_key(gen, "point_coords");
    yajl_gen_array_open(gen);
    yajl_gen_array_open(gen);
    put_double(gen, point[0]);
    put_double(gen, point[1]);
    yajl_gen_array_close(gen);
    yajl_gen_array_close(gen);
}

static Status put_annotation(Sa1bEncoder *encoder, const Sa1bImage *image, int64_t index)
{
    const Sa1bAnnotation *annotation = &image->annotations[index];
    const double crop_box[] = {0, 0, (double)image->width, (double)image->height};
    yajl_gen gen = encoder->json;
    yajl_gen_map_open(gen);
    put_integer(gen, "id", (image->id << MASKS_PER_IMAGE_BITS) + index);
    TRY(put_mask(encoder, &annotation->mask));
    put_box(gen, &annotation->mask);
    put_integer(gen, "area", rle_area(&annotation->mask));
    put_number(gen, "predicted_iou", annotation->predicted_iou);
    put_number(gen, "stability_score", annotation->stability_score);
    if (!isnan(annotation->point[0])) put_point(gen, annotation->point);
    put_numbers(gen, "crop_box", 4, crop_box);
    yajl_gen_map_close(gen);
    return OK;
}

static Status put_all(Sa1bEncoder *encoder, const Sa1bImage *image, const char *file_name)
{
    yajl_gen gen = encoder->json;
    yajl_gen_map_open(gen);
    put_key(gen, "image");
    yajl_gen_map_open(gen);
    put_integer(gen, "image_id", image->id);
    put_integer(gen, "width", image->width);
    put_integer(gen, "height", image->height);
    put_text(gen, "file_name", file_name, strlen(file_name));
    yajl_gen_map_close(gen);
    put_key(gen, "annotations");
    yajl_gen_array_open(gen);
    for (int64_t i = 0; i < image->n_annotations; i++) TRY(put_annotation(encoder, image, i));
    yajl_gen_array_close(gen);
    if (yajl_gen_map_close(gen) != yajl_gen_status_ok)
        return status_fail(E_MEMORY, "%s: its masks cannot be written as JSON", file_name);
    return OK;
}

Status sa1b_encode(Sa1bEncoder *encoder, const Sa1bImage *image, Sa1bFile *jpeg, Sa1bFile *json)
{
    snprintf(jpeg->name, sizeof jpeg->name, "sa_%lld.jpg", (long long)image->id);
    snprintf(json->name, sizeof json->name, "sa_%lld.json", (long long)image->id);
    const uint8_t *bytes;
    TRY(jpeg_encode(encoder->jpeg, image->pixels, image->height, image->width, QUALITY, &bytes,
                    &jpeg->n_bytes));
    jpeg->bytes = bytes;
    return sa1b_encode_masks(encoder, image, jpeg->name, json);
}

Status sa1b_encode_masks(Sa1bEncoder *encoder, const Sa1bImage *image, const char *file_name,
                         Sa1bFile *json)
{
    if (encoder->json != NULL) yajl_gen_free(encoder->json);
    encoder->json = yajl_gen_alloc(NULL);
    if (encoder->json == NULL) return status_fail(E_MEMORY, "out of memory: JSON of masks");
    TRY(put_all(encoder, image, file_name));
    const unsigned char *text;
    yajl_gen_get_buf(encoder->json, &text, &json->n_bytes);
    json->bytes = text;
    return OK;
}
