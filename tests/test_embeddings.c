/* The cache of embeddings: what is kept comes back, within the digits of its dtype; what is damaged
 * is noticed; a writer that is stopped anywhere goes on to the same file. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "data/embedding_cache.h"
#include "tests/support.h"

enum { GRID = 4, DIM = 6, VALUES = GRID * GRID * DIM, N_IMAGES = 5 };

static char folder[256];

static EmbeddingInfo info_of(EmbeddingDType dtype, bool packed)
{
    return (EmbeddingInfo){.teacher = "0123456789abcdef",
                           .preprocess = "as it is",
                           .precision = "f32",
                           .image_size = 64,
                           .grid = GRID,
                           .dim = DIM,
                           .n_views = 2,
                           .dtype = dtype,
                           .packed = packed};
}

/* The value of a cell: of another size in every channel, as teachers' are. */
static void make_view(uint64_t id, int flip, float *view)
{
    RngKey key = {.seed = 5, .purpose = RNG_TEST, .epoch = (uint32_t)flip, .sample = id};
    for (int i = 0; i < VALUES; i++)
        view[i] = (float)(rng_normal(key, (uint64_t)i) * pow(4, i % DIM - 3));
}

/* ---- codec ---- */

static void check_codec(EmbeddingDType dtype, bool packed, double tolerance)
{
    float view[VALUES], again[VALUES], largest[DIM] = {0};
    EmbeddingInfo info = info_of(dtype, packed);
    EmbeddingForm form = embedding_form(&info);
    EmbeddingCodec *codec;
    const void *bytes;
    size_t n_bytes;
    make_view(1, 0, view);
    cr_assert_eq(embedding_codec_create(&form, 3, &codec), OK);
    cr_assert_eq(embedding_encode(codec, view, &bytes, &n_bytes), OK, "%s", status_message());
    char *kept = malloc(n_bytes);
    memcpy(kept, bytes, n_bytes);
    cr_assert_eq(embedding_decode(codec, kept, n_bytes, again), OK, "%s", status_message());
    for (int i = 0; i < VALUES; i++) largest[i % DIM] = fmaxf(largest[i % DIM], fabsf(view[i]));
    for (int i = 0; i < VALUES; i++) {
        double size = dtype == EMBEDDING_INT8 ? largest[i % DIM] : fabsf(view[i]);
        cr_expect_leq(fabs(again[i] - view[i]), tolerance * size, "%s: %g for %g",
                      embedding_dtype_names[dtype], again[i], view[i]);
    }
    cr_expect_eq(embedding_decode(codec, kept, n_bytes - 1, again), E_FORMAT);
    embedding_codec_destroy(codec);
    free(kept);
}

Test(embeddings, come_back_within_the_digits_of_their_dtype)
{
    const double tolerance[] = {0, 1.0 / 2048, 1.0 / 256, 0.5 / 127 + 1e-6};
    for (int dtype = 0; dtype < EMBEDDING_DTYPES; dtype++)
        for (int packed = 0; packed < 2; packed++)
            check_codec((EmbeddingDType)dtype, packed, tolerance[dtype]);
}

Test(embeddings, values_that_a_dtype_cannot_hold_are_refused)
{
    float view[VALUES] = {0}, again[VALUES];
    const void *bytes;
    size_t n_bytes;
    for (int dtype = 0; dtype < EMBEDDING_DTYPES; dtype++) {
        EmbeddingInfo info = info_of((EmbeddingDType)dtype, false);
        EmbeddingForm form = embedding_form(&info);
        EmbeddingCodec *codec;
        cr_assert_eq(embedding_codec_create(&form, 0, &codec), OK);
        cr_expect_eq(embedding_encode(codec, view, &bytes, &n_bytes), OK, "zeros");
        cr_expect_eq(embedding_decode(codec, bytes, n_bytes, again), OK);
        cr_expect_eq(memcmp(view, again, sizeof view), 0);
        view[7] = 70000;
        cr_expect_eq(embedding_encode(codec, view, &bytes, &n_bytes),
                     dtype == EMBEDDING_F16 ? E_NUMERIC : OK);
        view[7] = NAN;
        cr_expect_eq(embedding_encode(codec, view, &bytes, &n_bytes), E_NUMERIC);
        view[7] = 0;
        embedding_codec_destroy(codec);
    }
}

/* ---- writing ---- */

static EmbeddingWriterConfig config_of(const char *name, int part, int n_parts)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return (EmbeddingWriterConfig){.ops = &file_ops_system,
                                   .folder = path,
                                   .info = info_of(EMBEDDING_F16, true),
                                   .part = part,
                                   .n_parts = n_parts,
                                   .shard_bytes = 1500}; /* two or three images */
}

/* Writes the images of first..end that are not there; the first failure stops it. */
static Status write_images(const EmbeddingWriterConfig *config, uint64_t first, uint64_t end)
{
    float view[VALUES];
    EmbeddingWriter *writer = NULL;
    EmbeddingCodec *codecs[2];
    EmbeddingForm form = embedding_form(&config->info);
    const void *bytes[2];
    size_t n_bytes[2];
    TRY(embedding_writer_open(config, &writer));
    for (int v = 0; v < 2; v++) embedding_codec_create(&form, 1, &codecs[v]);
    Status status = OK;
    for (uint64_t id = first; id < end && status == OK; id++) {
        if (embedding_writer_has(writer, id)) continue;
        for (int v = 0; v < 2; v++) {
            make_view(id, v, view);
            cr_assert_eq(embedding_encode(codecs[v], view, &bytes[v], &n_bytes[v]), OK);
        }
        status = embedding_writer_append(writer, id, bytes, n_bytes);
    }
    for (int v = 0; v < 2; v++) embedding_codec_destroy(codecs[v]);
    if (status == OK) return embedding_writer_finish(writer);
    embedding_writer_leave(writer);
    return status;
}

static void check_image(EmbeddingReader *reader, uint64_t id, int flip)
{
    float wanted[VALUES], got[VALUES];
    make_view(id, flip, wanted);
    cr_assert_eq(embedding_read(reader, id, flip, got), OK, "%s", status_message());
    for (int i = 0; i < VALUES; i++)
        cr_assert_leq(fabsf(got[i] - wanted[i]), fabsf(wanted[i]) / 2048, "image %d", (int)id);
}

static void check_cache(const char *path, uint64_t first, uint64_t end)
{
    EmbeddingCache *cache;
    EmbeddingReader *reader;
    float view[VALUES];
    cr_assert_eq(embedding_cache_open(path, &cache), OK, "%s", status_message());
    cr_assert_eq(embedding_cache_size(cache), (int64_t)(end - first));
    cr_assert_eq(embedding_reader_create(cache, &reader), OK);
    for (uint64_t id = end; id-- > first;) /* in any order */
        for (int flip = 0; flip < 2; flip++) check_image(reader, id, flip);
    cr_expect_eq(embedding_read(reader, end, false, view), E_CONFIG);
    cr_expect_not(embedding_cache_has(cache, end));
    embedding_reader_destroy(reader);
    embedding_cache_close(cache);
}

static void note_line(void *context, const char *line)
{
    (void)line;
    ++*(int *)context;
}

static EmbeddingCensus census_of(const char *path)
{
    EmbeddingCache *cache;
    EmbeddingCensus census;
    int n_lines = 0;
    cr_assert_eq(embedding_cache_open(path, &cache), OK, "%s", status_message());
    Status status = embedding_cache_verify(cache, note_line, &n_lines, &census);
    cr_assert_eq(status, census.n_faults ? E_FORMAT : OK);
    cr_assert_eq(n_lines, census.n_faults);
    embedding_cache_close(cache);
    return census;
}

Test(embeddings, parts_and_mergers_hold_every_image_once)
{
    test_folder("embeddings_parts", folder, sizeof folder);
    EmbeddingWriterConfig first = config_of("cache", 1, 2), second = config_of("cache", 2, 2);
    cr_assert_eq(write_images(&first, 0, 7), OK, "%s", status_message());
    cr_assert_eq(write_images(&second, 7, 9), OK, "%s", status_message());
    EmbeddingWriterConfig alone = config_of("cache", 1, 1);
    cr_assert_eq(write_images(&alone, 0, 10), OK, "%s", status_message());
    check_cache(alone.folder, 0, 10);
    EmbeddingCensus census = census_of(alone.folder);
    cr_expect(census.n_shards == 3 + 1 + 1 && census.n_unsealed == 0 && census.n_faults == 0,
              "%d shards", (int)census.n_shards);

    char from[400];
    snprintf(from, sizeof from, "%s", alone.folder);
    EmbeddingWriterConfig merged = config_of("merged", 1, 1);
    merged.shard_bytes = 1 << 20;
    EmbeddingCache *cache;
    EmbeddingWriter *writer;
    int64_t n_merged;
    cr_assert_eq(embedding_cache_open(from, &cache), OK);
    cr_assert_eq(embedding_writer_open(&merged, &writer), OK);
    cr_assert_eq(embedding_writer_merge(writer, cache, &n_merged), OK, "%s", status_message());
    cr_assert_eq(embedding_writer_finish(writer), OK);
    cr_assert_eq(n_merged, 10);
    embedding_cache_close(cache);
    check_cache(merged.folder, 0, 10);
    cr_expect_eq(census_of(merged.folder).n_shards, 1);
}

Test(embeddings, one_process_writes_a_part)
{
    test_folder("embeddings_lock", folder, sizeof folder);
    EmbeddingWriterConfig config = config_of("cache", 1, 1);
    EmbeddingWriter *one, *two;
    cr_assert_eq(embedding_writer_open(&config, &one), OK);
    cr_assert_eq(embedding_writer_open(&config, &two), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "another process writes part 1 of 1"));
    embedding_writer_leave(one);
    cr_assert_eq(embedding_writer_open(&config, &two), OK, "%s", status_message());
    embedding_writer_leave(two);
}

/* ---- damage ---- */

static char *read_shard(const char *path, size_t *n_bytes)
{
    char *content;
    cr_assert_eq(file_read(path, 1 << 20, &content, n_bytes), OK, "%s", status_message());
    return content;
}

/* One sealed shard of three images; its path. */
static const char *write_shard(void)
{
    static char path[500];
    EmbeddingWriterConfig config = config_of("cache", 1, 1);
    config.shard_bytes = 1 << 20;
    cr_assert_eq(write_images(&config, 0, 3), OK, "%s", status_message());
    snprintf(path, sizeof path, "%s/embeddings_1of1_00000.shard", config.folder);
    return path;
}

/* Cut anywhere, a shard holds its whole records, and is gone on with to the same bytes. */
Test(embeddings, a_shard_that_is_cut_anywhere_is_gone_on_with)
{
    test_folder("embeddings_cut", folder, sizeof folder);
    const char *path = write_shard();
    size_t n_bytes, n_again;
    char *content = read_shard(path, &n_bytes);
    EmbeddingWriterConfig config = config_of("cache", 1, 1);
    config.shard_bytes = 1 << 20;
    for (size_t cut = 320; cut < n_bytes; cut += 7) {
        EmbeddingShard shard;
        cr_assert_eq(file_replace(&file_ops_system, path, content, cut), OK);
        cr_assert_eq(embedding_shard_open(path, &shard), OK, "%s", status_message());
        cr_assert_leq(shard.end, (int64_t)cut);
        cr_assert_not(shard.sealed);
        embedding_shard_close(&shard);
        cr_assert_eq(write_images(&config, 0, 3), OK, "%s", status_message());
        char *again = read_shard(path, &n_again);
        cr_assert(n_again == n_bytes && memcmp(again, content, n_bytes) == 0, "cut at %zu", cut);
        free(again);
    }
    cr_assert_eq(truncate(path, 319), 0);
    cr_assert_eq(write_images(&config, 0, 3), E_FORMAT, "no header, no guess");
    free(content);
}

/* No flipped bit gives another embedding: it is noticed when the shard is opened or the record is
 * read, or it is in the index, which is a shortcut. */
Test(embeddings, a_flipped_bit_gives_no_other_embedding)
{
    test_folder("embeddings_flip", folder, sizeof folder);
    const char *path = write_shard();
    size_t n_bytes;
    char *content = read_shard(path, &n_bytes);
    EmbeddingWriterConfig config = config_of("cache", 1, 1);
    int n_noticed = 0;
    for (size_t at = 0; at < n_bytes; at++) {
        EmbeddingCache *cache;
        EmbeddingReader *reader;
        float wanted[VALUES], got[VALUES];
        content[at] ^= 1 << at % 8;
        cr_assert_eq(file_replace(&file_ops_system, path, content, n_bytes), OK);
        content[at] ^= 1 << at % 8;
        if (embedding_cache_open(config.folder, &cache) != OK) {
            n_noticed++;
            continue;
        }
        cr_assert_eq(embedding_reader_create(cache, &reader), OK);
        for (int i = 0; i < 6; i++) {
            make_view((uint64_t)i / 2, i % 2, wanted);
            if (embedding_read(reader, (uint64_t)i / 2, i % 2, got) != OK)
                n_noticed++;
            else
                for (int k = 0; k < VALUES; k++)
                    cr_assert_leq(fabsf(got[k] - wanted[k]), fabsf(wanted[k]) / 2048);
        }
        embedding_reader_destroy(reader);
        embedding_cache_close(cache);
    }
    cr_assert_gt(n_noticed, (int)n_bytes / 2);
    free(content);
}

Test(embeddings, verifying_names_what_is_damaged)
{
    test_folder("embeddings_verify", folder, sizeof folder);
    const char *path = write_shard();
    size_t n_bytes;
    char *content = read_shard(path, &n_bytes);
    EmbeddingWriterConfig config = config_of("cache", 1, 1);
    cr_expect_eq(census_of(config.folder).n_faults, 0);
    content[320 + 32 + 5] ^= 1; /* in the first view */
    cr_assert_eq(file_replace(&file_ops_system, path, content, n_bytes), OK);
    cr_expect_eq(census_of(config.folder).n_faults, 1);
    cr_assert_eq(truncate(path, (off_t)n_bytes - 1), 0);
    EmbeddingCensus census = census_of(config.folder);
    cr_expect(census.n_faults == 1 && census.n_images == 0 && census.n_unsealed == 1,
              "without its index a shard ends at the damage");
    free(content);
}

/* ---- failing system calls ---- */

typedef struct Fault {
    int calls_left; /* fails when it reaches 0 */
} Fault;

static bool strike(Fault *fault)
{
    if (--fault->calls_left != 0) return false;
    errno = ENOSPC;
    return true;
}

static ssize_t faulty_write(void *context, int fd, const void *data, size_t n_bytes)
{
    if (!strike(context)) return write(fd, data, n_bytes > 100 ? 100 : n_bytes);
    if (write(fd, data, n_bytes / 2) < 0) return -1; /* a part, and then no more */
    errno = ENOSPC;
    return -1;
}

static int faulty_fsync(void *context, int fd) { return strike(context) ? -1 : fsync(fd); }

static int faulty_rename(void *context, const char *from, const char *to)
{
    return strike(context) ? -1 : rename(from, to);
}

static int64_t first_shard_bytes(const char *path)
{
    char *shard = file_join(path, "embeddings_1of1_00000.shard");
    int64_t n_bytes;
    cr_assert_eq(file_size(shard, &n_bytes), OK, "%s", status_message());
    free(shard);
    return n_bytes;
}

Test(embeddings, every_failing_system_call_is_survived)
{
    test_folder("embeddings_faults", folder, sizeof folder);
    EmbeddingWriterConfig config = config_of("whole", 1, 1);
    cr_assert_eq(write_images(&config, 0, N_IMAGES), OK);
    EmbeddingCensus whole = census_of(config.folder);
    int64_t whole_bytes = first_shard_bytes(config.folder);
    bool finished = false;
    int n_failed = 0;
    for (int n = 1; !finished; n++) {
        char name[64];
        snprintf(name, sizeof name, "fault_%d", n);
        config = config_of(name, 1, 1);
        Fault fault = {n};
        FileOps ops = {&fault, faulty_write, faulty_fsync, faulty_rename};
        config.ops = &ops;
        finished = write_images(&config, 0, N_IMAGES) == OK;
        if (!finished)
            cr_expect_not_null(strstr(status_message(), "No space left"), "%s", status_message());
        n_failed += !finished;
        config.ops = &file_ops_system;
        cr_assert_eq(write_images(&config, 0, N_IMAGES), OK, "call %d: %s", n, status_message());
        check_cache(config.folder, 0, N_IMAGES);
        EmbeddingCensus census = census_of(config.folder);
        cr_expect_eq(census.n_faults, 0, "call %d", n);
        cr_expect(census.n_bytes == whole.n_bytes &&
                      first_shard_bytes(config.folder) == whole_bytes,
                  "call %d: not the same shards", n);
    }
    cr_assert_gt(n_failed, 30);
}
