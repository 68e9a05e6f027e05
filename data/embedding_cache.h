/* A cache of teacher embeddings: a folder of shards, written by any number of processes and read
 * in any order.
 *
 * It lies in data/ because to a distillation it is what masks are to a fine-tuning: the loader
 * reads it with the images, by sample id, on its threads. It knows embeddings as arrays, and their
 * origin as texts that must match.
 *
 * Process K of N writes embeddings_KofN_00000.shard, .._00001.shard, .. and no other file, so
 * processes share nothing but the folder, and any later number of them finds all images that are
 * done. An image is in one record, so it is done or not. Called by train/teach.c and data/sample.c.
 */
#ifndef RETORT_DATA_EMBEDDING_CACHE_H
#define RETORT_DATA_EMBEDDING_CACHE_H

#include "data/embedding_shard.h"

typedef struct EmbeddingCache EmbeddingCache;

/* embedding_cache_open: finds all shards of a folder, and all their images.
 * errors  those of embedding_shard_open; E_CONFIG if there is no shard, or shards differ in what
 *         made them */
Status embedding_cache_open(const char *folder, EmbeddingCache **out);
void embedding_cache_close(EmbeddingCache *cache);
const EmbeddingInfo *embedding_cache_info(const EmbeddingCache *cache);
int64_t embedding_cache_size(const EmbeddingCache *cache); /* images; in several shards: once */
bool embedding_cache_has(const EmbeddingCache *cache, uint64_t id);

/* embedding_cache_verify: reads and unpacks every view of every shard.
 * tell  gets a line for each fault: a view that is damaged, a rest that is no whole record
 * out   what was found
 * errors  those of opening; E_FORMAT if there was a fault, with their number */
typedef struct EmbeddingCensus {
    int64_t n_shards, n_images, n_bytes, n_unsealed, n_faults;
} EmbeddingCensus;
Status embedding_cache_verify(const EmbeddingCache *cache,
                              void (*tell)(void *context, const char *line), void *context,
                              EmbeddingCensus *out);

/* ---- reading ---- */

typedef struct EmbeddingReader EmbeddingReader; /* of one thread */

Status embedding_reader_create(const EmbeddingCache *cache, EmbeddingReader **out);
void embedding_reader_destroy(EmbeddingReader *reader);

/* embedding_read: one view as f32 in our order, (grid,grid,D).
 * errors  E_CONFIG naming folder and id if it is not there; E_FILE, E_FORMAT naming the file */
Status embedding_read(EmbeddingReader *reader, uint64_t id, bool flip, float *out);

/* ---- writing ---- */

typedef struct EmbeddingWriterConfig {
    const FileOps *ops;
    const char *folder; /* made if it is missing */
    EmbeddingInfo info;
    int part, n_parts;   /* this process is 1 <= part of n_parts */
    int64_t shard_bytes; /* a shard is sealed when it has as many */
} EmbeddingWriterConfig;

typedef struct EmbeddingWriter EmbeddingWriter;

/* embedding_writer_open: takes up the folder where a killed process of the same part left it.
 * errors  those of embedding_cache_open but for an empty folder; E_CONFIG if what is there was made
 *         by something else, saying what, or another process writes this part */
Status embedding_writer_open(const EmbeddingWriterConfig *config, EmbeddingWriter **out);

/* embedding_writer_has: whether the folder held this image when it was opened. */
bool embedding_writer_has(const EmbeddingWriter *writer, uint64_t id);
int64_t embedding_writer_cut_bytes(const EmbeddingWriter *writer); /* of a record not whole */

/* embedding_writer_append: an image that is not there yet. See embedding_shard_append. */
Status embedding_writer_append(EmbeddingWriter *writer, uint64_t id, const void *const *bytes,
                               const size_t *n_bytes);

/* embedding_writer_merge: the images of another cache that are not there yet, in order of their
 * ids, byte for byte. errors  E_FILE, E_FORMAT of either side */
Status embedding_writer_merge(EmbeddingWriter *writer, const EmbeddingCache *from,
                              int64_t *n_merged);

/* embedding_writer_finish: seals the last shard; then frees. errors  E_FILE
 * embedding_writer_leave: frees, and leaves the last shard to be gone on with. NULL is fine. */
Status embedding_writer_finish(EmbeddingWriter *writer);
void embedding_writer_leave(EmbeddingWriter *writer);

#endif
