/* The cache of teacher embeddings as a recipe sees it. See embeddings.h. */
#include "train/embeddings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "checkpoints/digest.h"
#include "data/image.h"
#include "data/loader.h"

/* What stands for a teacher: the digest of its weights file, or "random seed N". */
static Status teacher_id(const Options *o, char *id, size_t room)
{
    char sha256[DIGEST_HEX_BYTES];
    if (strcmp(o->teacher_weights, "random") == 0) {
        snprintf(id, room, "random seed %" PRId64, o->seed);
        return OK;
    }
    TRY(file_sha256(o->teacher_weights, sha256));
    snprintf(id, room, "%s", sha256);
    return OK;
}

/* How an image becomes the teacher's input: what of it is chosen, and what the code does. */
static void describe_preprocess(const Options *o, char *text, size_t room)
{
    snprintf(text, room,
             "data.decode_margin=%" PRId64
             "; antialiased bilinear in f32, longer side to the size; "
             "SAM's mean and deviation; zeros right and below",
             o->data_decode_margin);
}

Status embeddings_describe(const Options *options, const Recipe *recipe, DType precision,
                           EmbeddingInfo *out)
{
    const Model *teacher = recipe->teacher;
    *out = (EmbeddingInfo){.image_size = model_image_size(teacher),
                           .grid = model_grid(teacher),
                           .dim = model_embed_dim(teacher),
                           .n_views = options->data_flip > 0 ? 2 : 1,
                           .dtype = (EmbeddingDType)options->teach_dtype,
                           .packed = options->teach_zstd_level > 0};
    snprintf(out->precision, sizeof out->precision, "%s",
             precision == DT_F32    ? "f32"
             : precision == DT_BF16 ? "bf16"
                                    : "fp16");
    describe_preprocess(options, out->preprocess, sizeof out->preprocess);
    return teacher_id(options, out->teacher, sizeof out->teacher);
}

/* ---- for a distillation ---- */

/* What the cache must be for this run. What the run leaves open is taken from the cache: how it is
 * kept, and, where the teacher's files are not given, which teacher. */
static Status wanted_info(const Options *o, const Recipe *recipe, const EmbeddingInfo *found,
                          EmbeddingInfo *wanted)
{
    *wanted = *found;
    wanted->grid = model_grid(recipe->model);
    wanted->dim = model_embed_dim(recipe->model);
    describe_preprocess(o, wanted->preprocess, sizeof wanted->preprocess);
    if (recipe->teacher) wanted->image_size = model_image_size(recipe->teacher);
    if (!recipe->teacher || o->teacher_weights[0] == '\0') return OK;
    return teacher_id(o, wanted->teacher, sizeof wanted->teacher);
}

static Status check_info(const Options *o, const Recipe *recipe, const EmbeddingInfo *found)
{
    EmbeddingInfo wanted;
    char why[512];
    TRY(wanted_info(o, recipe, found, &wanted));
    if (embedding_info_differs(found, &wanted, why, sizeof why))
        return status_fail(E_CONFIG, "teacher.embeddings = %s: %s", o->teacher_embeddings, why);
    if (o->data_flip > 0 && found->n_views < 2)
        return status_fail(E_CONFIG,
                           "teacher.embeddings = %s: only unflipped views are kept; set "
                           "data.flip=0, or run teach with data.flip > 0",
                           o->teacher_embeddings);
    return OK;
}

static Status fail_missing(const Options *o, const Source *source, int64_t n_missing, int64_t first)
{
    char name[ROOT_NAME_BYTES];
    source_image_name(source, first, name);
    return status_fail(E_CONFIG,
                       "teacher.embeddings = %s: no embedding of %" PRId64 " of %" PRId64
                       " images, the first is %.500s; run retort teach on the same data",
                       o->teacher_embeddings, n_missing, source_size(source), name);
}

/* The first sample from `i` on that is not there; the source's size: none is missing. */
static int64_t next_missing(const Source *source, const EmbeddingCache *cache, int64_t i)
{
    while (i < source_size(source) && embedding_cache_has(cache, source_sample_id(source, i))) i++;
    return i;
}

/* Samples that are missing must be broken ones: the loader then comes to replace them. */
static Status check_broken(const Options *o, const Source *source, const EmbeddingCache *cache,
                           int64_t n_missing)
{
    RootReader file = {0};
    ImageReader image = {0};
    Status status = image_reader_open(&image);
    int64_t i = next_missing(source, cache, 0);
    for (; i < source_size(source) && status == OK; i = next_missing(source, cache, i + 1)) {
        Status read = image_read_sample(&image, &file, source, i, 1);
        if (read == OK) status = fail_missing(o, source, n_missing, i);
        if (read != OK && read != E_FILE && read != E_FORMAT) status = read;
    }
    image_reader_close(&image);
    root_reader_free(&file);
    return status;
}

/* Before the first step, not after hours. */
static Status check_images(const Options *o, const Source *source, const EmbeddingCache *cache)
{
    int64_t n = source_size(source), n_missing = 0, first = next_missing(source, cache, 0);
    for (int64_t i = first; i < n; i = next_missing(source, cache, i + 1)) n_missing++;
    if (n_missing == 0) return OK;
    if (!loader_allows_broken(o->data_max_bad_fraction, n_missing, n))
        return fail_missing(o, source, n_missing, first);
    return check_broken(o, source, cache, n_missing);
}

Status embeddings_open(const Options *options, const Recipe *recipe, const Source *source,
                       EmbeddingCache **out)
{
    EmbeddingCache *cache;
    TRY(embedding_cache_open(options->teacher_embeddings, &cache));
    Status status = check_info(options, recipe, embedding_cache_info(cache));
    if (status == OK) status = check_images(options, source, cache);
    if (status == OK)
        *out = cache;
    else
        embedding_cache_close(cache);
    return status;
}
