/* Teacher embeddings in files: what `teach` writes and `distill` reads.
 *
 * A folder of shards, embeddings_00000.safetensors .., each with up to EMBEDDINGS_PER_SHARD tensors
 * "ID" and, if both views are kept, "ID.flip" of (D,grid,grid) in f16. The metadata names the
 * teacher (sha256 of its weights), the image size and the number of images; a mismatch is refused.
 */
#ifndef RETORT_TRAIN_EMBEDDINGS_H
#define RETORT_TRAIN_EMBEDDINGS_H

#include "checkpoints/safetensors.h"

enum { EMBEDDINGS_PER_SHARD = 64 };

typedef struct EmbeddingsInfo {
    char teacher_sha256[65];
    int64_t image_size, grid, dim;
    bool flips; /* both views are there */
} EmbeddingsInfo;

typedef struct Embeddings Embeddings;

/* embeddings_open: maps all shards of a folder and indexes them.
 * errors  E_FILE, E_FORMAT; E_CONFIG if there is no shard, or shards of different teachers */
Status embeddings_open(const char *folder, Embeddings **out);
void embeddings_close(Embeddings *embeddings);
const EmbeddingsInfo *embeddings_info(const Embeddings *embeddings);

/* embeddings_get: one view as f32 in our order: (grid,grid,D).
 * errors  E_CONFIG naming folder, id and view if it is absent */
Status embeddings_get(const Embeddings *embeddings, uint64_t sample_id, bool flip, float *out);

/* embeddings_teacher_id: what stands for a teacher in teacher_sha256: the digest of its weights
 * file, or "random seed N". errors  E_FILE */
Status embeddings_teacher_id(const char *weights, int64_t seed, char id[65]);

/* embeddings_shard_path: name of shard `index`, to be freed. */
char *embeddings_shard_path(const char *folder, int64_t index);
/* embeddings_write_shard: n views of (grid,grid,D) f32 each, as one shard, atomically. */
Status embeddings_write_shard(const char *folder, int64_t index, const EmbeddingsInfo *info, int n,
                              const uint64_t *sample_id, const bool *flip,
                              const float *const *views);

/* embeddings_check_shard: that shard `index` holds just these n views of the teacher of `info`.
 * errors  those of safetensors_open; E_FORMAT, E_CONFIG saying what differs */
Status embeddings_check_shard(const char *folder, int64_t index, const EmbeddingsInfo *info, int n,
                              const uint64_t *sample_id, const bool *flip);

#endif
