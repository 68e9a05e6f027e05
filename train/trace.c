/* `retort trace`: a few exact steps on given weights and inputs, everything under PyTorch's names
 * and order. How anyone compares Retort with PyTorch, and how the known answers are checked.
 *
 *   retort trace CONFIG --weights=F --inputs=F --steps=N --save=GLOB[,GLOB..] --out=F [--key=value
 * ..]
 *
 * Results are of step 0, except `param.NAME` and `buffer.NAME` (after N steps) and `loss` (N).
 */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/commands.h"
#include "train/feed.h"
#include "train/recipe.h"
#include "train/trace_inputs.h"
#include "train/weights.h"

static const char usage[] = "retort trace CONFIG --weights=F --inputs=F [--steps=N] "
                            "--save=GLOB[,GLOB..] --out=F [--key=value ..]";

typedef struct TraceArgs {
    const char *config, *weights, *inputs, *out;
    int64_t steps;
    int n_save;
    char **save; /* globs, owned */
    Args overrides;
} TraceArgs;

typedef struct Trace {
    const TraceArgs *args;
    Options options;
    Recipe recipe;
    TraceInputs inputs;
    Step *step;
    Exec *exec;
    NamedTensor *results; /* names and data owned */
    int n_results, capacity;
} Trace;

static bool is_wanted(const Trace *trace, const char *name)
{
    for (int i = 0; i < trace->args->n_save; i++)
        if (fnmatch(trace->args->save[i], name, 0) == 0) return true;
    return false;
}

/* ---- building ---- */

/* Marks what --save names among gradients and module outputs, so that the planner keeps it. */
static void mark_outputs(Trace *trace)
{
    Step *step = trace->step;
    char name[600];
    for (int i = 0; i < step->n_gradients; i++) {
        snprintf(name, sizeof name, "grad.%s", step->store->entries[step->gradients[i].entry].name);
        if (is_wanted(trace, name)) graph_output(step->graph, step->gradients[i].value, name);
    }
    for (int i = 0; i < step->graph->n_modules; i++) {
        snprintf(name, sizeof name, "act.%s", step->graph->modules[i].path);
        if (is_wanted(trace, name)) graph_output(step->graph, step->graph->modules[i].value, name);
    }
    if (is_wanted(trace, "embedding")) graph_output(step->graph, step->embedding, "embedding");
    step_watch_masks(step);
}

static Status build(Trace *trace)
{
    Recipe *recipe = &trace->recipe;
    TraceInputs *in = &trace->inputs;
    StepConfig config;
    recipe_step_config(recipe, &trace->options, in->kind, &config);
    config.kind = in->kind;
    config.bn = in->bn;
    config.batch = config.micro_batch = in->batch;
    config.n_masks = in->n_masks;
    config.n_slots = in->n_slots;
    config.mask_input = in->mask_input != NULL;
    config.teacher = NULL; /* the target is an input */
    config.keep_extent = false;
    if (config.mask_chunk <= 0 || config.mask_chunk > in->n_masks) config.mask_chunk = in->n_masks;
    if (in->n_points > 0) {
        config.given_points = true;
        config.n_points = in->n_points;
    }
    TRY(step_build(&config, recipe->model, recipe->store, in->words_per_image, &trace->step));
    mark_outputs(trace);
    TRY(step_finish(trace->step));
    TRY(store_allocate(recipe->store));
    char report[512];
    TRY(weights_load(recipe->store, trace->args->weights, trace->options.init_allow.n,
                     (const char *const *)trace->options.init_allow.items, report, sizeof report));
    fprintf(stderr, "%s\n", report);
    return exec_create(trace->step->graph, recipe->backend, &trace->exec);
}

/* ---- results ---- */

/* Room for a result; its data, to be filled. */
static void *add_result(Trace *trace, const char *name, DType dtype, Shape shape)
{
    trace->results = mem_grow(trace->results, &trace->capacity, trace->n_results + 1,
                              sizeof(NamedTensor));
    NamedTensor *result = &trace->results[trace->n_results++];
    result->name = mem_string(name);
    result->tensor = (Tensor){.dtype = dtype, .shape = shape};
    result->tensor.data = mem_alloc(tensor_bytes(&result->tensor));
    return result->tensor.data;
}

static void channels_first(float *dst, const float *src, Shape s)
{
    int64_t pixels = s.dim[1] * s.dim[2], channels = s.dim[3];
    for (int64_t n = 0; n < s.dim[0]; n++)
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c++)
                dst[(n * channels + c) * pixels + p] = src[(n * pixels + p) * channels + c];
}

/* A value as f32, in the order it lies; to be freed. */
static Status read_f32(Trace *trace, ValueId value, float **out)
{
    int64_t n = shape_elems(graph_value(trace->step->graph, value)->shape);
    *out = mem_alloc((size_t)n * sizeof(float));
    return exec_read_f32(trace->exec, value, *out);
}

static Status save_value(Trace *trace, const char *name, ValueId value, bool maps)
{
    Shape shape = graph_value(trace->step->graph, value)->shape;
    float *values;
    TRY(read_f32(trace, value, &values));
    if (maps && shape.rank == 4) {
        Shape torch = SHAPE(shape.dim[0], shape.dim[3], shape.dim[1], shape.dim[2]);
        channels_first(add_result(trace, name, DT_F32, torch), values, shape);
    } else {
        memcpy(add_result(trace, name, DT_F32, shape), values,
               (size_t)shape_elems(shape) * sizeof(float));
    }
    free(values);
    return OK;
}

static Status save_gradients(Trace *trace)
{
    Step *step = trace->step;
    char name[600];
    for (int i = 0; i < step->n_gradients; i++) {
        const StoreEntry *entry = &step->store->entries[step->gradients[i].entry];
        snprintf(name, sizeof name, "grad.%s", entry->name);
        if (!is_wanted(trace, name)) continue;
        float *values;
        TRY(read_f32(trace, step->gradients[i].value, &values));
        store_to_torch(entry, values, add_result(trace, name, DT_F32, entry->shape), sizeof(float));
        free(values);
    }
    return OK;
}

static Status save_modules(Trace *trace)
{
    const Graph *graph = trace->step->graph;
    char name[600];
    for (int i = 0; i < graph->n_modules; i++) {
        snprintf(name, sizeof name, "act.%s", graph->modules[i].path);
        if (is_wanted(trace, name))
            TRY(save_value(trace, name, graph->modules[i].value, graph->modules[i].channels_first));
    }
    return is_wanted(trace, "embedding")
               ? save_value(trace, "embedding", trace->step->embedding, true)
               : OK;
}

/* Candidates [first, first+n) of a per-mask result (B,M,4,inner) as (B,M,n,inner dims). */
static Status save_candidates(Trace *trace, const char *name, ValueId value, int inner_from,
                              int64_t pick)
{
    if (value == VALUE_NONE || !is_wanted(trace, name)) return OK;
    const TraceInputs *in = &trace->inputs;
    Shape gathered = graph_value(trace->step->graph, value)->shape; /* (micro,chunks,n,m,4,..) */
    int64_t n_masks = in->batch * in->n_masks, inner = 1;
    for (int i = inner_from; i < gathered.rank; i++) inner *= gathered.dim[i];
    float *all = mem_alloc((size_t)(n_masks * 4 * inner) * sizeof *all);
    Status status = step_read_masks(trace->step, trace->exec, value, all,
                                    (size_t)(4 * inner) * sizeof(float));
    int64_t first = in->multi ? 1 : 0, n = in->multi ? 3 : 1;
    Shape shape = SHAPE(in->batch, in->n_masks, n);
    if (pick < 0) /* the inner dims as they are; else one element of them */
        for (int i = inner_from; i < gathered.rank; i++) shape.dim[shape.rank++] = gathered.dim[i];
    float *dst = add_result(trace, name, DT_F32, shape);
    for (int64_t mask = 0; mask < n_masks; mask++)
        for (int64_t c = 0; c < n; c++) {
            const float *src = all + (mask * 4 + first + c) * inner;
            if (pick >= 0)
                *dst++ = src[pick];
            else
                dst = (float *)memcpy(dst, src, (size_t)inner * sizeof(float)) + inner;
        }
    free(all);
    return status;
}

static Status save_masks(Trace *trace)
{
    const Step *step = trace->step;
    const char *first_term = step->config.loss == LOSS_FOCAL ? "focal" : "bce";
    TRY(save_candidates(trace, "lowres", step->lowres, 5, -1));
    TRY(save_candidates(trace, "iou", step->iou, 5, -1));
    TRY(save_candidates(trace, first_term, step->terms, 5, 0));
    TRY(save_candidates(trace, "dice", step->terms, 5, 1));
    return save_candidates(trace, "candidates", step->candidates, 5, -1);
}

static Status save_entries(Trace *trace)
{
    const Store *store = trace->recipe.store;
    char name[600];
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (entry->kind != STORE_PARAMETER && entry->kind != STORE_BUFFER) continue;
        snprintf(name, sizeof name, "%s.%s", entry->kind == STORE_PARAMETER ? "param" : "buffer",
                 entry->name);
        if (!is_wanted(trace, name)) continue;
        Tensor host = {.dtype = entry->dtype, .shape = entry->shape};
        host.data = add_result(trace, name, entry->dtype, entry->shape);
        TRY(store_get(store, i, &host));
    }
    return OK;
}

/* ---- running ---- */

static Status run_steps(Trace *trace)
{
    const Options *o = &trace->options;
    bool has_loss = trace->step->loss != VALUE_NONE;
    int64_t n_steps = has_loss ? trace->args->steps : 1;
    float *losses = has_loss && is_wanted(trace, "loss")
                        ? add_result(trace, "loss", DT_F32, SHAPE(n_steps))
                        : NULL;
    for (int64_t s = 0; s < n_steps; s++) {
        TRY(trace_inputs_feed(&trace->inputs, trace->step, trace->exec));
        TRY(feed_scalar(trace->exec, trace->step->loss_scale, 1));
        TRY(feed_scalar(trace->exec, trace->step->lr, recipe_lr(o, 1, s)));
        TRY(exec_run(trace->exec));
        float loss = 0;
        if (has_loss) TRY(exec_read(trace->exec, trace->step->loss, &loss));
        if (has_loss) fprintf(stderr, "step %lld loss %.9g\n", (long long)s, loss);
        if (losses) losses[s] = loss;
        if (s == 0) {
            TRY(save_gradients(trace));
            TRY(save_modules(trace));
            TRY(save_masks(trace));
        }
    }
    return save_entries(trace);
}

static Status run_trace(Trace *trace)
{
    const TraceArgs *args = trace->args;
    TRY(options_load(args->config, args->overrides.n, args->overrides.words, &trace->options));
    TRY(recipe_open(&trace->options, &trace->recipe));
    TRY(trace_inputs_read(args->inputs, trace->recipe.model, &trace->inputs));
    TRY(build(trace));
    TRY(run_steps(trace));
    MetaPair meta[] = {{"format", "pt"}};
    return safetensors_write(args->out, trace->n_results, trace->results, 1, meta);
}

static Status parse_args(Args *args, TraceArgs *out)
{
    const char *globs;
    out->config = args_positional(args);
    if (!out->config) return status_fail(E_CONFIG, "name a config; usage: %s", usage);
    TRY(args_need(args, "weights", usage, &out->weights));
    TRY(args_need(args, "inputs", usage, &out->inputs));
    TRY(args_need(args, "save", usage, &globs));
    TRY(args_need(args, "out", usage, &out->out));
    TRY(args_int(args, "steps", 1, 1, 1000000, &out->steps));
    char *copy = mem_string(globs), *rest = copy;
    out->save = mem_alloc((strlen(globs) + 1) * sizeof(char *));
    for (char *glob; (glob = strsep(&rest, ","));) out->save[out->n_save++] = mem_string(glob);
    free(copy);
    out->overrides = *args;
    return OK;
}

static void free_trace(Trace *trace)
{
    exec_destroy(trace->exec);
    step_destroy(trace->step);
    trace_inputs_free(&trace->inputs);
    recipe_close(&trace->recipe);
    options_free(&trace->options);
    for (int i = 0; i < trace->n_results; i++) {
        free((char *)trace->results[i].name);
        free(trace->results[i].tensor.data);
    }
    free(trace->results);
}

Status command_trace(Args *args)
{
    TraceArgs parsed = {0};
    Trace trace = {.args = &parsed};
    Status status = parse_args(args, &parsed);
    if (status == OK) status = run_trace(&trace);
    free_trace(&trace);
    for (int i = 0; i < parsed.n_save; i++) free(parsed.save[i]);
    free(parsed.save);
    return status;
}
