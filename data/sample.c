/* Builds one sample. See sample.h. */
#include "data/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "data/image.h"
#include "data/mask.h"
#include "data/prompts.h"

struct SampleReader {
    LoaderConfig config;
    RootReader root;
    ImageReader image;
    Annotations annotations;
    bool was_empty; /* the last sample's masks were all left out */
    MaskResampler resampler;
    EmbeddingReader *embeddings; /* NULL: none are read */
    int64_t *choice;             /* (n_masks) annotation of each mask slot */
    double *boxes;               /* (n_masks, 4) prompt frame */
    double stage_start, cpu_seconds[N_LOADER_STAGES]; /* of the sample at hand */
};

typedef struct Draw { /* what identifies the sample's random draws, and the first of them */
    uint32_t epoch;
    uint64_t sample;
    bool flip;
} Draw;

Status sample_reader_create(const LoaderConfig *config, SampleReader **out)
{
    SampleReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) return status_fail(E_MEMORY, "out of memory: sample reader");
    reader->config = *config;
    reader->choice = calloc((size_t)config->n_masks + 1, sizeof *reader->choice);
    reader->boxes = calloc((size_t)config->n_masks + 1, 4 * sizeof *reader->boxes);
    Status status = image_reader_open(&reader->image);
    if (status == OK && (reader->choice == NULL || reader->boxes == NULL))
        status = status_fail(E_MEMORY, "out of memory: sample reader");
    if (status == OK && config->embeddings != NULL)
        status = embedding_reader_create(config->embeddings, &reader->embeddings);
    if (status == OK)
        *out = reader;
    else
        sample_reader_destroy(reader);
    return status;
}

void sample_reader_destroy(SampleReader *reader)
{
    if (reader == NULL) return;
    root_reader_free(&reader->root);
    image_reader_close(&reader->image);
    annotations_free(&reader->annotations);
    mask_resampler_free(&reader->resampler);
    embedding_reader_destroy(reader->embeddings);
    free(reader->choice);
    free(reader->boxes);
    free(reader);
}

static void end_stage(SampleReader *reader, LoaderStage stage)
{
    double now = clock_cpu_seconds();
    reader->cpu_seconds[stage] += now - reader->stage_start;
    reader->stage_start = now;
}

static Status decode_image(SampleReader *reader, const Source *source, int64_t index)
{
    const LoaderConfig *c = &reader->config;
    int64_t larger = c->image_size > c->teacher_size ? c->image_size : c->teacher_size;
    TRY(source_read_image(source, index, &reader->root));
    end_stage(reader, LOADER_READ);
    Status status = image_decode(&reader->image, reader->root.name, reader->root.bytes,
                                 reader->root.n_bytes, c->decode_margin * larger);
    end_stage(reader, LOADER_DECODE);
    return status;
}

static Status write_images(SampleReader *reader, bool flip, Batch *batch, int64_t b)
{
    const LoaderConfig *c = &reader->config;
    ImageSize extent = {0};
    if (c->teacher_size > 0) {
        float *dst = batch->teacher_image + b * c->teacher_size * c->teacher_size * 3;
        TRY(image_to_train_tensor(&reader->image, c->teacher_size, flip, dst, &extent));
    }
    if (c->image_size > 0) {
        float *dst = batch->image + b * c->image_size * c->image_size * 3;
        TRY(image_to_train_tensor(&reader->image, c->image_size, flip, dst, &extent));
    }
    batch->image_extent[2 * b] = (int32_t)extent.height;
    batch->image_extent[2 * b + 1] = (int32_t)extent.width;
    return OK;
}

static Status read_embedding(SampleReader *reader, const Draw *draw, Batch *batch, int64_t b)
{
    const EmbeddingInfo *info = embedding_cache_info(reader->config.embeddings);
    return embedding_read(reader->embeddings, draw->sample, draw->flip,
                          batch->embedding + b * info->grid * info->grid * info->dim);
}

static Status read_annotations(SampleReader *reader, const Source *source, int64_t index)
{
    ImageSize size = image_full_size(&reader->image);
    Annotations *annotations = &reader->annotations;
    TRY(source_read_masks(source, index, &reader->root, annotations));
    char name[ROOT_NAME_BYTES];
    source_image_name(source, index, name);
    reader->was_empty = annotations->n_items == 0;
    if (reader->was_empty)
        return status_fail(E_FORMAT, "%.700s: the filters leave none of its masks", name);
    if (annotations->height == size.height && annotations->width == size.width) return OK;
    return status_fail(E_FORMAT,
                       "%.700s: masks of %lld x %lld px (height x width), but the image has %lld x "
                       "%lld",
                       name, (long long)annotations->height, (long long)annotations->width,
                       (long long)size.height, (long long)size.width);
}

/* An annotation that fills several slots is resampled once; its slots share the words. */
static const int32_t *rows_of_twin(const SampleReader *reader, const int32_t *rows, int64_t m)
{
    for (int64_t i = 0; i < m; i++)
        if (reader->choice[i] == reader->choice[m])
            return rows + i * (reader->config.image_size + 1);
    return NULL;
}

static Status resample_masks(SampleReader *reader, int64_t n, uint32_t *words, int32_t *rows)
{
    int64_t side = reader->config.image_size, used = 0;
    for (int64_t m = 0; m < reader->config.n_masks; m++) {
        int32_t *mask_rows = rows + m * (side + 1);
        const int32_t *twin = m < n ? rows_of_twin(reader, rows, m) : NULL;
        if (twin != NULL) {
            memcpy(mask_rows, twin, (size_t)(side + 1) * sizeof *rows);
        } else if (m < n) {
            const Rle *mask = &reader->annotations.items[reader->choice[m]].mask;
            TRY(mask_to_soft_runs(&reader->resampler, mask, side, words, &used,
                                  reader->config.mask_words, mask_rows));
        } else {
            for (int64_t y = 0; y <= side; y++) mask_rows[y] = (int32_t)used;
        }
    }
    return OK;
}

/* Keys of the loss's random points and the weights of the slots. */
static void write_slots(const LoaderConfig *c, const Draw *draw, int64_t n, Batch *batch, int64_t b)
{
    RngKey key = {c->seed, RNG_LOSS_POINTS, draw->epoch, draw->sample};
    double weight = 1.0 / ((double)n * (double)c->batch * c->world_size);
    for (int64_t m = 0; m < c->n_masks; m++) {
        uint64_t bits = rng_u64(key, (uint64_t)m);
        int32_t *point_key = batch->point_key + (b * c->n_masks + m) * 2;
        memcpy(point_key, &bits, sizeof bits);
        batch->weight[b * c->n_masks + m] = m < n ? (float)weight : 0.0f;
    }
}

static Status write_masks(SampleReader *reader, const Draw *draw, Batch *batch, int64_t b)
{
    const LoaderConfig *c = &reader->config;
    ImageSize full = image_full_size(&reader->image), extent = resize_fit(full, c->image_size);
    int64_t n = prompts_choose_masks(c, draw->epoch, draw->sample, reader->annotations.n_items,
                                     reader->choice);
    uint32_t *words = batch->words + b * c->mask_words;
    int32_t *rows = batch->rows + b * c->n_masks * (c->image_size + 1);
    TRY(mask_resampler_prepare(&reader->resampler, full, extent, draw->flip));
    TRY(resample_masks(reader, n, words, rows));
    end_stage(reader, LOADER_MASKS);
    for (int64_t m = 0; m < n; m++) {
        double *box = reader->boxes + 4 * m;
        const Annotation *annotation = &reader->annotations.items[reader->choice[m]];
        prompts_box(c, annotation->bbox, full, extent, draw->flip, box);
        prompts_shake_box(c, draw->epoch, draw->sample, m, extent, box);
    }
    PromptMasks masks = {.n = n, .words = words, .rows = rows, .boxes = reader->boxes};
    prompts_draw(c, draw->epoch, draw->sample, &masks,
                 batch->coords + b * c->n_masks * c->n_slots * 2,
                 batch->labels + b * c->n_masks * c->n_slots);
    write_slots(c, draw, n, batch, b);
    end_stage(reader, LOADER_PROMPTS);
    return OK;
}

static Status make_sample(SampleReader *reader, const Source *source, int64_t index,
                          const Draw *draw, Batch *batch, int64_t b)
{
    TRY(decode_image(reader, source, index));
    if (reader->config.n_masks > 0) TRY(read_annotations(reader, source, index));
    end_stage(reader, LOADER_JSON);
    TRY(write_images(reader, draw->flip, batch, b));
    end_stage(reader, LOADER_RESIZE);
    if (reader->embeddings != NULL) TRY(read_embedding(reader, draw, batch, b));
    end_stage(reader, LOADER_EMBEDDING);
    return reader->config.n_masks > 0 ? write_masks(reader, draw, batch, b) : OK;
}

bool sample_was_empty(const SampleReader *reader) { return reader->was_empty; }

Status sample_read(SampleReader *reader, const Source *source, int64_t index, uint32_t epoch,
                   Batch *batch, int64_t b)
{
    Draw draw = {.epoch = epoch, .sample = source_sample_id(source, index)};
    reader->was_empty = false;
    RngKey key = {reader->config.seed, RNG_FLIP, draw.epoch, draw.sample};
    draw.flip = rng_uniform(key, 0) < reader->config.flip;
    memset(reader->cpu_seconds, 0, sizeof reader->cpu_seconds);
    reader->stage_start = clock_cpu_seconds();
    batch->sample_id[b] = draw.sample;
    batch->epoch[b] = draw.epoch;
    batch->flipped[b] = draw.flip;
    Status status = make_sample(reader, source, index, &draw, batch, b);
    memcpy(batch->cpu_seconds + b * N_LOADER_STAGES, reader->cpu_seconds,
           sizeof reader->cpu_seconds);
    if (status != E_CONFIG) return status;
    char message[256], name[ROOT_NAME_BYTES]; /* too few words: says for which file */
    snprintf(message, sizeof message, "%s", status_message());
    source_image_name(source, index, name);
    return status_fail(E_CONFIG, "%.700s: %s", name, message);
}
