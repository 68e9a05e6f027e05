/* A batch of the loader to the inputs of a step. See feed.h. Allocates nothing after the first
 * step. */
#include "train/feed.h"

/* Cells of the embedding that hold image, not padding: a cell counts if any pixel of it is image.
 */
static Status feed_extent(Step *step, Exec *exec, const Batch *batch)
{
    int64_t size = model_image_size(step->model), grid = model_grid(step->model);
    size_t n = (size_t)step->config.batch * 2;
    int32_t cells[2 * 4096];
    if (n > sizeof cells / sizeof cells[0])
        return status_fail(E_CONFIG, "train.batch = %lld is more than 4096 images per rank",
                           (long long)step->config.batch);
    for (size_t i = 0; i < n; i++)
        cells[i] = (int32_t)((batch->image_extent[i] * grid + size - 1) / size);
    return exec_write(exec, step->extent, cells);
}

Status feed_mask_tensors(Step *step, Exec *exec, const MaskTensors *t)
{
    const StepConfig *c = &step->config;
    size_t n_slots = (size_t)c->n_slots, side = (size_t)model_image_size(step->model);
    size_t lowres = (size_t)model_lowres(step->model), n_points = (size_t)c->n_points;
    struct {
        ValueId input;
        const void *host;
        size_t bytes;
        bool labels;
    } inputs[] = {
        {step->coords, t->coords, n_slots * 2 * sizeof(float), false},
        {step->labels, t->labels, n_slots * sizeof(int32_t), true},
        {step->mask_input, t->mask_input, lowres * lowres * sizeof(float), false},
        {step->rows, t->rows, (side + 1) * sizeof(int32_t), false},
        {step->weight, t->weight, sizeof(float), false},
        {step->point_key, t->point_key, 2 * sizeof(int32_t), false},
        {step->loss_points, t->loss_points, 8 * n_points * sizeof(float), false},
    };
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        if (inputs[i].input == VALUE_NONE) continue;
        const void *empty = inputs[i].labels ? (const void *)step->no_labels : step->no_bytes;
        TRY(step_feed_masks(step, exec, inputs[i].input, inputs[i].host, inputs[i].bytes, empty));
    }
    return OK;
}

Status feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode)
{
    TRY(exec_write(exec, step->image, batch->image));
    if (step->teacher_image != VALUE_NONE)
        TRY(exec_write(exec, step->teacher_image, batch->teacher_image));
    if (step->extent != VALUE_NONE) TRY(feed_extent(step, exec, batch));
    if (step->coords == VALUE_NONE) return OK;
    MaskTensors tensors = {.coords = batch->coords,
                           .labels = batch->labels,
                           .rows = batch->rows,
                           .weight = batch->weight,
                           .point_key = batch->point_key};
    TRY(feed_mask_tensors(step, exec, &tensors));
    TRY(exec_write(exec, step->mode, &mode));
    return exec_write(exec, step->words, batch->words);
}

Status feed_scalar(Exec *exec, ValueId input, double value)
{
    float scalar = (float)value;
    return input == VALUE_NONE ? OK : exec_write(exec, input, &scalar);
}
