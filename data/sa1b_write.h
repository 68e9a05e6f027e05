/* Images with masks in SA-1B's form: sa_N.jpg and sa_N.json.
 *
 * Makes the bytes of both files; where they go (a folder, a tar shard) is the caller's. Box and
 * area are computed from the mask, so they always agree with it. Called by `retort synth` and
 * data/pack.c; read back by data/source.h.
 *
 * source  the files of SA-1B: keys, compressed run lengths, boxes of last pixel - first pixel, JPEG
 *         of quality 95 with halved chroma
 */
#ifndef RETORT_DATA_SA1B_WRITE_H
#define RETORT_DATA_SA1B_WRITE_H

#include "data/rle.h"

typedef struct Sa1bAnnotation {
    Rle mask;        /* checked, not empty, of the size of the image */
    double point[2]; /* x, y of the prompt, px; NaN: there was none */
    double predicted_iou, stability_score;
} Sa1bAnnotation;

typedef struct Sa1bImage {
    int64_t id;            /* N, >= 1, of at most 2^46 */
    int64_t height, width; /* px */
    const uint8_t *pixels; /* (height, width, 3) RGB */
    const Sa1bAnnotation *annotations;
    int64_t n_annotations;
} Sa1bImage;

typedef struct Sa1bFile { /* the content is the encoder's, valid until its next use */
    char name[32];        /* "" where the caller gave the name */
    const void *bytes;
    size_t n_bytes;
} Sa1bFile;

typedef struct Sa1bEncoder Sa1bEncoder; /* of one thread */

Status sa1b_encoder_create(Sa1bEncoder **out); /* errors  E_MEMORY */
void sa1b_encoder_destroy(Sa1bEncoder *encoder);

/* sa1b_encode_masks: the JSON alone, of an image that is called file_name; its pixels are not
 * looked at.
 * errors  E_MEMORY */
Status sa1b_encode_masks(Sa1bEncoder *encoder, const Sa1bImage *image, const char *file_name,
                         Sa1bFile *json);

/* sa1b_encode: the two files of an image. Annotations get ids that are unique over all images of
 * fewer than 2^16 masks.
 * errors  E_MEMORY */
Status sa1b_encode(Sa1bEncoder *encoder, const Sa1bImage *image, Sa1bFile *jpeg, Sa1bFile *json);

#endif
