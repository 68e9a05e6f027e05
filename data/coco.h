/* COCO and LVIS instance files: masks as polygons or run lengths, all images in one JSON.
 *
 * The file is streamed; images, annotations and the numbers of their polygons are kept, masks are
 * made image by image. Crowd annotations are masks like others. Used by `retort eval`.
 *
 * source  the COCO data format; LVIS names an image by its coco_url alone
 */
#ifndef RETORT_DATA_COCO_H
#define RETORT_DATA_COCO_H

#include <stdint.h>

#include "base/status.h"
#include "data/source.h"

typedef struct Coco Coco;

/* coco_open: reads the annotation file.
 * images  folder of the images. A file is FOLDER/file_name, or, without that key, FOLDER/ and the
 *         last two parts of coco_url (as in val2017/000000000139.jpg)
 * errors  E_FILE, E_MEMORY; E_FORMAT naming file, annotation or image, and what is wrong */
Status coco_open(const char *path, const char *images, Coco **out);
void coco_close(Coco *coco);

int64_t coco_size(const Coco *coco); /* images, in the order of the file */
int64_t coco_image_id(const Coco *coco, int64_t image);
int64_t coco_annotation_count(const Coco *coco, int64_t image);
const char *coco_image_path(const Coco *coco, int64_t image);

/* coco_annotations: the masks of an image, into the memory of an earlier one where it fits; the box
 * is COCO's: its width is one more than SA-1B's. There may be none.
 * errors  E_FORMAT naming file and annotation if runs or corners make no mask; E_MEMORY */
Status coco_annotations(Coco *coco, int64_t image, Annotations *out);

#endif
