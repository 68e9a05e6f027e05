/* Builds the graph of a training step. See step.h for its shape. */
#include "train/step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes.h"
#include "base/memory.h"
#include "train/step_optimizer.h"
#include "train/step_parts.h"

/* ---- encoder and teacher ---- */

ValueId step_input(Step *step, const char *name, DType dtype, int n_outer, const int64_t *outer,
                   int n_inner, const int64_t *inner)
{
    Shape shape = {.rank = n_outer + n_inner};
    assert(shape.rank <= SHAPE_MAX_RANK);
    memcpy(shape.dim, outer, (size_t)n_outer * sizeof *outer);
    if (n_inner > 0) memcpy(shape.dim + n_outer, inner, (size_t)n_inner * sizeof *inner);
    return graph_input(step->graph, name, dtype, shape);
}

/* An input with one part per micro-batch, and its slice in the micro-batch region. */
static ValueId micro_input(Step *step, RegionId micro, const char *name, DType dtype, int n,
                           const int64_t *dims, ValueId *input)
{
    *input = step_input(step, name, dtype, 1, &step->n_micro, n, dims);
    return graph_slice(step->graph, micro, *input);
}

static ValueId build_teacher(Step *step, RegionId micro)
{
    const StepConfig *c = &step->config;
    Graph *graph = step->graph;
    int64_t size = model_image_size(c->teacher), n_parts = c->micro_batch / c->teacher_micro;
    int64_t dims[] = {n_parts, c->teacher_micro, size, size, 3};
    ValueId images = micro_input(step, micro, "teacher_image", DT_F32, 5, dims,
                                 &step->teacher_image);
    RegionId part = graph_region_open(graph, micro, n_parts, "teacher");
    BuildContext context = {
        .graph = graph, .store = c->teacher_store, .bn = BN_FOLDED, .low = c->precision};
    /* No label of its own: labels name parameters, and the teacher's are called as in its weights.
     * Its modules are not remembered: act.PATH of a trace is the student's. */
    int n_modules = graph->n_modules, n_entries = c->teacher_store->n_entries;
    ValueId embedding = build_image_encoder(&context, c->teacher, graph_slice(graph, part, images));
    graph->n_modules = n_modules;
    assert(graph->status != OK || c->teacher_store->n_entries == n_entries);
    ValueId all = graph_gather(graph, embedding);
    graph_region_close(graph, part);
    int64_t grid = model_grid(c->teacher);
    return graph_reshape(graph, all,
                         SHAPE(c->micro_batch, grid, grid, model_embed_dim(c->teacher)));
}

static ValueId build_encoder(Step *step, BuildContext *context, RegionId micro)
{
    int64_t size = model_image_size(step->model);
    int64_t dims[] = {step->config.micro_batch, size, size, 3};
    ValueId image = micro_input(step, micro, "image", DT_F32, 4, dims, &step->image);
    return build_image_encoder(context, step->model, image);
}

static ValueId build_given_embedding(Step *step, RegionId micro)
{
    int64_t grid = model_grid(step->model);
    int64_t dims[] = {step->config.micro_batch, grid, grid, model_embed_dim(step->model)};
    return micro_input(step, micro, "given_embedding", DT_F32, 4, dims, &step->given_embedding);
}

static int64_t n_ranks(const StepConfig *c) { return c->world_size > 1 ? c->world_size : 1; }

/* A rank alone has the statistics of all with its own. */
static BnMode bn_mode(const StepConfig *c)
{
    return c->bn == BN_SYNC && n_ranks(c) == 1 ? BN_TRAIN : c->bn;
}

/* Divided by the whole batch, so that the sum over micro-batches and ranks is its mean. The masks'
 * losses are so by their weights (data/loader.h). */
static ValueId build_distill_loss(Step *step, RegionId micro, ValueId embedding)
{
    const StepConfig *c = &step->config;
    int64_t grid = model_grid(step->model);
    int64_t dims[] = {c->micro_batch, grid, grid, model_embed_dim(step->model)};
    ValueId target = c->teacher
                         ? build_teacher(step, micro)
                         : micro_input(step, micro, "target", DT_F32, 4, dims, &step->target);
    ValueId keep = VALUE_NONE;
    if (c->keep_extent) {
        int64_t extent[] = {c->micro_batch, 2};
        keep = micro_input(step, micro, "extent", DT_I32, 2, extent, &step->extent);
    }
    int mark = graph_label_push(step->graph, "loss");
    ValueId loss = graph_op(step->graph, OP_MSE,
                            ATTR(mse, .scale = 1.0 / (double)(step->n_micro * n_ranks(c))),
                            SRC(embedding, target, keep));
    graph_label_pop(step->graph, mark);
    return loss;
}

/* ---- the whole ---- */

static Status check_config(const StepConfig *c)
{
    if (c->micro_batch < 1 || c->batch % c->micro_batch != 0)
        return status_fail(E_CONFIG,
                           "train.batch = %lld is not a multiple of train.micro_batch = %lld",
                           (long long)c->batch, (long long)c->micro_batch);
    if (c->teacher && c->micro_batch % c->teacher_micro != 0)
        return status_fail(
            E_CONFIG, "train.micro_batch = %lld is not a multiple of teacher.micro_batch = %lld",
            (long long)c->micro_batch, (long long)c->teacher_micro);
    return OK;
}

static bool same_embedding(const Model *a, const Model *b)
{
    return model_grid(a) == model_grid(b) && model_embed_dim(a) == model_embed_dim(b);
}

static Status build_forward(Step *step, BuildContext *context, int64_t words_per_image)
{
    const StepConfig *c = &step->config;
    Graph *graph = step->graph;
    if (c->teacher && !same_embedding(c->teacher, step->model))
        return status_fail(E_SHAPE,
                           "teacher %s gives an embedding of %lldx%lldx%lld, student %s one of "
                           "%lldx%lldx%lld; they must be equal",
                           model_name(c->teacher), (long long)model_embed_dim(c->teacher),
                           (long long)model_grid(c->teacher), (long long)model_grid(c->teacher),
                           model_name(step->model), (long long)model_embed_dim(step->model),
                           (long long)model_grid(step->model), (long long)model_grid(step->model));
    RegionId micro = graph_region_open(graph, REGION_STEP, step->n_micro, "micro-batch");
    ValueId embedding = c->given_embedding ? build_given_embedding(step, micro)
                                           : build_encoder(step, context, micro);
    ValueId loss = VALUE_NONE;
    step->embedding = embedding;
    if (c->kind == STEP_DISTILL) loss = build_distill_loss(step, micro, embedding);
    if (c->kind == STEP_DECODE || c->kind == STEP_FINETUNE)
        loss = step_masks(step, context, micro, embedding, words_per_image);
    if (loss != VALUE_NONE) step->loss = graph_accumulate(graph, loss);
    graph_region_close(graph, micro);
    return graph->status;
}

static void differentiate(Step *step)
{
    Store *store = step->store;
    int n = 0;
    ValueId *wanted = mem_alloc((size_t)store->n_entries * sizeof *wanted);
    ValueId *gradient = mem_alloc((size_t)store->n_entries * sizeof *gradient);
    step->gradients = mem_alloc((size_t)store->n_entries * sizeof *step->gradients);
    int *entry = mem_alloc((size_t)store->n_entries * sizeof *entry);
    for (int i = 0; i < store->n_entries; i++) {
        if (store->entries[i].kind != STORE_PARAMETER || !store->entries[i].trainable) continue;
        entry[n] = i;
        wanted[n++] = graph_store_value(step->graph, store, i);
    }
    ValueId seed = step->config.precision == DT_F16 ? step->loss_scale : VALUE_NONE;
    pass_differentiate(step->graph, step->loss, seed, n, wanted, gradient);
    pass_accumulate_early(step->graph);
    for (int i = 0; i < n; i++)
        if (gradient[i] != VALUE_NONE)
            step->gradients[step->n_gradients++] = (struct StepGradient){entry[i], gradient[i]};
    free(entry);
    free(wanted);
    free(gradient);
}

/* What feeds a slot beyond the last mask; as large as the largest per-mask input. */
static void make_empty_slot(Step *step)
{
    size_t side = (size_t)model_image_size(step->model), lowres = (size_t)model_lowres(step->model);
    size_t most = side + 1 > lowres * lowres ? side + 1 : lowres * lowres;
    size_t points = 8 * (size_t)step->config.n_points, slots = 2 * (size_t)step->config.n_slots;
    if (points > most) most = points;
    if (slots > most) most = slots;
    step->no_bytes = mem_alloc(most * sizeof(float));
    step->no_labels = mem_alloc((size_t)step->config.n_slots * sizeof(int32_t));
    for (int64_t i = 0; i < step->config.n_slots; i++) step->no_labels[i] = -2;
}

Status step_build(const StepConfig *config, const Model *model, Store *store,
                  int64_t words_per_image, Step **out)
{
    TRY(check_config(config));
    Step *step = mem_alloc(sizeof *step);
    step->config = *config;
    step->model = model;
    step->store = store;
    step->graph = graph_create();
    make_empty_slot(step);
    step->n_micro = config->batch / config->micro_batch;
    step->n_chunks = config->mask_chunk > 0
                         ? (config->n_masks + config->mask_chunk - 1) / config->mask_chunk
                         : 1;
    BuildContext context = {.graph = step->graph,
                            .store = store,
                            .bn = bn_mode(config),
                            .n_ranks = n_ranks(config),
                            .low = config->precision};
    Status status = OK;
    TRY_GOTO(build_forward(step, &context, words_per_image), failed);
    pass_fuse(step->graph);
    if (step->loss != VALUE_NONE) {
        step->loss_scale = graph_input(step->graph, "loss_scale", DT_F32, SHAPE(1));
        graph_output(step->graph, step->loss, "loss");
        differentiate(step);
        TRY_GOTO(step_optimizer(step, &context), failed);
    }
    TRY_GOTO(step->graph->status, failed);
    *out = step;
    return OK;
failed:
    step_destroy(step);
    return status;
}

Status step_finish(Step *step)
{
    pass_cast(step->graph, step->config.precision);
    pass_recompute(step->graph, step->config.n_recompute, step->config.recompute);
    pass_prune(step->graph);
    return step->graph->status;
}

void step_destroy(Step *step)
{
    if (!step) return;
    graph_destroy(step->graph);
    free(step->gradients);
    free(step->staging);
    free(step->no_labels);
    free(step->no_bytes);
    free(step);
}

/* ---- per-mask tensors ---- */

void step_watch_masks(Step *step)
{
    ValueId *results[] = {&step->lowres, &step->iou, &step->terms, &step->candidates, &step->best};
    const char *names[] = {"lowres", "iou", "terms", "candidates", "best"};
    for (int i = 0; i < 5; i++) {
        if (*results[i] == VALUE_NONE) continue;
        ValueId of_micro = graph_gather(step->graph, *results[i]);
        *results[i] = graph_gather(step->graph, of_micro);
        graph_output(step->graph, *results[i], names[i]);
    }
}

/* Calls move(place in the chunked tensor, mask or -1 for a slot beyond the last) for every slot. */
typedef struct MaskCopy {
    char *chunked, *plain;
    const void *empty;
    size_t bytes;
    bool to_chunked;
} MaskCopy;

static void copy_slot(const MaskCopy *copy, int64_t place, int64_t plain)
{
    char *chunked = copy->chunked + (size_t)place * copy->bytes;
    if (!copy->to_chunked) {
        if (plain >= 0) memcpy(copy->plain + (size_t)plain * copy->bytes, chunked, copy->bytes);
    } else if (plain >= 0) {
        memcpy(chunked, copy->plain + (size_t)plain * copy->bytes, copy->bytes);
    } else {
        memcpy(chunked, copy->empty, copy->bytes);
    }
}

static void copy_masks(const Step *step, const MaskCopy *copy)
{
    const StepConfig *c = &step->config;
    int64_t place = 0;
    for (int64_t micro = 0; micro < step->n_micro; micro++)
        for (int64_t chunk = 0; chunk < step->n_chunks; chunk++)
            for (int64_t n = 0; n < c->micro_batch; n++)
                for (int64_t m = 0; m < c->mask_chunk; m++, place++) {
                    int64_t image = micro * c->micro_batch + n, mask = chunk * c->mask_chunk + m;
                    copy_slot(copy, place, mask < c->n_masks ? image * c->n_masks + mask : -1);
                }
}

static size_t chunked_bytes(const Step *step, size_t bytes_per_mask)
{
    return (size_t)(step->config.batch * step->n_chunks * step->config.mask_chunk) * bytes_per_mask;
}

static char *staging(Step *step, size_t bytes_per_mask)
{
    size_t bytes = chunked_bytes(step, bytes_per_mask);
    if (bytes > step->staging_bytes) {
        free(step->staging);
        step->staging = mem_alloc(bytes);
        step->staging_bytes = bytes;
    }
    return step->staging;
}

Status step_feed_masks(Step *step, Exec *exec, ValueId input, const void *host,
                       size_t bytes_per_mask, const void *empty)
{
    MaskCopy copy = {.chunked = staging(step, bytes_per_mask),
                     .plain = (char *)host,
                     .empty = empty,
                     .bytes = bytes_per_mask,
                     .to_chunked = true};
    copy_masks(step, &copy);
    return exec_write(exec, input, copy.chunked);
}

Status step_read_masks(Step *step, Exec *exec, ValueId value, void *host, size_t bytes_per_mask)
{
    MaskCopy copy = {
        .chunked = staging(step, bytes_per_mask), .plain = host, .bytes = bytes_per_mask};
    TRY(exec_read(exec, value, copy.chunked));
    copy_masks(step, &copy);
    return OK;
}
