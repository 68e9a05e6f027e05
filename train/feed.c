/* A batch of the loader to the inputs of a step. See feed.h. Allocates nothing after the first step. */
#include "train/feed.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MAX_SLOTS = 64 };

/* Cells of the embedding that hold image, not padding: a cell counts if any pixel of it is image. */
static Status feed_extent(Step *step, Exec *exec, const Batch *batch)
{
    int64_t size = model_image_size(step->model), grid = model_grid(step->model);
    size_t n = (size_t)step->config.batch * 2;
    int32_t cells[2 * 4096];
    if (n > sizeof cells / sizeof cells[0])
        return status_fail(E_CONFIG, "train.batch = %lld is more than 4096 images per rank",
                           (long long)step->config.batch);
    for (size_t i = 0; i < n; i++) cells[i] = (int32_t)((batch->image_extent[i] * grid + size - 1) / size);
    return exec_write(exec, step->extent, cells);
}

static Status feed_masks(Step *step, Exec *exec, const Batch *batch)
{
    const StepConfig *c = &step->config;
    static const float no_coords[2 * MAX_SLOTS];
    static const int32_t no_key[2];
    static const float no_weight;
    int32_t no_labels[MAX_SLOTS];
    for (int i = 0; i < MAX_SLOTS; i++) no_labels[i] = -2;
    size_t n_rows = (size_t)model_image_size(step->model) + 1;
    TRY(step_feed_masks(step, exec, step->coords, batch->coords, (size_t)c->n_slots * 2 * sizeof(float), no_coords));
    TRY(step_feed_masks(step, exec, step->labels, batch->labels, (size_t)c->n_slots * sizeof(int32_t), no_labels));
    TRY(step_feed_masks(step, exec, step->rows, batch->rows, n_rows * sizeof(int32_t), step->no_rows));
    TRY(step_feed_masks(step, exec, step->weight, batch->weight, sizeof(float), &no_weight));
    if (step->point_key != VALUE_NONE)
        TRY(step_feed_masks(step, exec, step->point_key, batch->point_key, 2 * sizeof(int32_t), no_key));
    return exec_write(exec, step->words, batch->words);
}

Status feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode)
{
    TRY(exec_write(exec, step->image, batch->image));
    if (step->teacher_image != VALUE_NONE) TRY(exec_write(exec, step->teacher_image, batch->teacher_image));
    if (step->extent != VALUE_NONE) TRY(feed_extent(step, exec, batch));
    if (step->coords == VALUE_NONE) return OK;
    TRY(exec_write(exec, step->mode, &mode));
    return feed_masks(step, exec, batch);
}

Status feed_scalar(Exec *exec, ValueId input, double value)
{
    float scalar = (float)value;
    return input == VALUE_NONE ? OK : exec_write(exec, input, &scalar);
}
