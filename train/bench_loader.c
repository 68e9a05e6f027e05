/* The loader alone: how long a batch takes, and what is in it. See bench.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* cpu_seconds: (repeat * batch, N_LOADER_STAGES) */
static Status time_batches(Loader *loader, BenchResult *result, double *cpu_seconds,
                           const Batch **last)
{
    int64_t n = result->batch * N_LOADER_STAGES;
    TRY(loader_next(loader, last)); /* warm: files, pages */
    for (int64_t i = 0; i < result->repeat; i++) {
        double start = clock_seconds();
        TRY(loader_next(loader, last));
        result->seconds[i] = clock_seconds() - start;
        memcpy(cpu_seconds + i * n, (*last)->cpu_seconds, (size_t)n * sizeof *cpu_seconds);
    }
    return OK;
}

/* ---- where the time goes ---- */

/* One line: median and minimum over the samples of a stage, or of all of them together. */
static void print_stage(const char *text, const double *cpu_seconds, int64_t n, int first, int end)
{
    double *sums = mem_alloc((size_t)n * sizeof *sums);
    for (int64_t i = 0; i < n; i++)
        for (int s = first; s < end; s++) sums[i] += cpu_seconds[i * N_LOADER_STAGES + s];
    printf("  %-42s %8.2f %8.2f\n", text, 1e3 * bench_ranked(sums, n, n / 2),
           1e3 * bench_ranked(sums, n, 0));
    free(sums);
}

static void print_stages(const double *cpu_seconds, int64_t n)
{
#define STAGE_TEXT(name, text) text,
    static const char *const texts[] = {LOADER_STAGES(STAGE_TEXT)};
#undef STAGE_TEXT
    printf("  %-42s %8s %8s\n", "ms of one core per sample", "median", "minimum");
    for (int s = 0; s < N_LOADER_STAGES; s++) print_stage(texts[s], cpu_seconds, n, s, s + 1);
    print_stage("in all", cpu_seconds, n, 0, N_LOADER_STAGES);
}

/* What the readers keep of the largest sample, and what they were made of. */
static void print_memory(const Loader *loader, const BenchResult *result)
{
    double ring = (double)loader_ring_bytes(loader), grown = (double)result->measured_bytes;
    int n_workers = result->n_threads > 0 ? result->n_threads : 1;
    printf("  memory: %.1f MiB of batches, %.1f MiB per worker\n", ring / (1 << 20),
           (grown - ring) / n_workers / (1 << 20));
}

static Status measure(Loader *loader, BenchResult *result, int64_t before, const Batch **last)
{
    int64_t n = result->repeat * result->batch;
    double *cpu_seconds = mem_alloc((size_t)(n * N_LOADER_STAGES) * sizeof *cpu_seconds);
    Status status = time_batches(loader, result, cpu_seconds, last);
    result->measured_bytes = bench_resident_bytes("VmHWM") - before;
    if (status == OK) print_stages(cpu_seconds, n);
    if (status == OK) print_memory(loader, result);
    free(cpu_seconds);
    return status;
}

static Status run(const LoaderConfig *config, const Source *source, const char *out,
                  BenchResult *result)
{
    Loader *loader;
    const Batch *batch;
    int64_t before = bench_resident_bytes("VmRSS");
    TRY(loader_create(source, config, 0, &loader));
    Status status = measure(loader, result, before, &batch);
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
