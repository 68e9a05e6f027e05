/* COCO and LVIS instance files: masks as polygons or run lengths, all images in one JSON.
 *
 * The file is streamed; images, annotations and the numbers of their polygons are kept, masks are
 * made image by image. Crowd annotations are masks like others. Called by data/root_coco.c.
 *
 * source  the COCO data format; LVIS names an image by its coco_url alone
 */
#ifndef RETORT_DATA_COCO_H
#define RETORT_DATA_COCO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/annotations.h"
#include "data/polygon.h"

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
bool coco_has_object(const Coco *coco, int64_t image);  /* an annotation that is no crowd */
int64_t coco_image_px(const Coco *coco, int64_t image); /* height * width */
const char *coco_image_path(const Coco *coco, int64_t image);

typedef struct CocoScratch { /* of one thread; zero-initialise before the first use */
    PolygonScratch polygon;
    Buffer polygons;
} CocoScratch;

void coco_scratch_free(CocoScratch *scratch);

/* coco_annotations: the masks of an image, into the memory of an earlier one where it fits; the box
 * is COCO's: its width is one more than SA-1B's. There may be none.
 * errors  E_FORMAT naming file and annotation if runs or corners make no mask; E_MEMORY */
Status coco_annotations(const Coco *coco, int64_t image, CocoScratch *scratch, Annotations *out);

#endif
