/* A source: an ordered list of samples, each a JPEG and its masks, from one root or several.
 *
 * A root is written PATH (a folder of JPEGs, a folder of tar shards, or one shard), or
 * FOLDER@FILE.json for the images of a COCO or LVIS instance file, and =WEIGHT behind it: an epoch
 * takes that many times the root's samples (2: each twice, 0.5: half of them, the other half in the
 * next epoch). The order is that of the roots and, within one, of the file names (for tars: of the
 * shards, then of the archive; of the list in instance files), or that of a list of ids; so a
 * source is the same list everywhere.
 *
 * Invariant: nothing changes after source_open, so threads share a source; what reading needs is in
 * a RootReader of each.
 */
#ifndef RETORT_DATA_SOURCE_H
#define RETORT_DATA_SOURCE_H

#include "data/root.h"

typedef struct Source Source;

typedef enum SourceSplit { SPLIT_ALL, SPLIT_TRAIN, SPLIT_VAL } SourceSplit;

typedef struct SourceConfig {
    const char *const *roots;
    int n_roots;
    bool masks;               /* every sample needs them */
    const char *index_folder; /* where indexes of tar shards are kept; NULL: nowhere */
    const char *ids; /* a file of sample ids (data/id_list.h): only these, in its order. NULL: all,
                        but a root with a file sa_images_ids.txt takes that as its list */
    SourceSplit split;  /* of each root */
    double train_ratio; /* the first int(ratio * n) samples are for training */
    int64_t limit;      /* keep the first ones; 0: all */
    MaskFilter filter;  /* of the masks of each sample */
} SourceConfig;

/* source_open: lists the samples of all roots.
 * errors  those of the roots and of the list of ids; E_CONFIG if a root's text is wrong, two
 * samples have one id, or nothing is left */
Status source_open(const SourceConfig *config, Source **out);
void source_close(Source *source);

int64_t source_size(const Source *source);       /* samples */
int64_t source_epoch_size(const Source *source); /* samples that an epoch takes, by the weights */

typedef struct SourcePlace {
    int64_t index;  /* of the sample */
    uint32_t epoch; /* how often its root was gone through before: with the id, the key of draws */
} SourcePlace;

/* source_at: what lies at a position of the endless sequence of epochs. Each epoch is a keyed
 * permutation (rng_permute, RNG_ORDER), so nothing is stored and any position costs the same. */
SourcePlace source_at(const Source *source, uint64_t seed, uint64_t position);

/* source_sample_id: see root_sample_id. source_image_name: what messages call it. */
uint64_t source_sample_id(const Source *source, int64_t index);
void source_image_name(const Source *source, int64_t index, char name[ROOT_NAME_BYTES]);
bool source_has_masks(const Source *source);

/* source_read_image: the JPEG file, in reader->bytes.
 * source_read_masks: the masks that pass the filter; there may be none.
 * errors  E_FILE, E_FORMAT naming file and fault; E_MEMORY */
Status source_read_image(const Source *source, int64_t index, RootReader *reader);
Status source_read_masks(const Source *source, int64_t index, RootReader *reader, Annotations *out);

#endif
