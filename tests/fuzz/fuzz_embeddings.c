/* Shards of teacher embeddings: header, index, records, and every view unpacked. Once as they are,
 * and once with all checksums made right, so that what lies behind them is reached. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "data/embedding_form.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_CELLS = 1 << 16 }; /* of an embedding that is unpacked */

/* ---- checksums ---- */

static void mend_records(uint8_t *bytes, size_t n_bytes)
{
    EmbeddingRecordHead head;
    for (size_t at = sizeof(EmbeddingHeader); n_bytes - at >= sizeof head;) {
        memcpy(&head, bytes + at, sizeof head);
        size_t view = at + sizeof head;
        for (int v = 0; v < EMBEDDING_MAX_VIEWS && head.view_bytes[v] <= n_bytes - view; v++) {
            head.view_crc[v] = embedding_crc(bytes + view, head.view_bytes[v]);
            view += head.view_bytes[v];
        }
        head.crc = embedding_head_crc(&head);
        memcpy(bytes + at, &head, sizeof head);
        if ((size_t)embedding_record_bytes(&head) > n_bytes - at) return;
        at += (size_t)embedding_record_bytes(&head);
    }
}

/* Returns where the records end. */
static size_t mend_index(uint8_t *bytes, size_t n_bytes)
{
    EmbeddingTrailer trailer;
    size_t at = n_bytes - sizeof trailer;
    memcpy(&trailer, bytes + at, sizeof trailer);
    bool inside = trailer.index_offset >= sizeof(EmbeddingHeader) && trailer.index_offset <= at;
    if (inside)
        trailer.index_crc = embedding_crc(bytes + trailer.index_offset, at - trailer.index_offset);
    trailer.crc = embedding_crc(&trailer, offsetof(EmbeddingTrailer, crc));
    memcpy(bytes + at, &trailer, sizeof trailer);
    return inside ? trailer.index_offset : n_bytes;
}

static void mend(uint8_t *bytes, size_t n_bytes)
{
    EmbeddingHeader header;
    size_t end = n_bytes;
    if (n_bytes < sizeof header) return;
    memcpy(&header, bytes, sizeof header);
    header.crc = embedding_crc(&header, offsetof(EmbeddingHeader, crc));
    memcpy(bytes, &header, sizeof header);
    if (n_bytes >= sizeof header + sizeof(EmbeddingTrailer) &&
        memcmp(bytes + n_bytes - sizeof(EmbeddingTrailer), EMBEDDING_INDEX_MAGIC, 8) == 0)
        end = mend_index(bytes, n_bytes);
    mend_records(bytes, end);
}

/* ---- reading ---- */

static void read_views(const EmbeddingShard *shard, EmbeddingCodec *codec, float *view)
{
    Buffer buffer = {0};
    size_t n_bytes;
    for (int64_t i = 0; i < shard->n_entries; i++)
        for (int v = 0; v < shard->info.n_views; v++)
            if (embedding_shard_read(shard->path, &shard->info, shard->entries[i], v, &buffer,
                                     &n_bytes) == OK)
                (void)embedding_decode(codec, buffer.data, n_bytes, view);
    buffer_free(&buffer);
}

static void use_shard(const uint8_t *bytes, size_t n_bytes)
{
    EmbeddingShard shard;
    EmbeddingCodec *codec;
    if (embedding_shard_open(fuzz_file(bytes, n_bytes), &shard) != OK) return;
    EmbeddingForm form = embedding_form(&shard.info);
    if (form.cells * form.dim <= MAX_CELLS && embedding_codec_create(&form, 0, &codec) == OK) {
        float *view = malloc((size_t)(form.cells * form.dim) * sizeof *view);
        read_views(&shard, codec, view);
        free(view);
        embedding_codec_destroy(codec);
    }
    embedding_shard_close(&shard);
}

void fuzz_embeddings(const uint8_t *bytes, size_t n_bytes)
{
    use_shard(bytes, n_bytes);
    uint8_t *mended = malloc(n_bytes + 1);
    memcpy(mended, bytes, n_bytes);
    mend(mended, n_bytes);
    use_shard(mended, n_bytes);
    free(mended);
}
