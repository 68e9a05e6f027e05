/* A shard: one append-only file of teacher embeddings.
 *
 *   header   320 bytes: magic, version, byte order, what made the embeddings (EmbeddingInfo), CRC
 *   records  of one image each, its views behind one another: a head of 32 bytes (magic, CRC of the
 *            rest of the head, sample id, bytes and CRC of each view), the views as they come from
 *            embedding_encode, zeros up to a multiple of 8
 *   index    once the shard is sealed: (sample id, offset of the record), sorted by id
 *   trailer  32 bytes: magic, number of records, offset of the index, CRC of the index, CRC
 *
 * All numbers little-endian; CRC-32 as in zlib. Called by data/embedding_cache.c.
 *
 * Invariants
 *  1. A file that is there has a whole header: it comes by a rename. Behind it only appending
 *     happens, so whoever reads while another process writes sees whole records and a rest.
 *  2. A writer that is killed loses at most the record it was writing: without a sound index the
 *     records are read through, up to the first that is not whole, and that is where the next
 *     writer cuts and goes on.
 *  3. No byte of a view is used whose CRC was not checked.
 */
#ifndef RETORT_DATA_EMBEDDING_SHARD_H
#define RETORT_DATA_EMBEDDING_SHARD_H

#include "base/file.h"
#include "data/buffer.h"
#include "data/embedding_codec.h"

enum { EMBEDDING_MAX_VIEWS = 2 }; /* as it is, and flipped */

/* What made the embeddings, and how they are kept: equal for all shards of a cache. */
typedef struct EmbeddingInfo {
    char teacher[72];     /* sha256 of its weights, or "random seed N" */
    char preprocess[192]; /* of images, in words */
    char precision[8];    /* that the teacher computed in */
    int64_t image_size;   /* px the teacher sees */
    int64_t grid, dim;
    int n_views; /* 1: unflipped only */
    EmbeddingDType dtype;
    bool packed; /* by zstd */
} EmbeddingInfo;

EmbeddingForm embedding_form(const EmbeddingInfo *info);

/* embedding_info_differs: whether two are not the same; then `why` says what of the first differs
 * and what the second has. */
bool embedding_info_differs(const EmbeddingInfo *got, const EmbeddingInfo *wanted, char *why,
                            size_t why_bytes);

typedef struct EmbeddingEntry {
    uint64_t id;     /* of the sample */
    uint64_t offset; /* of its record */
} EmbeddingEntry;

typedef struct EmbeddingShard {
    char *path;
    EmbeddingInfo info;
    EmbeddingEntry *entries; /* sorted by id if sealed, else as written */
    int64_t n_entries;
    bool sealed;
    int64_t end; /* of the last whole record, bytes */
} EmbeddingShard;

/* embedding_shard_open: header and entries of a file, by its index or by reading through it.
 * errors  E_FILE, E_MEMORY; E_FORMAT if the header is no shard's, of another version, or damaged */
Status embedding_shard_open(const char *path, EmbeddingShard *out);
void embedding_shard_close(EmbeddingShard *shard);

/* embedding_shard_read: the bytes of one view of a record, checked, in `buffer`.
 * errors  E_FILE; E_FORMAT naming file and offset if they are not what was written; E_MEMORY */
Status embedding_shard_read(const char *path, const EmbeddingInfo *info, EmbeddingEntry entry,
                            int view, Buffer *buffer, size_t *n_bytes);

typedef struct EmbeddingShardWriter EmbeddingShardWriter;

/* embedding_shard_create: a new file at `path`, with its header.
 * embedding_shard_resume: goes on behind the last whole record of a shard that is not sealed.
 * errors  E_FILE */
Status embedding_shard_create(const FileOps *ops, const char *path, const EmbeddingInfo *info,
                              EmbeddingShardWriter **out);
Status embedding_shard_resume(const FileOps *ops, const EmbeddingShard *shard,
                              EmbeddingShardWriter **out);

/* embedding_shard_append: a record. It is on disk for good at the latest with the 64 MiB behind it.
 * bytes, n_bytes  of each of info->n_views views, from embedding_encode
 * errors  E_FILE; the writer can then only be closed */
Status embedding_shard_append(EmbeddingShardWriter *writer, uint64_t id, const void *const *bytes,
                              const size_t *n_bytes);
int64_t embedding_shard_bytes(const EmbeddingShardWriter *writer); /* written so far */

/* embedding_shard_seal: index and trailer, made durable; then closes. errors  E_FILE
 * embedding_shard_leave: closes an unsealed file. NULL is fine. */
Status embedding_shard_seal(EmbeddingShardWriter *writer);
void embedding_shard_leave(EmbeddingShardWriter *writer);

#endif
