/* A folder of shards, read. See embedding_cache.h. */
#include "data/embedding_cache.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/embedding_folder.h"

/* ---- opening ---- */

static int compare_places(const void *a, const void *b)
{
    const EmbeddingPlace *left = a, *right = b;
    if (left->id != right->id) return left->id < right->id ? -1 : 1;
    return left->place < right->place ? -1 : left->place > right->place;
}

/* Sorted, and of images that are in several shards the first. */
static void sort_places(EmbeddingCache *cache)
{
    EmbeddingPlace *places = cache->places.data;
    int64_t n = 0;
    if (cache->n_places) qsort(places, (size_t)cache->n_places, sizeof *places, compare_places);
    for (int64_t i = 0; i < cache->n_places; i++)
        if (n == 0 || places[i].id != places[n - 1].id) places[n++] = places[i];
    cache->n_places = n;
}

static Status take_entries(EmbeddingCache *cache, const EmbeddingShard *shard, uint64_t number)
{
    int64_t n = cache->n_places + shard->n_entries;
    TRY(buffer_grow(&cache->places, (size_t)(n + 1) * sizeof(EmbeddingPlace)));
    EmbeddingPlace *places = (EmbeddingPlace *)cache->places.data + cache->n_places;
    for (int64_t i = 0; i < shard->n_entries; i++)
        places[i] = (EmbeddingPlace){shard->entries[i].id,
                                     number << PLACE_OFFSET_BITS | shard->entries[i].offset / 8};
    cache->n_places = n;
    return OK;
}

static Status add_shard(EmbeddingCache *cache, const char *name)
{
    char why[512], *path = file_join(cache->folder, name);
    EmbeddingShard shard;
    Status status = embedding_shard_open(path, &shard);
    free(path);
    if (status != OK) return status;
    if (cache->n_shards == 0) cache->info = shard.info;
    if (embedding_info_differs(&shard.info, &cache->info, why, sizeof why))
        status = status_fail(E_CONFIG, "%s: is not of the same cache as %s: %s", shard.path,
                             cache->shards[0].path, why);
    if (status == OK) status = take_entries(cache, &shard, (uint64_t)cache->n_shards);
    free(shard.entries);
    shard.entries = NULL;
    cache->shards = mem_grow(cache->shards, &cache->room, cache->n_shards + 1,
                             sizeof *cache->shards);
    cache->shards[cache->n_shards++] = shard;
    return status;
}

Status embedding_folder_open(const char *folder, EmbeddingCache **out)
{
    char **names;
    int n;
    TRY(embedding_folder_list(folder, &names, &n));
    EmbeddingCache *cache = mem_alloc(sizeof *cache);
    cache->folder = mem_string(folder);
    Status status = OK;
    for (int i = 0; i < n; i++) {
        if (status == OK) status = add_shard(cache, names[i]);
        free(names[i]);
    }
    free(names);
    sort_places(cache);
    if (status == OK)
        *out = cache;
    else
        embedding_cache_close(cache);
    return status;
}

Status embedding_cache_open(const char *folder, EmbeddingCache **out)
{
    TRY(embedding_folder_open(folder, out));
    if ((*out)->n_shards > 0) return OK;
    embedding_cache_close(*out);
    return status_fail(E_CONFIG, "%s: holds no embeddings_*.shard; write them with retort teach",
                       folder);
}

void embedding_cache_close(EmbeddingCache *cache)
{
    if (!cache) return;
    for (int i = 0; i < cache->n_shards; i++) embedding_shard_close(&cache->shards[i]);
    free(cache->shards);
    buffer_free(&cache->places);
    free(cache->folder);
    free(cache);
}

const EmbeddingInfo *embedding_cache_info(const EmbeddingCache *cache) { return &cache->info; }

int64_t embedding_cache_size(const EmbeddingCache *cache) { return cache->n_places; }

static int compare_ids(const void *id, const void *place)
{
    uint64_t left = *(const uint64_t *)id, right = ((const EmbeddingPlace *)place)->id;
    return left < right ? -1 : left > right;
}

static const EmbeddingPlace *find(const EmbeddingCache *cache, uint64_t id)
{
    if (cache->n_places == 0) return NULL;
    return bsearch(&id, cache->places.data, (size_t)cache->n_places, sizeof(EmbeddingPlace),
                   compare_ids);
}

bool embedding_cache_has(const EmbeddingCache *cache, uint64_t id) { return find(cache, id); }

/* ---- reading ---- */

struct EmbeddingReader {
    const EmbeddingCache *cache;
    EmbeddingCodec *codec;
    Buffer bytes;
};

Status embedding_reader_create(const EmbeddingCache *cache, EmbeddingReader **out)
{
    EmbeddingReader *reader = mem_alloc(sizeof *reader);
    EmbeddingForm form = embedding_form(&cache->info);
    reader->cache = cache;
    Status status = embedding_codec_create(&form, 0, &reader->codec);
    if (status == OK)
        *out = reader;
    else
        embedding_reader_destroy(reader);
    return status;
}

void embedding_reader_destroy(EmbeddingReader *reader)
{
    if (!reader) return;
    embedding_codec_destroy(reader->codec);
    buffer_free(&reader->bytes);
    free(reader);
}

Status embedding_place_read(const EmbeddingCache *cache, const EmbeddingPlace *place, int view,
                            Buffer *buffer, size_t *n_bytes)
{
    const EmbeddingShard *shard = &cache->shards[place->place >> PLACE_OFFSET_BITS];
    uint64_t offset = (place->place & (((uint64_t)1 << PLACE_OFFSET_BITS) - 1)) * 8;
    return embedding_shard_read(shard->path, &cache->info, (EmbeddingEntry){place->id, offset},
                                view, buffer, n_bytes);
}

static Status read_place(EmbeddingReader *reader, const EmbeddingPlace *place, int view, float *out)
{
    size_t n_bytes;
    TRY(embedding_place_read(reader->cache, place, view, &reader->bytes, &n_bytes));
    if (embedding_decode(reader->codec, reader->bytes.data, n_bytes, out) == OK) return OK;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    return status_fail(E_FORMAT, "%s: the embedding of image %" PRIu64 ": %s",
                       reader->cache->shards[place->place >> PLACE_OFFSET_BITS].path, place->id,
                       why);
}

Status embedding_read(EmbeddingReader *reader, uint64_t id, bool flip, float *out)
{
    const EmbeddingCache *cache = reader->cache;
    const EmbeddingPlace *place = find(cache, id);
    if (flip && cache->info.n_views < 2)
        return status_fail(E_CONFIG,
                           "%s: only unflipped views are kept; set data.flip=0, or run teach with "
                           "data.flip > 0",
                           cache->folder);
    if (!place)
        return status_fail(
            E_CONFIG, "%s: no embedding of image %" PRIu64 "; run retort teach on the same images",
            cache->folder, id);
    return read_place(reader, place, flip, out);
}

/* ---- verifying ---- */

typedef struct Verifier {
    EmbeddingReader *reader;
    float *view;
    void (*tell)(void *context, const char *line);
    void *context;
    EmbeddingCensus *census;
} Verifier;

static void tell_fault(Verifier *verifier, const char *line)
{
    verifier->census->n_faults++;
    verifier->tell(verifier->context, line);
}

/* What of a shard is neither record nor index: nothing, or what a killed process left. */
static void check_rest(Verifier *verifier, const EmbeddingShard *shard, int64_t file_bytes)
{
    char line[600];
    verifier->census->n_unsealed += !shard->sealed;
    if (shard->sealed || shard->end == file_bytes) return;
    snprintf(line, sizeof line,
             "%.400s: the last %" PRId64 " bytes are no whole record; teach makes its images again",
             shard->path, file_bytes - shard->end);
    tell_fault(verifier, line);
}

/* Opened anew: the cache keeps of each image one place only. */
static Status check_shard(Verifier *verifier, uint64_t number)
{
    const EmbeddingCache *cache = verifier->reader->cache;
    EmbeddingShard shard;
    TRY(embedding_shard_open(cache->shards[number].path, &shard));
    int64_t file_bytes = 0;
    Status status = file_size(shard.path, &file_bytes);
    if (status == OK) check_rest(verifier, &shard, file_bytes);
    for (int64_t i = 0; i < shard.n_entries && status == OK; i++) {
        EmbeddingPlace place = {shard.entries[i].id,
                                number << PLACE_OFFSET_BITS | shard.entries[i].offset / 8};
        for (int v = 0; v < cache->info.n_views; v++)
            if (read_place(verifier->reader, &place, v, verifier->view) != OK)
                tell_fault(verifier, status_message());
    }
    verifier->census->n_shards++;
    verifier->census->n_bytes += file_bytes;
    embedding_shard_close(&shard);
    return status;
}

Status embedding_cache_verify(const EmbeddingCache *cache,
                              void (*tell)(void *context, const char *line), void *context,
                              EmbeddingCensus *out)
{
    const EmbeddingInfo *info = &cache->info;
    Verifier verifier = {.tell = tell, .context = context, .census = out};
    *out = (EmbeddingCensus){.n_images = cache->n_places};
    TRY(embedding_reader_create(cache, &verifier.reader));
    verifier.view = mem_alloc((size_t)(info->grid * info->grid * info->dim) * sizeof(float));
    Status status = OK;
    for (int i = 0; i < cache->n_shards && status == OK; i++)
        status = check_shard(&verifier, (uint64_t)i);
    free(verifier.view);
    embedding_reader_destroy(verifier.reader);
    if (status == OK && out->n_faults > 0)
        status = status_fail(E_FORMAT, "%s: %" PRId64 " faults", cache->folder, out->n_faults);
    return status;
}
