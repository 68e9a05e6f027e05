/* A shard's bytes: what its reader and its writer agree on. Included by these two, and by the fuzz
 * target that makes checksums right; described in embedding_shard.h. */
#ifndef RETORT_DATA_EMBEDDING_FORM_H
#define RETORT_DATA_EMBEDDING_FORM_H

#include <zlib.h>

#include <stddef.h>

#include "data/embedding_shard.h"

#define EMBEDDING_MAGIC "RETORTEM"
#define EMBEDDING_INDEX_MAGIC "RETORTIX"

enum {
    EMBEDDING_VERSION = 1,
    EMBEDDING_BYTE_ORDER = 0x01020304,
    EMBEDDING_RECORD_MAGIC = 0x43455245, /* "EREC" */
};

typedef struct EmbeddingHeader {
    char magic[8];
    uint32_t version, byte_order;
    char teacher[72], preprocess[192], precision[8];
    uint32_t image_size, grid, dim, n_views, dtype, packed;
    uint32_t zero, crc; /* of all before it */
} EmbeddingHeader;

typedef struct EmbeddingRecordHead {
    uint32_t magic, crc; /* of all behind it */
    uint64_t id;
    uint32_t view_bytes[EMBEDDING_MAX_VIEWS], view_crc[EMBEDDING_MAX_VIEWS];
} EmbeddingRecordHead;

typedef struct EmbeddingTrailer {
    char magic[8];
    uint64_t n_entries, index_offset;
    uint32_t index_crc, crc; /* of all before it */
} EmbeddingTrailer;

_Static_assert(sizeof(EmbeddingHeader) == 320 && sizeof(EmbeddingRecordHead) == 32 &&
                   sizeof(EmbeddingTrailer) == 32 && sizeof(EmbeddingEntry) == 16,
               "the form of a file has no holes");

static inline uint32_t embedding_crc(const void *bytes, size_t n_bytes)
{
    return (uint32_t)crc32_z(0, bytes, n_bytes);
}

static inline uint32_t embedding_head_crc(const EmbeddingRecordHead *head)
{
    return embedding_crc(&head->id, sizeof *head - offsetof(EmbeddingRecordHead, id));
}

/* With the zeros behind it. */
static inline int64_t embedding_record_bytes(const EmbeddingRecordHead *head)
{
    int64_t bytes = (int64_t)sizeof *head + head->view_bytes[0] + head->view_bytes[1];
    return (bytes + 7) / 8 * 8;
}

#endif
