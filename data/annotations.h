/* The masks of one image, as its annotation file has them.
 *
 * Read from SA-1B's files by annotations.c and from COCO's by coco.c; the loader and `retort eval`
 * take both alike.
 */
#ifndef RETORT_DATA_ANNOTATIONS_H
#define RETORT_DATA_ANNOTATIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/buffer.h"
#include "data/rle.h"

typedef struct Annotation {
    Rle mask;       /* run lengths at the size of the image */
    double bbox[4]; /* x, y, width, height as in the file (SA-1B: last pixel - first pixel), px */
    double area;    /* px, as in the file */
    double predicted_iou, stability; /* SA-1B's scores; 1 where the file has none */
    bool crowd;                      /* COCO: a region of many objects */
    bool outlined;                   /* the file has polygons, not run lengths: */
    double outline_area;             /* what they enclose, px */
    double outline[4];               /* x and y of their first and last corners, px */
} Annotation;

typedef struct Annotations { /* zero-initialise before the first use */
    int64_t height, width;   /* px */
    Annotation *items;
    int64_t n_items;
    Buffer item_memory, count_memory, text_memory; /* kept from file to file */
} Annotations;

/* annotations_read: an SA-1B json file, streamed, into the memory of an earlier one where it fits.
 * errors  E_FILE, E_MEMORY; E_FORMAT naming file, annotation and what is wrong (missing key, runs
 *         that do not sum to height*width, size that differs from the image's, no annotation) */
Status annotations_read(const char *path, Annotations *annotations);

/* annotations_parse: the same of a file's content; `name` stands for it in messages. */
Status annotations_parse(const char *name, const void *bytes, size_t n_bytes,
                         Annotations *annotations);
void annotations_free(Annotations *annotations);

typedef struct MaskFilter {   /* which masks are used; all zero: all of them */
    double max_area_fraction; /* of the image's pixels, above which a mask is dropped; 0: none */
    double min_area_px;       /* below it a mask is dropped */
    double min_predicted_iou, min_stability; /* SA-1B's scores below which a mask is dropped */
    bool no_crowds;
} MaskFilter;

/* annotations_filter: drops the masks that do not pass; the others keep their order. None may be
 * left. */
void annotations_filter(const MaskFilter *filter, Annotations *annotations);

#endif
