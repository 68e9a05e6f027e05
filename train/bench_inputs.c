/* Made-up inputs of a step. See bench.h. */
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/soft_runs.h"
#include "train/bench.h"
#include "train/feed.h"

static float *random_floats(int64_t n, uint64_t sample)
{
    RngKey key = {.purpose = RNG_TEST, .sample = sample};
    float *values = mem_alloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = (float)(4 * rng_uniform(key, (uint64_t)i) - 2);
    return values;
}

static Status feed_random(Exec *exec, const Graph *graph, ValueId input, uint64_t sample)
{
    if (input == VALUE_NONE) return OK;
    float *values = random_floats(shape_elems(graph_value(graph, input)->shape), sample);
    Status status = exec_write(exec, input, values);
    free(values);
    return status;
}

/* Rectangles of a quarter to three quarters of the side, and their boxes as prompts. */
typedef struct Masks {
    float *coords, *weight;
    int32_t *labels, *rows, *keys;
    uint32_t *words;
} Masks;

static void make_mask(Masks *m, const StepConfig *c, int64_t size, int64_t frame, int64_t image,
                      int64_t mask, int64_t *used)
{
    RngKey key = {.purpose = RNG_TEST, .sample = (uint64_t)(image * c->n_masks + mask)};
    int64_t at = image * c->n_masks + mask,
            side = size / 4 + (int64_t)rng_below(key, 0, (uint64_t)(size / 2));
    int64_t x = (int64_t)rng_below(key, 1, (uint64_t)(size - side)),
            y = (int64_t)rng_below(key, 2, (uint64_t)(size - side));
    double scale = (double)frame / (double)size;
    double corners[4] = {(double)x, (double)y, (double)(x + side), (double)(y + side)};
    for (int64_t p = 0; p < c->n_slots; p++)
        m->labels[at * c->n_slots + p] = p < 2 ? 2 + (int32_t)p : -2;
    for (int i = 0; i < 4; i++) m->coords[at * c->n_slots * 2 + i] = (float)(corners[i] * scale);
    for (int64_t row = 0; row <= size; row++) {
        m->rows[at * (size + 1) + row] = (int32_t)*used;
        if (row < y || row >= y + side) continue;
        uint32_t *words = m->words + image * c->n_masks * size * 2 + *used;
        words[0] = SOFT_ZEROS | (uint32_t)x;
        words[1] = SOFT_ONES | (uint32_t)side;
        *used += 2;
    }
    m->weight[at] = 1.0f / (float)(c->batch * c->n_masks);
}

static Masks make_masks(const StepConfig *c, int64_t size, int64_t frame)
{
    size_t n = (size_t)(c->batch * c->n_masks);
    Masks m = {.coords = mem_alloc(n * (size_t)c->n_slots * 2 * sizeof(float)),
               .weight = mem_alloc(n * sizeof(float)),
               .labels = mem_alloc(n * (size_t)c->n_slots * sizeof(int32_t)),
               .rows = mem_alloc(n * (size_t)(size + 1) * sizeof(int32_t)),
               .keys = mem_alloc(n * 2 * sizeof(int32_t)),
               .words = mem_alloc(n * (size_t)size * 2 * sizeof(uint32_t))};
    for (int64_t image = 0; image < c->batch; image++) {
        int64_t used = 0;
        for (int64_t mask = 0; mask < c->n_masks; mask++)
            make_mask(&m, c, size, frame, image, mask, &used);
    }
    return m;
}

static void free_masks(Masks *m)
{
    void *owned[] = {m->coords, m->weight, m->labels, m->rows, m->keys, m->words};
    for (int i = 0; i < 6; i++) free(owned[i]);
}

static Status feed_masks(Step *step, Exec *exec, const Masks *m)
{
    MaskTensors tensors = {.coords = m->coords,
                           .labels = m->labels,
                           .rows = m->rows,
                           .weight = m->weight,
                           .point_key = m->keys};
    TRY(feed_mask_tensors(step, exec, &tensors));
    return step->words == VALUE_NONE ? OK : exec_write(exec, step->words, m->words);
}

Status bench_feed_made_up(Step *step, Exec *exec, const Options *options)
{
    const Graph *graph = step->graph;
    TRY(feed_random(exec, graph, step->image, 1));
    TRY(feed_random(exec, graph, step->teacher_image, 2));
    TRY(feed_random(exec, graph, step->target, 3));
    TRY(feed_scalar(exec, step->lr, options->optim_lr));
    TRY(feed_scalar(exec, step->loss_scale, 1));
    if (step->extent != VALUE_NONE)
        return status_fail(E_CONFIG, "bench takes loss.unpadded_only=false");
    if (step->coords == VALUE_NONE) return OK;
    int32_t mode = options->train_mode != OPT_MODE_SINGLE;
    Masks masks = make_masks(&step->config, model_image_size(step->model),
                             model_frame(step->model));
    Status status = step->mode == VALUE_NONE ? OK : exec_write(exec, step->mode, &mode);
    if (status == OK) status = feed_masks(step, exec, &masks);
    free_masks(&masks);
    return status;
}
