/* A source as tar shards of SA-1B's form: NAME.jpg and NAME.json of every sample, in its order.
 * Called by `retort data pack`; read back by data/root_tar.c.
 *
 * Images, and masks that have a file of their own, are copied byte for byte, under their path below
 * their root, so samples keep their ids, draws and embeddings. The masks of COCO files are written
 * in SA-1B's form. The same source gives the same bytes.
 *
 * Invariant: `folder` appears when all shards are in it, complete; before that they are in
 * FOLDER.partial, which a later call begins anew.
 */
#ifndef RETORT_DATA_PACK_H
#define RETORT_DATA_PACK_H

#include "base/file.h"
#include "data/source.h"

typedef struct PackConfig {
    const FileOps *ops;
    const char *folder;   /* must not exist */
    int64_t shard_images; /* samples of a shard; the last has the rest */
} PackConfig;

typedef struct PackTotals {
    int64_t n_shards, n_images, n_bytes; /* bytes of the files in the shards */
    int64_t n_left_out;                  /* images none of whose masks passed the filters */
} PackTotals;

/* pack_source: writes all samples, with masks if the source has them.
 * errors  those of reading samples; E_CONFIG if the folder exists; E_FILE if a shard cannot be
 *         written, or a sample's name does not fit into a tar */
Status pack_source(const Source *source, const PackConfig *config, PackTotals *out);

#endif
