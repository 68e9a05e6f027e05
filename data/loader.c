/* The loader's ring of batches and its threads. See loader.h.
 *
 * Must hold, under the mutex:
 *  1. Steps are counted from first_step. The caller holds, or waits for, step `current`; the ring
 *     has room for the steps current .. current + n_ring - 1, step s in place s % n_ring.
 *  2. Images are handed out in order of (step, place in the batch); one that is not yet in the ring
 *     waits.
 *  3. A batch is complete when n_done equals the batch size. Only its threads write into it before
 *     that.
 */
#include "data/loader.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "base/soft_runs.h"
#include "data/prompts.h"
#include "data/sample.h"

typedef struct RingSlot {
    Batch batch;
    void *memory;
    size_t n_bytes;
    int64_t n_done;
    Status status; /* of the first image of the batch that failed */
    int64_t failed_image;
    char message[1024];
} RingSlot;

struct Loader {
    const Source *source;
    LoaderConfig config;
    int64_t first_step;
    RingSlot *ring;
    int64_t n_ring;
    SampleReader **readers; /* one per thread, or one for the caller */
    int n_readers;
    pthread_t *threads;
    int n_started;
    pthread_mutex_t mutex;
    pthread_cond_t has_room, has_batch;
    int64_t current;    /* see 1. */
    bool delivered;     /* step `current` was given to the caller */
    int64_t next_image; /* handed out so far */
    bool stopping;
    double wait_seconds;
    int64_t n_broken; /* samples, in delivered batches */
};

/* ---- One image ---- */

uint64_t loader_position(const LoaderConfig *config, int64_t step, int64_t b)
{
    assert(step >= 0 && b >= 0 && b < config->batch);
    return (uint64_t)((step * config->world_size + config->rank) * config->batch + b);
}

/* The sample that stands in for the one at `place`, after so many others. */
static int64_t replacement(const Loader *loader, SourcePlace place, int attempt)
{
    RngKey key = {loader->config.seed, RNG_REPLACEMENT, place.epoch,
                  source_sample_id(loader->source, place.index)};
    uint64_t n = (uint64_t)source_size(loader->source);
    return (int64_t)rng_below(key, (uint64_t)attempt, n);
}

static void note_fault(const SampleReader *reader, BatchFault *fault)
{
    if (sample_was_empty(reader))
        fault->n_empty++;
    else
        fault->n_broken++;
    snprintf(fault->message, sizeof fault->message, "%s", status_message());
}

static Status read_image(Loader *loader, SampleReader *reader, int64_t number)
{
    enum { MAX_ATTEMPTS = 16 }; /* a storage that is gone must not be tried sample by sample */
    const LoaderConfig *c = &loader->config;
    int64_t step = loader->first_step + number / c->batch, b = number % c->batch;
    SourcePlace place = source_at(loader->source, c->seed, loader_position(c, step, b));
    Batch *batch = &loader->ring[number / c->batch % loader->n_ring].batch;
    int64_t index = place.index;
    batch->fault[b] = (BatchFault){0};
    for (int attempt = 0;; attempt++) {
        Status status = sample_read(reader, loader->source, index, place.epoch, batch, b);
        if (status != E_FILE && status != E_FORMAT) return status;
        note_fault(reader, &batch->fault[b]);
        if (attempt + 1 == MAX_ATTEMPTS) return status;
        index = replacement(loader, place, attempt);
    }
}

/* Keeps the failure of the batch's first failing image, whichever thread met it first. */
static void finish_image(Loader *loader, int64_t number, Status status)
{
    int64_t b = number % loader->config.batch;
    RingSlot *slot = &loader->ring[number / loader->config.batch % loader->n_ring];
    if (status != OK && (slot->status == OK || b < slot->failed_image)) {
        slot->status = status;
        slot->failed_image = b;
        snprintf(slot->message, sizeof slot->message, "%s", status_message());
    }
    slot->n_done++;
}

/* ---- Threads ---- */

/* Waits for an image to read; false when the loader stops. */
static bool take_image(Loader *loader, int64_t *number)
{
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stopping &&
           loader->next_image / loader->config.batch >= loader->current + loader->n_ring)
        pthread_cond_wait(&loader->has_room, &loader->mutex);
    bool go_on = !loader->stopping;
    if (go_on) *number = loader->next_image++;
    pthread_mutex_unlock(&loader->mutex);
    return go_on;
}

typedef struct ThreadStart {
    Loader *loader;
    SampleReader *reader;
} ThreadStart;

static void *read_images(void *argument)
{
    ThreadStart start = *(ThreadStart *)argument;
    free(argument);
    Loader *loader = start.loader;
    for (int64_t number; take_image(loader, &number);) {
        Status status = read_image(loader, start.reader, number);
        pthread_mutex_lock(&loader->mutex);
        finish_image(loader, number, status);
        pthread_cond_signal(&loader->has_batch);
        pthread_mutex_unlock(&loader->mutex);
    }
    return NULL;
}

/* Signals are for the main thread, which knows how to stop a run. */
static Status start_threads(Loader *loader)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status status = OK;
    while (status == OK && loader->n_started < loader->config.n_threads) {
        ThreadStart *start = malloc(sizeof *start);
        if (start != NULL) *start = (ThreadStart){loader, loader->readers[loader->n_started]};
        pthread_t *thread = &loader->threads[loader->n_started];
        if (start != NULL && pthread_create(thread, NULL, read_images, start) == 0) {
            loader->n_started++;
            continue;
        }
        free(start);
        status = status_fail(E_MEMORY, "cannot start data thread %d of %d", loader->n_started + 1,
                             loader->config.n_threads);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* ---- Memory of a batch ---- */

typedef struct Carver { /* hands out parts of a block; with base NULL only counts */
    char *base;
    size_t used;
} Carver;

static void *carve(Carver *carver, int64_t n_elems, size_t elem_bytes)
{
    size_t begin = (carver->used + 63) & ~(size_t)63;
    carver->used = begin + (size_t)n_elems * elem_bytes;
    return carver->base != NULL && n_elems > 0 ? carver->base + begin : NULL;
}

static int64_t embedding_elems(const LoaderConfig *c)
{
    if (c->embeddings == NULL) return 0;
    const EmbeddingInfo *info = embedding_cache_info(c->embeddings);
    return info->grid * info->grid * info->dim;
}

static void carve_batch(Carver *carver, const LoaderConfig *c, Batch *batch)
{
    int64_t n = c->batch, side = c->image_size, teacher = c->teacher_size, masks = n * c->n_masks;
    batch->image = carve(carver, n * side * side * 3, sizeof *batch->image);
    batch->teacher_image = carve(carver, n * teacher * teacher * 3, sizeof *batch->teacher_image);
    batch->embedding = carve(carver, n * embedding_elems(c), sizeof *batch->embedding);
    batch->image_extent = carve(carver, n * 2, sizeof *batch->image_extent);
    batch->coords = carve(carver, masks * c->n_slots * 2, sizeof *batch->coords);
    batch->labels = carve(carver, masks * c->n_slots, sizeof *batch->labels);
    batch->words = carve(carver, c->n_masks > 0 ? n * c->mask_words : 0, sizeof *batch->words);
    batch->rows = carve(carver, masks * (side + 1), sizeof *batch->rows);
    batch->weight = carve(carver, masks, sizeof *batch->weight);
    batch->point_key = carve(carver, masks * 2, sizeof *batch->point_key);
    batch->sample_id = carve(carver, n, sizeof *batch->sample_id);
    batch->epoch = carve(carver, n, sizeof *batch->epoch);
    batch->flipped = carve(carver, n, sizeof *batch->flipped);
    batch->fault = carve(carver, n, sizeof *batch->fault);
    batch->cpu_seconds = carve(carver, n * N_LOADER_STAGES, sizeof *batch->cpu_seconds);
}

static Status allocate_batch(const LoaderConfig *config, RingSlot *slot)
{
    Carver carver = {0};
    carve_batch(&carver, config, &slot->batch);
    size_t n_bytes = (carver.used + 63) & ~(size_t)63;
    slot->memory = aligned_alloc(64, n_bytes);
    slot->n_bytes = n_bytes;
    if (slot->memory == NULL)
        return status_fail(E_MEMORY,
                           "out of memory: %zu bytes for one of %lld batches; lower prefetch",
                           n_bytes, (long long)config->prefetch + 1);
    memset(slot->memory, 0, n_bytes);
    carver = (Carver){.base = slot->memory};
    carve_batch(&carver, config, &slot->batch);
    return OK;
}

/* ---- Creation ---- */

typedef struct Range { /* of one value of the config */
    const char *name;
    int64_t value, min, max;
} Range;

static Status check_ranges(const Range *range, int n)
{
    for (int i = 0; i < n; i++)
        if (range[i].value < range[i].min || range[i].value > range[i].max)
            return status_fail(E_CONFIG, "data: %s is %lld, wanted %lld..%lld", range[i].name,
                               (long long)range[i].value, (long long)range[i].min,
                               (long long)range[i].max);
    return OK;
}

static Status check_config(const LoaderConfig *c)
{
    const Range common[] = {
        {"image_size", c->image_size, 0, SOFT_LENGTH_MASK},
        {"teacher_size", c->teacher_size, c->image_size == 0, SOFT_LENGTH_MASK},
        {"batch", c->batch, 1, 1 << 20},
        {"world_size", c->world_size, 1, 1 << 20},
        {"rank", c->rank, 0, c->world_size - 1},
        {"decode_margin", c->decode_margin, 0, 64},
        {"n_threads", c->n_threads, 0, 1024},
        {"prefetch", c->prefetch, 0, 1 << 20},
        {"n_masks", c->n_masks, 0, 1 << 16},
    };
    const Range prompts[] = {
        {"image_size with masks", c->image_size, 1, SOFT_LENGTH_MASK},
        {"frame", c->frame, 1, 1 << 20},
        {"max_points", c->max_points, 1, PROMPTS_MAX_POINTS},
        {"n_slots", c->n_slots, c->max_points + 1, 1 << 16},
        {"mask_words", c->mask_words, 1, INT32_MAX},
    };
    TRY(check_ranges(common, sizeof common / sizeof common[0]));
    if (!(c->flip >= 0.0 && c->flip <= 1.0))
        return status_fail(E_CONFIG, "data: flip is %g, wanted 0..1", c->flip);
    if (!(c->max_bad_fraction >= 0.0 && c->max_bad_fraction <= 1.0))
        return status_fail(E_CONFIG, "data: max_bad_fraction is %g, wanted 0..1",
                           c->max_bad_fraction);
    if (c->n_masks == 0) return OK;
    if (!(c->box_probability >= 0.0 && c->box_probability <= 1.0))
        return status_fail(E_CONFIG, "data: box_probability is %g, wanted 0..1",
                           c->box_probability);
    if (!(c->box_noise >= 0.0 && c->box_noise <= 1.0))
        return status_fail(E_CONFIG, "data: box_noise is %g, wanted 0..1", c->box_noise);
    return check_ranges(prompts, sizeof prompts / sizeof prompts[0]);
}

static Status allocate(Loader *loader)
{
    const LoaderConfig *c = &loader->config;
    loader->n_readers = c->n_threads > 0 ? c->n_threads : 1;
    loader->n_ring = c->n_threads > 0 ? c->prefetch + 1 : 1;
    loader->readers = calloc((size_t)loader->n_readers, sizeof *loader->readers);
    loader->threads = calloc((size_t)loader->n_readers, sizeof *loader->threads);
    loader->ring = calloc((size_t)loader->n_ring, sizeof *loader->ring);
    if (loader->readers == NULL || loader->threads == NULL || loader->ring == NULL)
        return status_fail(E_MEMORY, "out of memory: loader");
    for (int64_t i = 0; i < loader->n_ring; i++) TRY(allocate_batch(c, &loader->ring[i]));
    for (int i = 0; i < loader->n_readers; i++) TRY(sample_reader_create(c, &loader->readers[i]));
    return OK;
}

Status loader_create(const Source *source, const LoaderConfig *config, int64_t first_step,
                     Loader **out)
{
    assert(first_step >= 0 && source_size(source) > 0);
    assert(config->n_masks == 0 || source_has_masks(source));
    TRY(check_config(config));
    Loader *loader = calloc(1, sizeof *loader);
    if (loader == NULL) return status_fail(E_MEMORY, "out of memory: loader");
    loader->source = source;
    loader->config = *config;
    loader->first_step = first_step;
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->has_room, NULL);
    pthread_cond_init(&loader->has_batch, NULL);
    Status status = allocate(loader);
    if (status == OK) status = start_threads(loader);
    if (status == OK)
        *out = loader;
    else
        loader_destroy(loader);
    return status;
}

static void stop_threads(Loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    loader->stopping = true;
    pthread_cond_broadcast(&loader->has_room);
    pthread_mutex_unlock(&loader->mutex);
    for (int i = 0; i < loader->n_started; i++) pthread_join(loader->threads[i], NULL);
}

void loader_destroy(Loader *loader)
{
    if (loader == NULL) return;
    stop_threads(loader);
    pthread_mutex_destroy(&loader->mutex);
    pthread_cond_destroy(&loader->has_room);
    pthread_cond_destroy(&loader->has_batch);
    for (int i = 0; loader->readers != NULL && i < loader->n_readers; i++)
        sample_reader_destroy(loader->readers[i]);
    for (int64_t i = 0; loader->ring != NULL && i < loader->n_ring; i++)
        free(loader->ring[i].memory);
    free(loader->readers);
    free(loader->threads);
    free(loader->ring);
    free(loader);
}

/* ---- Delivery ---- */

/* Gives the place of a used batch back to the threads. */
static void release_current(Loader *loader)
{
    if (!loader->delivered) return;
    RingSlot *slot = &loader->ring[loader->current % loader->n_ring];
    slot->n_done = 0;
    loader->current++;
    loader->delivered = false;
    pthread_cond_broadcast(&loader->has_room);
}

static void read_batch_here(Loader *loader, const RingSlot *slot)
{
    while (slot->n_done < loader->config.batch) {
        int64_t number = loader->next_image++;
        finish_image(loader, number, read_image(loader, loader->readers[0], number));
    }
}

bool loader_allows_broken(double max_bad_fraction, int64_t n_broken, int64_t n)
{
    return (double)n_broken <= max_bad_fraction * (double)n;
}

/* Counts the broken samples of a batch; too many make it a failed one. A sample that is met in
 * every epoch is no more of the whole in the last one than in the first. */
static void count_broken(Loader *loader, RingSlot *slot)
{
    const LoaderConfig *c = &loader->config;
    const char *message = NULL;
    int64_t n = source_size(loader->source), n_read = (loader->current + 1) * c->batch;
    if (n_read > n) n = n_read;
    for (int64_t b = 0; b < c->batch; b++) {
        loader->n_broken += slot->batch.fault[b].n_broken;
        if (slot->batch.fault[b].n_broken > 0) message = slot->batch.fault[b].message;
    }
    if (message == NULL || loader_allows_broken(c->max_bad_fraction, loader->n_broken, n)) return;
    slot->status = E_FORMAT;
    snprintf(slot->message, sizeof slot->message,
             "%s (broken samples so far: %lld; data.max_bad_fraction = %g allows %lld of %lld)",
             message, (long long)loader->n_broken, c->max_bad_fraction,
             (long long)(c->max_bad_fraction * (double)n), (long long)n);
}

Status loader_next(Loader *loader, const Batch **out)
{
    double begin = clock_seconds();
    pthread_mutex_lock(&loader->mutex);
    release_current(loader);
    RingSlot *slot = &loader->ring[loader->current % loader->n_ring];
    if (loader->config.n_threads == 0) read_batch_here(loader, slot);
    while (slot->n_done < loader->config.batch)
        pthread_cond_wait(&loader->has_batch, &loader->mutex);
    if (slot->status == OK) count_broken(loader, slot);
    loader->delivered = slot->status == OK; /* a failed batch stays, to be reported again */
    slot->batch.step = loader->first_step + loader->current;
    loader->wait_seconds += clock_seconds() - begin;
    pthread_mutex_unlock(&loader->mutex);
    if (slot->status != OK) return status_fail(slot->status, "%s", slot->message);
    *out = &slot->batch;
    return OK;
}

int64_t loader_broken_samples(const Loader *loader) { return loader->n_broken; }

size_t loader_ring_bytes(const Loader *loader)
{
    return (size_t)loader->n_ring * loader->ring[0].n_bytes;
}

double loader_wait_seconds(const Loader *loader) { return loader->wait_seconds; }
