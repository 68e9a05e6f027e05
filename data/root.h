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
#include "data/walk.h"

enum { ROOT_NAME_BYTES = 1024 }; /* of a file's name in messages; longer ones are cut */

typedef struct RootReader { /* of one thread; zero-initialise before the first use */
    const void *bytes;      /* content of the file read last */
    size_t n_bytes;
    char name[ROOT_NAME_BYTES]; /* what messages call it: its path, "SHARD: NAME" in a tar */
    const char *below;          /* in name: the file's path below the root, or in the archive */
    Buffer file;
    CocoScratch coco;
} RootReader;

typedef struct RootOps {
    void (*close)(void *self);
    uint64_t (*sample_id)(const void *self, int64_t index);

    /* A run of samples from `index` on whose ids are known to differ: the smallest and the largest
     * of them; returns the index behind it. */
    int64_t (*id_group)(const void *self, int64_t index, uint64_t *min_id, uint64_t *max_id);

    /* What messages call the sample, without reading it. */
    void (*image_name)(const void *self, int64_t index, char name[ROOT_NAME_BYTES]);

    /* The JPEG file. errors  E_FILE, E_FORMAT, E_MEMORY, naming the file */
    Status (*read_image)(const void *self, int64_t index, RootReader *reader);

    /* Whether there are masks of the sample; of COCO files, an annotation. */
    bool (*has_masks)(const void *self, int64_t index);

    /* The masks; their file stays in the reader, but n_bytes is 0 if they are not in one of their
     * own. errors  those of annotations_read and coco_annotations */
    Status (*read_masks)(const void *self, int64_t index, RootReader *reader, Annotations *out);
} RootOps;

typedef struct Root {
    const RootOps *ops;
    void *self;
    int64_t n_samples;
} Root;

void root_reader_free(RootReader *reader);

typedef struct RootConfig {
    bool masks;               /* every sample needs its masks */
    bool gaps;                /* but may lack them: reading says so. For checks (data/check.h) */
    bool crowds;              /* a COCO file's crowd counts as a mask */
    const char *index_folder; /* where indexes of tar shards are kept; NULL: they are made anew */
} RootConfig;

typedef struct RootText { /* what a root is written as: PATH or FOLDER@FILE.json, and =WEIGHT */
    char *path;
    const char *instances; /* FILE.json, in the memory of path; NULL: there is none */
    double weight;         /* 1 if none is given */
} RootText;

/* root_text_parse: out->path is to be freed. errors  E_CONFIG if the weight is wrong; E_MEMORY */
Status root_text_parse(const char *text, RootText *out);

/* root_open: what lies at `path`: a tar shard, or a folder of shards or of JPEGs, at any depth.
 * errors  those of the kinds below; E_CONFIG if there is neither, saying what was looked for, or
 *         both; E_FILE if something cannot be read */
Status root_open(const char *path, const RootConfig *config, Root *out);

/* root_open_files: JPEGs as they are, in the order of the list. `path` is the folder they are in.
 * Masks of an image are in NAME.json beside it, or, where it lies in a folder images, in the folder
 * masks beside that.
 * files   taken over, also on failure
 * errors  E_FILE if one lacks its masks; E_MEMORY */
Status root_open_files(const char *path, PathList *files, const RootConfig *config, Root *out);

/* root_open_tar: tar shards, in the order of the list, read in place (data/tar_index.h).
 * errors  those of tar_index_build; E_FILE if masks are missing, or an index cannot be written */
Status root_open_tar(const PathList *shards, const RootConfig *config, Root *out);

/* root_open_coco: the images of a COCO or LVIS instance file, in its order; those without a mask
 * are left out where masks are needed.
 * images  the folder that file names are relative to, see coco_open
 * errors  those of coco_open; E_CONFIG if no image is left */
Status root_open_coco(const char *images, const char *file, const RootConfig *config, Root *out);

/* root_sample_id: N of a file sa_N.jpg or of the bare name sa_N; of other names a hash of the path
 * below the root. "sa_01" is another name: it must not be taken for sa_1. */
uint64_t root_sample_id(const char *path_below_root);

/* root_path_below: the part of `path`, which begins with `root`, that lies below it. */
const char *root_path_below(const char *root, const char *path);

/* root_is_image, root_is_shard: by the end of its name. */
bool root_is_image(const char *path);
bool root_is_shard(const char *path);

/* root_read_file: fills bytes, n_bytes, name and below of a reader with a whole file.
 * root  the folder that `path` begins with */
Status root_read_file(RootReader *reader, const char *root, const char *path);

#endif
