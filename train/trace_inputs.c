/* Reading and arranging the inputs of `retort trace`. See trace_inputs.h. */
#include "train/trace_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/soft_runs.h"
#include "train/feed.h"

typedef struct Reader {
    const SafeTensors *file;
    const Model *model;
    TraceInputs *in;
} Reader;

/* ---- tensors by name ---- */

static Status check_shape(const Reader *r, const char *name, const Tensor *tensor, Shape wanted)
{
    if (shape_equal(tensor->shape, wanted)) return OK;
    char got[96], want[96];
    return status_fail(E_SHAPE, "%s: tensor %s: got shape %s, wanted %s", r->file->path, name,
                       shape_format(tensor->shape, got, sizeof got),
                       shape_format(wanted, want, sizeof want));
}

static double integer_at(const Tensor *tensor, int64_t i)
{
    switch (tensor->dtype) {
    case DT_U8: return ((const uint8_t *)tensor->data)[i];
    case DT_I32: return ((const int32_t *)tensor->data)[i];
    default: return (double)((const int64_t *)tensor->data)[i];
    }
}

/* A tensor of any numeric dtype as floats; NULL tensor gives NULL. */
static float *as_floats(const Tensor *tensor)
{
    int64_t n = shape_elems(tensor->shape);
    float *values = mem_alloc((size_t)n * sizeof *values);
    if (dtype_is_float(tensor->dtype))
        tensor_convert(values, DT_F32, tensor->data, tensor->dtype, n);
    else
        for (int64_t i = 0; i < n; i++) values[i] = (float)integer_at(tensor, i);
    return values;
}

static Status read_floats(const Reader *r, const char *name, Shape wanted, float **out)
{
    const Tensor *tensor = safetensors_find(r->file, name);
    if (!tensor) return status_fail(E_CONFIG, "%s: tensor %s is missing", r->file->path, name);
    TRY(check_shape(r, name, tensor, wanted));
    *out = as_floats(tensor);
    return OK;
}

static int64_t dim_of(const Reader *r, const char *name, int axis)
{
    const Tensor *tensor = safetensors_find(r->file, name);
    return tensor && axis < tensor->shape.rank ? tensor->shape.dim[axis] : 0;
}

/* (B,C,H,W) -> (B,H,W,C), replacing the array. */
static void to_channels_last(float **values, int64_t n, int64_t channels, int64_t pixels)
{
    float *moved = mem_alloc((size_t)(n * channels * pixels) * sizeof *moved);
    for (int64_t b = 0; b < n; b++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < pixels; p++)
                moved[(b * pixels + p) * channels + c] = (*values)[(b * channels + c) * pixels + p];
    free(*values);
    *values = moved;
}

static Status read_maps(const Reader *r)
{
    TraceInputs *in = r->in;
    int64_t size = model_image_size(r->model), grid = model_grid(r->model),
            dim = model_embed_dim(r->model);
    TRY(read_floats(r, "image", SHAPE(in->batch, 3, size, size), &in->image));
    to_channels_last(&in->image, in->batch, 3, size * size);
    if (in->kind != STEP_DISTILL) return OK;
    TRY(read_floats(r, "target", SHAPE(in->batch, dim, grid, grid), &in->target));
    to_channels_last(&in->target, in->batch, dim, grid * grid);
    return OK;
}

/* ---- prompts ---- */

typedef struct RawPrompts { /* any may be NULL */
    float *boxes, *points, *labels;
    int64_t n_points;
} RawPrompts;

static bool is_box(const float *box)
{
    bool finite = isfinite(box[0]) && isfinite(box[1]) && isfinite(box[2]) && isfinite(box[3]);
    return finite && !(box[0] == box[1] && box[0] == box[2] && box[0] == box[3]);
}

static void put_slot(TraceInputs *in, int64_t mask, int64_t *slot, float x, float y, int32_t label)
{
    int64_t at = mask * in->n_slots + (*slot)++;
    in->coords[2 * at] = x;
    in->coords[2 * at + 1] = y;
    in->labels[at] = label;
}

static void arrange_mask(TraceInputs *in, const RawPrompts *raw, int64_t mask)
{
    int64_t slot = 0;
    bool any_point = false, any_corner = false;
    for (int64_t p = 0; p < raw->n_points; p++) {
        int64_t at = mask * raw->n_points + p;
        int32_t label = (int32_t)raw->labels[at];
        if (label == -2) continue;
        put_slot(in, mask, &slot, raw->points[2 * at], raw->points[2 * at + 1], label);
        any_point = true;
        any_corner |= label >= 2;
    }
    bool box = raw->boxes && is_box(&raw->boxes[4 * mask]);
    if (any_point && !box && !any_corner) put_slot(in, mask, &slot, 0, 0, -1);
    if (box) {
        put_slot(in, mask, &slot, raw->boxes[4 * mask], raw->boxes[4 * mask + 1], 2);
        put_slot(in, mask, &slot, raw->boxes[4 * mask + 2], raw->boxes[4 * mask + 3], 3);
    }
    while (slot < in->n_slots) put_slot(in, mask, &slot, 0, 0, -2);
}

static Status read_raw_prompts(const Reader *r, RawPrompts *raw)
{
    TraceInputs *in = r->in;
    raw->n_points = dim_of(r, "points", 2);
    if (safetensors_find(r->file, "boxes"))
        TRY(read_floats(r, "boxes", SHAPE(in->batch, in->n_masks, 4), &raw->boxes));
    if (raw->n_points > 0) {
        TRY(read_floats(r, "points", SHAPE(in->batch, in->n_masks, raw->n_points, 2),
                        &raw->points));
        TRY(read_floats(r, "labels", SHAPE(in->batch, in->n_masks, raw->n_points), &raw->labels));
    }
    return OK;
}

static Status read_prompts(const Reader *r)
{
    TraceInputs *in = r->in;
    RawPrompts raw = {0};
    Status status = OK;
    TRY_GOTO(read_raw_prompts(r, &raw), done);
    in->n_slots = (raw.n_points > 0 ? raw.n_points + 1 : 0) + (raw.boxes ? 2 : 0);
    if (in->n_slots == 0) in->n_slots = 1; /* a mask prompt alone: one empty slot */
    int64_t n = in->batch * in->n_masks;
    in->coords = mem_alloc((size_t)(n * in->n_slots * 2) * sizeof(float));
    in->labels = mem_alloc((size_t)(n * in->n_slots) * sizeof(int32_t));
    for (int64_t mask = 0; mask < n; mask++) arrange_mask(in, &raw, mask);
    if (safetensors_find(r->file, "mask_input")) {
        int64_t side = model_lowres(r->model);
        bool has_channel = safetensors_find(r->file, "mask_input")->shape.rank == 5;
        Shape shape = has_channel ? SHAPE(in->batch, in->n_masks, 1, side, side)
                                  : SHAPE(in->batch, in->n_masks, side, side);
        TRY_GOTO(read_floats(r, "mask_input", shape, &in->mask_input), done);
    }
done:
    free(raw.boxes);
    free(raw.points);
    free(raw.labels);
    return status;
}

/* ---- targets ---- */

/* Soft runs of the M masks of one image; rows are offsets into `words`. returns words used */
static int64_t encode_image(const float *masks, int64_t n_masks, int64_t size, uint32_t *words,
                            int64_t capacity, int32_t *rows)
{
    int64_t used = 0;
    for (int64_t m = 0; m < n_masks; m++) {
        for (int64_t y = 0; y < size; y++) {
            rows[m * (size + 1) + y] = (int32_t)used;
            used += soft_runs_encode_row(masks + (m * size + y) * size, size, words + used,
                                         capacity - used);
        }
        rows[m * (size + 1) + size] = (int32_t)used;
    }
    return used;
}

static Status read_masks(const Reader *r)
{
    TraceInputs *in = r->in;
    int64_t size = model_image_size(r->model), n = in->n_masks;
    float *masks = NULL;
    TRY(read_floats(r, "masks", SHAPE(in->batch, n, size, size), &masks));
    in->words_per_image = n * size * (size + (size + 1) / 2) +
                          1; /* the most that rows of any content can take */
    uint32_t *widest = mem_alloc((size_t)(in->batch * in->words_per_image) * sizeof *widest);
    in->rows = mem_alloc((size_t)(in->batch * n * (size + 1)) * sizeof *in->rows);
    int64_t most = 1;
    for (int64_t b = 0; b < in->batch; b++) {
        int64_t used = encode_image(masks + b * n * size * size, n, size,
                                    widest + b * in->words_per_image, in->words_per_image,
                                    in->rows + b * n * (size + 1));
        if (used > most) most = used;
    }
    in->words = mem_alloc((size_t)(in->batch * most) * sizeof *in->words);
    for (int64_t b = 0; b < in->batch; b++)
        memcpy(in->words + b * most, widest + b * in->words_per_image,
               (size_t)most * sizeof *in->words);
    in->words_per_image = most;
    in->weight = mem_alloc((size_t)(in->batch * n) * sizeof(float));
    in->point_key = mem_alloc((size_t)(in->batch * n * 2) * sizeof *in->point_key);
    for (int64_t i = 0; i < in->batch * n; i++) {
        in->weight[i] = 1.0f / (float)(in->batch * n);
        in->point_key[2 * i] = (int32_t)i;
    }
    free(widest);
    free(masks);
    return OK;
}

/* Candidate slots of the engine: 0 is the single-mask token, 1..3 are the others. */
static Status read_loss_points(const Reader *r)
{
    TraceInputs *in = r->in;
    int64_t n_candidates = in->multi ? 3 : 1, first = in->multi ? 1 : 0;
    in->n_points = dim_of(r, "loss_points", 3);
    if (in->n_points == 0) return OK;
    float *given = NULL;
    TRY(read_floats(r, "loss_points", SHAPE(in->batch, in->n_masks, n_candidates, in->n_points, 2),
                    &given));
    int64_t n = in->batch * in->n_masks, row = in->n_points * 2;
    in->loss_points = mem_alloc((size_t)(n * 4 * row) * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        memcpy(in->loss_points + (i * 4 + first) * row, given + i * n_candidates * row,
               (size_t)(n_candidates * row) * sizeof(float));
    free(given);
    return OK;
}

/* ---- the whole ---- */

static void read_kind(const Reader *r)
{
    const SafeTensors *file = r->file;
    TraceInputs *in = r->in;
    const char *prompts[] = {"boxes", "points", "mask_input"};
    in->kind = STEP_ENCODE;
    for (int i = 0; i < 3 && in->n_masks == 0; i++) {
        in->n_masks = dim_of(r, prompts[i], 1);
        if (in->n_masks > 0) in->kind = STEP_DECODE;
    }
    if (safetensors_find(file, "target")) in->kind = STEP_DISTILL;
    if (safetensors_find(file, "masks")) in->kind = STEP_FINETUNE;
    bool has_loss = in->kind == STEP_DISTILL || in->kind == STEP_FINETUNE;
    in->bn = has_loss && !safetensors_find(file, "eval") ? BN_TRAIN : BN_EVAL;
    if (safetensors_find(file, "train")) in->bn = BN_TRAIN;
    const Tensor *multi = safetensors_find(file, "multi");
    in->multi = true;
    if (multi && shape_elems(multi->shape) > 0) {
        float *value = as_floats(multi);
        in->multi = value[0] != 0;
        free(value);
    }
}

static Status read_all(const Reader *r)
{
    r->in->batch = dim_of(r, "image", 0);
    read_kind(r);
    TRY(read_maps(r));
    if (r->in->kind == STEP_DECODE || r->in->kind == STEP_FINETUNE) TRY(read_prompts(r));
    if (r->in->kind != STEP_FINETUNE) return OK;
    TRY(read_masks(r));
    return read_loss_points(r);
}

Status trace_inputs_read(const char *path, const Model *model, TraceInputs *out)
{
    SafeTensors *file = NULL;
    TRY(safetensors_open(path, &file));
    *out = (TraceInputs){0};
    Reader reader = {.file = file, .model = model, .in = out};
    Status status = read_all(&reader);
    if (status != OK) trace_inputs_free(out);
    safetensors_close(file);
    return status;
}

void trace_inputs_free(TraceInputs *inputs)
{
    void *owned[] = {inputs->image,      inputs->target,      inputs->coords, inputs->labels,
                     inputs->mask_input, inputs->loss_points, inputs->weight, inputs->words,
                     inputs->rows,       inputs->point_key};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) free(owned[i]);
    *inputs = (TraceInputs){0};
}

Status trace_inputs_feed(const TraceInputs *in, Step *step, Exec *exec)
{
    TRY(exec_write(exec, step->image, in->image));
    if (step->target != VALUE_NONE) TRY(exec_write(exec, step->target, in->target));
    if (step->coords == VALUE_NONE) return OK;
    MaskTensors tensors = {.coords = in->coords,
                           .labels = in->labels,
                           .mask_input = in->mask_input,
                           .rows = in->rows,
                           .weight = in->weight,
                           .point_key = in->point_key,
                           .loss_points = in->loss_points};
    TRY(feed_mask_tensors(step, exec, &tensors));
    if (step->words == VALUE_NONE) return OK;
    int32_t mode = in->multi;
    TRY(exec_write(exec, step->words, in->words));
    return exec_write(exec, step->mode, &mode);
}
