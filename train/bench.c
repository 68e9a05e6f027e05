/* `retort bench`: times of training steps, forward passes and the loader.
 *
 *   retort bench encoder|decoder|distill|finetune|loader CONFIG [--repeat=N] [--inputs=F]
 *                [--json=F] [--trace=F] [--out=F] [--peak=GFLOPS] [--key=value ..]
 *
 * The step is the one that trains (train/step.h), on made-up inputs or those of a file as `retort
 * trace` takes it, from init.weights or initial weights. Prints the minimum and median over the
 * repeats, images per second, GFLOP/s (2 x multiply-adds of matrix products, convolutions and
 * attention; a convolution by Winograd is counted as a direct one) and the share of --peak, or of
 * what one large matrix product reaches here; the memory that the plan says, and by how much the
 * process really grew over it. --json writes the same, with every repeat's time and loss, that of
 * the run that warms up first.
 * --run.profile=true adds one profiled run; --trace also writes it as a trace for Chrome or
 * Perfetto. --out is for the loader, its last batch, and for the encoder, `embedding` (N,h,w,C).
 */
#include "train/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "checkpoints/safetensors.h"
#include "data/json_writer.h"
#include "train/account.h"
#include "train/budget.h"
#include "train/commands.h"
#include "train/feed.h"
#include "train/profile.h"
#include "train/recipe.h"
#include "train/trace_inputs.h"

static const char usage[] = "retort bench encoder|decoder|distill|finetune|loader CONFIG "
                            "[--repeat=N] [--inputs=F] [--json=F] [--trace=F] [--out=F] "
                            "[--peak=GFLOPS] [--key=value ..]";

typedef struct Bench {
    StepKind kind;
    bool is_loader;
    const char *config, *inputs_path, *json, *trace, *out; /* NULL: not given, but for config */
    TraceInputs inputs;                                    /* of inputs_path */
    Options options;
    Recipe recipe;
    Step *step;
    Exec *exec;
    BenchResult result;
    int64_t resident_before; /* bytes, when nothing of the plan was allocated */
} Bench;

/* ---- results ---- */

int64_t bench_resident_bytes(const char *key)
{
    char line[128];
    long long kib = 0;
    size_t n = strlen(key);
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return 0;
    while (fgets(line, sizeof line, status))
        if (strncmp(line, key, n) == 0 && sscanf(line + n, ": %lld", &kib) == 1) break;
    fclose(status);
    return kib * 1024;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_ranked(const double *values, int64_t n, int64_t rank)
{
    size_t bytes = (size_t)n * sizeof(double);
    double *sorted = mem_alloc(bytes);
    memcpy(sorted, values, bytes);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double value = sorted[rank];
    free(sorted);
    return value;
}

double bench_median(const BenchResult *result)
{
    return bench_ranked(result->seconds, result->repeat, result->repeat / 2);
}

double bench_minimum(const BenchResult *result)
{
    return bench_ranked(result->seconds, result->repeat, 0);
}

Status bench_write(const BenchResult *r, const char *path)
{
    JsonWriter *json = json_writer_create();
    json_writer_object(json, NULL);
    json_writer_text(json, "work", r->work);
    json_writer_text(json, "model", r->model);
    json_writer_text(json, "precision", r->precision);
    json_writer_integer(json, "batch", r->batch);
    json_writer_integer(json, "masks", r->n_masks);
    json_writer_integer(json, "threads", r->n_threads);
    json_writer_integer(json, "planned_bytes", r->planned_bytes);
    json_writer_integer(json, "measured_bytes", r->measured_bytes);
    json_writer_number(json, "macs", r->macs);
    json_writer_number(json, "peak_gflops", r->peak_gflops);
    json_writer_list(json, "seconds");
    for (int64_t i = 0; i < r->repeat; i++) json_writer_number(json, NULL, r->seconds[i]);
    json_writer_end(json);
    json_writer_list(json, "losses");
    for (int64_t i = 0; r->losses && i <= r->repeat; i++)
        json_writer_number(json, NULL, r->losses[i]);
    json_writer_end(json);
    json_writer_end(json);
    return json_writer_commit(json, path);
}

/* ---- building ---- */

/* The file's batch and prompts take the place of the recipe's. */
static Status read_inputs(Bench *bench, StepConfig *config, int64_t *words_per_image)
{
    TraceInputs *in = &bench->inputs;
    TRY(trace_inputs_read(bench->inputs_path, bench->recipe.model, in));
    if (in->kind != config->kind)
        return status_fail(E_CONFIG, "%s: what it holds is not for %s; usage: %s",
                           bench->inputs_path, bench->result.work, usage);
    bool whole = config->micro_batch == config->batch;
    config->batch = in->batch;
    if (whole) config->micro_batch = in->batch;
    config->n_masks = in->n_masks;
    config->n_slots = in->n_slots;
    config->mask_input = in->mask_input != NULL;
    config->given_points = in->n_points > 0;
    if (in->n_points > 0) config->n_points = in->n_points;
    if (config->mask_chunk > in->n_masks) config->mask_chunk = in->n_masks;
    if (in->words_per_image > 0) *words_per_image = in->words_per_image;
    return OK;
}

static Status make_step(Bench *bench)
{
    StepConfig config;
    Options *o = &bench->options;
    recipe_step_config(&bench->recipe, o, bench->kind, &config);
    int64_t words = config.n_masks * model_image_size(bench->recipe.model) * 2;
    if (bench->inputs_path) TRY(read_inputs(bench, &config, &words));
    TRY(budget_fit(o, &bench->recipe, words, false, &config));
    TRY(step_build(&config, bench->recipe.model, bench->recipe.store, words, &bench->step));
    if (bench->step->loss == VALUE_NONE)
        graph_output(bench->step->graph, bench->step->embedding, "embedding");
    if (bench->kind == STEP_DECODE) step_watch_masks(bench->step);
    return step_finish(bench->step);
}

static Status make_weights(Bench *bench)
{
    TRY(store_allocate(bench->recipe.store));
    TRY(recipe_load_weights(&bench->recipe, &bench->options));
    if (!bench->step->config.teacher) return OK;
    TRY(store_allocate(bench->recipe.teacher_store));
    ModelInit init = {.model = bench->recipe.teacher, .seed = 2};
    return model_freeze(init.model, model_initial, &init, bench->recipe.teacher_store);
}

static Status feed(Bench *bench)
{
    if (!bench->inputs_path) return bench_feed_made_up(bench->step, bench->exec, &bench->options);
    TRY(trace_inputs_feed(&bench->inputs, bench->step, bench->exec));
    TRY(feed_scalar(bench->exec, bench->step->lr, bench->options.optim_lr));
    return feed_scalar(bench->exec, bench->step->loss_scale, 1);
}

static Status prepare(Bench *bench)
{
    bool forward = bench->kind == STEP_ENCODE || bench->kind == STEP_DECODE;
    TRY(recipe_open(&bench->options, &bench->recipe));
    if (forward) TRY(recipe_freeze(&bench->recipe, &bench->options));
    TRY(make_step(bench));
    bench->resident_before = bench_resident_bytes("VmRSS");
    TRY(make_weights(bench));
    TRY(exec_create(bench->step->graph, bench->recipe.backend, &bench->exec));
    account_memory(stderr, exec_plan(bench->exec));
    budget_print(stderr, &bench->step->config);
    return feed(bench);
}

/* ---- measuring ---- */

static Status time_runs(Bench *bench)
{
    BenchResult *result = &bench->result;
    bool has_loss = bench->step->loss != VALUE_NONE;
    result->losses = has_loss ? mem_alloc((size_t)(result->repeat + 1) * sizeof(float)) : NULL;
    for (int64_t i = 0; i <= result->repeat; i++) { /* the first warms caches, pages, frequency */
        double start = clock_seconds();
        TRY(exec_run(bench->exec));
        if (i > 0) result->seconds[i - 1] = clock_seconds() - start;
        if (has_loss) TRY(exec_read(bench->exec, bench->step->loss, &result->losses[i]));
    }
    return OK;
}

static Status measure(Bench *bench)
{
    BenchResult *result = &bench->result;
    const StepConfig *c = &bench->step->config;
    const Plan *plan = exec_plan(bench->exec);
    TRY(time_runs(bench));
    result->model = model_name(bench->recipe.model);
    result->precision = dtype_name(c->precision);
    result->batch = c->batch;
    result->n_masks = c->n_masks;
    result->n_threads = bench->recipe.backend->n_threads;
    result->planned_bytes = (int64_t)plan->memory.total;
    result->measured_bytes = bench_resident_bytes("VmHWM") - bench->resident_before;
    result->macs = account_macs(bench->step->graph, plan, false);
    if (result->peak_gflops > 0) return OK; /* given */
    return profile_measure_peak(bench->recipe.backend, c->precision, &result->peak_gflops);
}

static Status profile(Bench *bench)
{
    const Graph *graph = bench->step->graph;
    exec_profile(bench->exec, true);
    TRY(exec_run(bench->exec));
    if (bench->options.run_profile)
        profile_print(stdout, graph, bench->exec, bench->result.peak_gflops);
    return bench->trace ? profile_write_trace(bench->trace, graph, bench->exec) : OK;
}

static Status write_embedding(const Bench *bench)
{
    Shape shape = graph_value(bench->step->graph, bench->step->embedding)->shape;
    float *values = mem_alloc((size_t)shape_elems(shape) * sizeof *values);
    NamedTensor tensor = {"embedding", {DT_F32, shape, values}};
    Status status = exec_read_f32(bench->exec, bench->step->embedding, values);
    if (status == OK) status = safetensors_write(bench->out, 1, &tensor, 0, NULL);
    free(values);
    return status;
}

static void print(const BenchResult *r)
{
    double median = bench_median(r), gflops = 2e-9 * r->macs / median;
    printf("%s %s, %s, batch %lld, %d threads: %.1f ms (minimum %.1f), %.1f ms per image, %.2f "
           "img/s",
           r->work, r->model, r->precision, (long long)r->batch, r->n_threads, 1e3 * median,
           1e3 * bench_minimum(r), 1e3 * median / (double)r->batch, (double)r->batch / median);
    if (r->macs > 0)
        printf(", %.1f GFLOP/s, %.0f%% of the peak of %.0f, plan %.0f MiB", gflops,
               100 * gflops / r->peak_gflops, r->peak_gflops, (double)r->planned_bytes / (1 << 20));
    printf(", measured %.0f\n", (double)r->measured_bytes / (1 << 20));
}

static Status run_bench(Bench *bench)
{
    bench->result.seconds = mem_alloc((size_t)bench->result.repeat * sizeof(double));
    if (bench->is_loader) {
        TRY(bench_loader(&bench->options, bench->out, &bench->result));
    } else {
        TRY(prepare(bench));
        TRY(measure(bench));
        if (bench->out) TRY(write_embedding(bench));
    }
    print(&bench->result);
    if (bench->json) TRY(bench_write(&bench->result, bench->json));
    bool profiles = !bench->is_loader && (bench->options.run_profile || bench->trace);
    return profiles ? profile(bench) : OK;
}

/* ---- the command ---- */

static Status find_kind(const char *what, Bench *bench)
{
    const char *names[] = {[STEP_ENCODE] = "encoder",
                           [STEP_DECODE] = "decoder",
                           [STEP_DISTILL] = "distill",
                           [STEP_FINETUNE] = "finetune"};
    bench->is_loader = what && strcmp(what, "loader") == 0;
    if (bench->is_loader) return OK;
    for (int i = 0; what && i < 4; i++)
        if (strcmp(names[i], what) == 0) {
            bench->kind = (StepKind)i;
            return OK;
        }
    return status_fail(E_CONFIG, "unknown benchmark %s; usage: %s", what ? what : "(none)", usage);
}

static Status parse(Args *args, Bench *bench)
{
    bench->result.work = args_positional(args);
    bench->config = args_positional(args);
    TRY(find_kind(bench->result.work, bench));
    if (!bench->config) return status_fail(E_CONFIG, "name a config; usage: %s", usage);
    bench->inputs_path = args_flag(args, "inputs");
    bench->json = args_flag(args, "json");
    bench->trace = args_flag(args, "trace");
    bench->out = args_flag(args, "out");
    TRY(args_double(args, "peak", 0, &bench->result.peak_gflops));
    bool of_step = bench->inputs_path || bench->trace || bench->result.peak_gflops > 0;
    bool gives_none = bench->kind != STEP_ENCODE && bench->out != NULL;
    if (bench->is_loader ? of_step : gives_none)
        return status_fail(E_CONFIG, "--%s means nothing to bench %s; usage: %s",
                           bench->is_loader ? "inputs, --trace or --peak" : "out",
                           bench->result.work, usage);
    TRY(args_int(args, "repeat", 5, 1, 1000, &bench->result.repeat));
    return options_load(bench->config, args->n, args->words, &bench->options);
}

Status command_bench(Args *args)
{
    Bench bench = {0};
    Status status = parse(args, &bench);
    if (status == OK) status = run_bench(&bench);
    exec_destroy(bench.exec);
    step_destroy(bench.step);
    trace_inputs_free(&bench.inputs);
    recipe_close(&bench.recipe);
    options_free(&bench.options);
    free(bench.result.seconds);
    free(bench.result.losses);
    return status;
}
