/* Gates, clipping, AdamW, EMA and running statistics as nodes of the step. See step_optimizer.h.
 *
 * All of it is predicated on device scalars: `ok` (loss and gradient norm are finite) lets nothing
 * change in a bad step, and a parameter's gate (how many prompts used it) lets nothing change for a
 * parameter that took no part: no decay, no moments, its own step count stays.
 */
#include "train/step_optimizer.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes.h"
#include "base/memory.h"

typedef struct Gates {
    ValueId points, boxes;
} Gates; /* counts (1) */

/* The labels of all prompts of the step, collected where clicks were added to the input's. */
static ValueId all_labels(Step *step)
{
    const StepConfig *c = &step->config;
    ValueId labels = step->labels;
    if (step->prompt_labels != VALUE_NONE)
        labels = graph_gather(step->graph, graph_gather(step->graph, step->prompt_labels));
    return graph_reshape(step->graph, labels,
                         SHAPE(step->n_micro * step->n_chunks * c->micro_batch, c->mask_chunk,
                               c->n_slots + c->click_rounds));
}

/* Counts (2) of prompts by kind over this rank's step, or VALUE_NONE. A click opens the gate of
 * points for all that PyTorch's prompt encoder touches when it is given points, whatever their
 * labels. */
static ValueId count_prompts(Step *step)
{
    if (!step->config.update || step->labels == VALUE_NONE) return VALUE_NONE;
    ValueId labels = all_labels(step);
    ValueId counts = graph_filled(step->graph, DT_F32, SHAPE(2), 0);
    graph_mutate(step->graph, OP_PROMPT_COUNTS, NO_ATTR, REGION_STEP, SRC(labels), 1, &counts);
    return counts;
}

static Gates build_gates(Graph *graph, ValueId counts)
{
    if (counts == VALUE_NONE) return (Gates){VALUE_NONE, VALUE_NONE};
    return (Gates){
        graph_op(graph, OP_SLICE, ATTR(slice, .axis = 0, .start = 0, .length = 1), SRC(counts)),
        graph_op(graph, OP_SLICE, ATTR(slice, .axis = 0, .start = 1, .length = 1), SRC(counts))};
}

static ValueId gate_of(const Gates *gates, const char *name)
{
    switch (model_gate(name)) {
    case GATE_POINTS: return gates->points;
    case GATE_BOXES: return gates->boxes;
    default: return VALUE_NONE;
    }
}

static Status state_value(Step *step, const char *prefix, StoreKind kind, int entry, Shape shape,
                          ParamLayout layout, ValueId *out)
{
    char name[512];
    snprintf(name, sizeof name, "%s.%s", prefix, step->store->entries[entry].name);
    int index;
    TRY(store_declare(step->store, name, kind, layout, DT_F32, shape, &index));
    *out = graph_store_value(step->graph, step->store, index);
    return step->graph->status;
}

static bool decays(const StepConfig *c, const char *name)
{
    for (int i = 0; i < c->n_no_decay; i++)
        if (strstr(name, c->no_decay[i])) return false;
    return true;
}

static double lr_scale(const StepConfig *c, const char *name)
{
    for (int i = 0; i < c->n_lr_scales; i++)
        if (fnmatch(c->lr_scales[i].pattern, name, 0) == 0) return c->lr_scales[i].factor;
    return 1;
}

static Status update_parameter(Step *step, const struct StepGradient *gradient, ValueId scale,
                               ValueId gate)
{
    const StepConfig *c = &step->config;
    StoreEntry entry =
        step->store->entries[gradient->entry]; /* a copy: declaring grows the array */
    ValueId param = graph_store_value(step->graph, step->store, gradient->entry), dst[4] = {param};
    TRY(state_value(step, "exp_avg", STORE_EXP_AVG, gradient->entry, entry.shape, entry.layout,
                    &dst[1]));
    TRY(state_value(step, "exp_avg_sq", STORE_EXP_AVG_SQ, gradient->entry, entry.shape,
                    entry.layout, &dst[2]));
    TRY(state_value(step, "step", STORE_STEP, gradient->entry, SHAPE(1), LAYOUT_PLAIN, &dst[3]));
    OpAttr attr = ATTR(adamw, .beta1 = c->beta1, .beta2 = c->beta2, .eps = c->eps,
                       .weight_decay = decays(c, entry.name) ? c->weight_decay : 0,
                       .lr_scale = lr_scale(c, entry.name), .clip_value = c->clip_value);
    graph_mutate(step->graph, OP_ADAMW, attr, REGION_STEP,
                 SRC(gradient->value, step->lr, step->ok, scale, gate), 4, dst);
    if (c->ema_decay <= 0) return step->graph->status;
    ValueId ema;
    TRY(state_value(step, "ema", STORE_EMA, gradient->entry, entry.shape, entry.layout, &ema));
    graph_mutate(step->graph, OP_EMA, ATTR(ema, .decay = c->ema_decay), REGION_STEP,
                 SRC(param, step->ok), 1, &ema);
    return step->graph->status;
}

/* Everything the optimiser reads, over all ranks: gradients, loss, counts of prompts, and whether a
 * rank was told to stop. */
static void reduce(Step *step, ValueId counts)
{
    Graph *graph = step->graph;
    if (step->config.world_size <= 1) return;
    int n = 0;
    ValueId *values = mem_alloc(((size_t)step->n_gradients + 3) * sizeof *values);
    for (int i = 0; i < step->n_gradients; i++) values[n++] = step->gradients[i].value;
    values[n++] = step->loss;
    if (counts != VALUE_NONE) values[n++] = counts;
    if (step->config.update) {
        step->stop = graph_input(graph, "stop", DT_F32, SHAPE(1));
        step->stopping = graph_filled(graph, DT_F32, SHAPE(1), 0);
        graph_mutate(graph, OP_ACCUM, NO_ATTR, REGION_STEP, SRC(step->stop), 1, &step->stopping);
        graph_output(graph, step->stopping, "stopping");
        values[n++] = step->stopping;
    }
    pass_all_reduce(graph, PASS_BUCKET_BYTES, n, values);
    free(values);
}

Status step_optimizer(Step *step, BuildContext *context)
{
    Graph *graph = step->graph;
    ValueId counts = count_prompts(step);
    reduce(step, counts);
    int mark = graph_label_push(graph, "optimizer");
    ValueId sumsq = graph_filled(graph, DT_F32, SHAPE(1), 0);
    for (int i = 0; i < step->n_gradients; i++)
        graph_mutate(graph, OP_SUMSQ, NO_ATTR, REGION_STEP, SRC(step->gradients[i].value), 1,
                     &sumsq);
    step->ok = graph_op(graph, OP_CLIP, ATTR(clip, .max_norm = step->config.clip_norm),
                        SRC(sumsq, step->loss, step->loss_scale));
    step->norm = graph_dst(graph, step->ok, 1);
    ValueId scale = graph_dst(graph, step->ok, 2);
    graph_output(graph, step->ok, "ok");
    graph_output(graph, step->norm, "grad_norm");
    if (step->config.update) {
        step->lr = graph_input(graph, "lr", DT_F32, SHAPE(1));
        Gates gates = build_gates(graph, counts);
        for (int i = 0; i < step->n_gradients; i++) {
            const char *name = step->store->entries[step->gradients[i].entry].name;
            TRY(update_parameter(step, &step->gradients[i], scale, gate_of(&gates, name)));
        }
    }
    build_bn_updates(context, step->ok);
    graph_label_pop(graph, mark);
    return graph->status;
}
