/* A cache's folder and index: what its reader and its writer share. Included by these two only. */
#ifndef RETORT_DATA_EMBEDDING_FOLDER_H
#define RETORT_DATA_EMBEDDING_FOLDER_H

#include "data/embedding_cache.h"

enum { PLACE_OFFSET_BITS = 40 }; /* of the offset / 8; the rest is the number of the shard */

typedef struct EmbeddingPlace { /* 16 bytes an image, so that 11 million take 176 MB */
    uint64_t id, place;
} EmbeddingPlace;

struct EmbeddingCache {
    char *folder;
    EmbeddingInfo info;     /* of the first shard, and so of all */
    EmbeddingShard *shards; /* their entries are in places */
    int n_shards, room;
    Buffer places; /* sorted by id */
    int64_t n_places;
};

/* embedding_folder_open: as embedding_cache_open, but a folder may have no shard. */
Status embedding_folder_open(const char *folder, EmbeddingCache **out);

/* embedding_folder_list: the names of a folder's shards, sorted; each and the list to be freed.
 * errors  E_FILE */
Status embedding_folder_list(const char *folder, char ***out, int *n);

/* embedding_place_read: see embedding_shard_read. */
Status embedding_place_read(const EmbeddingCache *cache, const EmbeddingPlace *place, int view,
                            Buffer *buffer, size_t *n_bytes);

#endif
