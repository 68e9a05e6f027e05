/* The loader alone: how long a batch takes, and what is in it. See bench.h. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/soft_runs.h"
#include "checkpoints/safetensors.h"
#include "train/bench.h"
#include "train/recipe.h"

/* The soft runs of a batch as plain masks (B,M,S,S), to be freed. */
static float *expand_masks(const LoaderConfig *c, const Batch *batch)
{
    int64_t size = c->image_size, n = c->n_masks;
    float *masks = mem_alloc((size_t)(c->batch * n * size * size) * sizeof *masks);
    for (int64_t at = 0; at < c->batch * n; at++) {
        const uint32_t *words = batch->words + at / n * c->mask_words;
        const int32_t *rows = batch->rows + at * (size + 1);
        for (int64_t y = 0; y < size; y++)
            soft_runs_expand_row(words + rows[y], words + rows[y + 1],
                                 masks + (at * size + y) * size, size);
    }
    return masks;
}

static Status write_batch(const LoaderConfig *c, const Batch *batch, const char *path)
{
    int64_t size = c->image_size;
    float *masks = expand_masks(c, batch);
    NamedTensor tensors[] = {
        {"image", {DT_F32, SHAPE(c->batch, size, size, 3), batch->image}},
        {"masks", {DT_F32, SHAPE(c->batch, c->n_masks, size, size), masks}},
        {"coords", {DT_F32, SHAPE(c->batch, c->n_masks, c->n_slots, 2), batch->coords}},
        {"labels", {DT_I32, SHAPE(c->batch, c->n_masks, c->n_slots), batch->labels}},
    };
    Status status = safetensors_write(path, 4, tensors, 0, NULL);
    free(masks);
    return status;
}

static Status time_batches(Loader *loader, BenchResult *result, const Batch **last)
{
    TRY(loader_next(loader, last)); /* warm: files, pages */
    for (int64_t i = 0; i < result->repeat; i++) {
        double start = clock_seconds();
        TRY(loader_next(loader, last));
        result->seconds[i] = clock_seconds() - start;
    }
    return OK;
}

static Status run(const LoaderConfig *config, const Source *source, const char *out,
                  BenchResult *result)
{
    Loader *loader;
    const Batch *batch;
    int64_t before = bench_resident_bytes("VmRSS");
    TRY(loader_create(source, config, 0, &loader));
    Status status = time_batches(loader, result, &batch);
    result->measured_bytes = bench_resident_bytes("VmHWM") - before;
    if (status == OK && out) status = write_batch(config, batch, out);
    loader_destroy(loader);
    return status;
}

Status bench_loader(const Options *options, const char *out, BenchResult *result)
{
    Recipe recipe;
    Source *source = NULL;
    TRY(recipe_open(options, &recipe));
    LoaderConfig config = recipe_loader_config(&recipe, options, STEP_FINETUNE);
    result->model = "no model";
    result->precision = dtype_name(DT_F32);
    result->batch = config.batch;
    result->n_masks = config.n_masks;
    result->n_threads = config.n_threads;
    Status status = recipe_open_source(options, true, NULL, &source);
    if (status == OK) status = run(&config, source, out, result);
    source_close(source);
    recipe_close(&recipe);
    return status;
}
