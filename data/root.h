/* A root: one place that samples come from. A source (data/source.h) is one root or several.
 *
 * Each kind lists its samples when it is opened and reads them one by one afterwards. Reading
 * changes nothing in the root, so any number of threads may do it, each with its own RootReader.
 */
#ifndef RETORT_DATA_ROOT_H
#define RETORT_DATA_ROOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/annotations.h"
#include "data/coco.h"

enum { ROOT_NAME_BYTES = 1024 }; /* of a sample's name in messages; longer ones are cut */

typedef struct RootReader { /* of one thread; zero-initialise before the first use */
    Buffer file;            /* the content of the file read last */
    CocoScratch coco;
} RootReader;

typedef struct RootOps {
    void (*close)(void *self);
    uint64_t (*sample_id)(const void *self, int64_t index);

    /* What messages call the file of the image: its path, "SHARD: NAME" in a tar. */
    void (*image_name)(const void *self, int64_t index, char name[ROOT_NAME_BYTES]);

    /* The JPEG file, into reader->file. errors  E_FILE, E_FORMAT, E_MEMORY, naming the file */
    Status (*read_image)(const void *self, int64_t index, RootReader *reader, size_t *n_bytes);

    /* The masks. errors  those of annotations_read and coco_annotations */
    Status (*read_masks)(const void *self, int64_t index, RootReader *reader, Annotations *out);
} RootOps;

typedef struct Root {
    const RootOps *ops;
    void *self;
    int64_t n_samples;
} Root;

void root_reader_free(RootReader *reader);

/* root_open_folder: JPEGs at any depth below `path`, links followed, in order of their file names.
 * masks   true: each needs its masks, in NAME.json beside it, or, where it lies in a folder
 *         images, in the folder masks beside that
 * errors  E_FILE if something cannot be read; E_CONFIG if there is no sample, saying what was
 *         looked for; E_MEMORY */
Status root_open_folder(const char *path, bool masks, Root *out);

/* root_open_coco: the images of a COCO or LVIS instance file, in its order; with `masks` only those
 * that have a mask.
 * images  the folder that file names are relative to, see coco_open
 * crowds  a crowd counts as a mask
 * errors  those of coco_open; E_CONFIG if no image is left */
Status root_open_coco(const char *images, const char *file, bool masks, bool crowds, Root *out);

/* root_sample_id: N of a file sa_N.jpg or of the bare name sa_N; of other names a hash of the path
 * below the root. "sa_01" is another name: it must not be taken for sa_1. */
uint64_t root_sample_id(const char *path_below_root);

#endif
