/* A source: an ordered list of samples, each a JPEG and its masks.
 *
 * Kinds today: an SA-1B folder (sa_N.jpg with sa_N.json beside it, at any depth), or images alone
 * (distillation needs no masks). The order is by file name, so a source is the same list
 * everywhere.
 */
#ifndef RETORT_DATA_SOURCE_H
#define RETORT_DATA_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/buffer.h"
#include "data/rle.h"

typedef struct Source Source;

/* source_open: lists the files *.jpg and *.jpeg (in any case) below `root`, links followed.
 * masks   true: every sample needs its json
 * errors  E_FILE if root or a folder in it cannot be read, or a sample lacks its json; E_CONFIG if
 *         it holds no sample, saying what was looked for, or two samples of one id; E_MEMORY */
Status source_open(const char *root, bool masks, Source **out);
void source_close(Source *source);
void source_limit(Source *source, int64_t n); /* keeps the first n >= 1 samples */
int64_t source_size(const Source *source);

/* source_sample_id: N of sa_N; of other names a hash of the path below root. */
uint64_t source_sample_id(const Source *source, int64_t index);
const char *source_image_path(const Source *source, int64_t index);
const char *source_mask_path(const Source *source, int64_t index); /* NULL for images alone */

typedef struct Annotation {
    Rle mask;       /* run lengths at the size of the image */
    double bbox[4]; /* x, y, width, height as in the file (SA-1B: last pixel - first pixel), px */
    double area;    /* px, as in the file */
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
void annotations_free(Annotations *annotations);

#endif
