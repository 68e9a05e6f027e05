/* `retort bench`: times of training steps and forward passes on made-up inputs.
 *
 *   retort bench encoder|decoder|distill|finetune CONFIG [--repeat=N] [--key=value ..]
 *
 * The step is the one that trains (train/step.h). Prints the minimum and median over the repeats,
 * images per second, GFLOP/s (2 x multiply-adds of matrix products, convolutions and attention, as
 * executed) and the share of the peak measured here by one large matrix product; the memory that
 * the plan says, and by how much the process really grew over it. --run.profile=true adds the time
 * of each op.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/soft_runs.h"
#include "train/account.h"
#include "train/commands.h"
#include "train/feed.h"
#include "train/recipe.h"
#include "train/budget.h"

static const char usage[] =
    "retort bench encoder|decoder|distill|finetune CONFIG [--repeat=N] [--key=value ..]";

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* "VmRSS" (resident now) or "VmHWM" (the most that ever was) of this process, in bytes. */
static int64_t resident_bytes(const char *key)
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

/* ---- inputs ---- */

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

static Status feed_all(Step *step, Exec *exec, const Options *options)
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

/* ---- measuring ---- */

/* GFLOP/s of a 2048^3 matrix product in the step's precision: what this machine can do. */
static Status measure_peak(Backend *backend, DType precision, double *gflops)
{
    enum { SIDE = 2048, REPEATS = 5 };
    Graph *graph = graph_create();
    Exec *exec = NULL;
    ValueId a = graph_input(graph, "a", precision, SHAPE(SIDE, SIDE)),
            b = graph_input(graph, "b", precision, SHAPE(SIDE, SIDE));
    graph_output(graph, graph_op(graph, OP_MATMUL, ATTR(matmul, .trans_b = true), SRC(a, b)), "c");
    Status status = exec_create(graph, backend, &exec);
    double best = 1e30;
    for (int i = 0; i < REPEATS && status == OK; i++) {
        double start = now_seconds();
        status = exec_run(exec);
        if (now_seconds() - start < best) best = now_seconds() - start;
    }
    *gflops = 2e-9 * SIDE * (double)SIDE * SIDE / best;
    exec_destroy(exec);
    graph_destroy(graph);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static Status time_runs(Exec *exec, int64_t repeat, double *seconds)
{
    TRY(exec_run(exec)); /* warm: caches, pages, frequency */
    for (int64_t i = 0; i < repeat; i++) {
        double start = now_seconds();
        TRY(exec_run(exec));
        seconds[i] = now_seconds() - start;
    }
    qsort(seconds, (size_t)repeat, sizeof *seconds, by_value);
    return OK;
}

typedef struct Bench {
    StepKind kind;
    const char *what;
    int64_t repeat;
    Options options;
    Recipe recipe;
    Step *step;
    Exec *exec;
    int64_t resident_before; /* bytes, when nothing of the plan was allocated */
} Bench;

static Status prepare(Bench *bench)
{
    StepConfig config;
    const Options *o = &bench->options;
    TRY(recipe_open(o, &bench->recipe));
    bool needs_teacher = bench->kind == STEP_DISTILL && bench->recipe.teacher;
    recipe_step_config(&bench->recipe, o, bench->kind, &config);
    if (bench->kind == STEP_ENCODE || bench->kind == STEP_DECODE) config.bn = BN_EVAL;
    int64_t words = config.n_masks * model_image_size(bench->recipe.model) * 2;
    TRY(budget_fit(o, &bench->recipe, words, &config));
    TRY(step_build(&config, bench->recipe.model, bench->recipe.store, words, &bench->step));
    if (bench->step->loss == VALUE_NONE)
        graph_output(bench->step->graph, bench->step->embedding, "embedding");
    if (bench->kind == STEP_DECODE) step_watch_masks(bench->step);
    TRY(step_finish(bench->step));
    bench->resident_before = resident_bytes("VmRSS");
    TRY(store_allocate(bench->recipe.store));
    TRY(model_init(bench->recipe.model, bench->recipe.store, 1));
    if (needs_teacher) {
        TRY(store_allocate(bench->recipe.teacher_store));
        TRY(model_init(bench->recipe.teacher, bench->recipe.teacher_store, 2));
    }
    TRY(exec_create(bench->step->graph, bench->recipe.backend, &bench->exec));
    return feed_all(bench->step, bench->exec, o);
}

static Status report(Bench *bench, const double *seconds)
{
    const Plan *plan = exec_plan(bench->exec);
    const StepConfig *c = &bench->step->config;
    double grown = (double)(resident_bytes("VmHWM") - bench->resident_before);
    double peak, macs = account_macs(bench->step->graph, plan, false);
    double median = seconds[bench->repeat / 2], gflops = 2e-9 * macs / median;
    TRY(measure_peak(bench->recipe.backend, c->precision, &peak));
    printf("%s %s, %s, batch %lld, %d threads: %.1f ms (minimum %.1f), %.1f ms per image, %.2f "
           "img/s, %.1f GFLOP/s, "
           "%.0f%% of the measured peak of %.0f, plan %.0f MiB, measured %.0f\n",
           bench->what, model_name(bench->recipe.model), dtype_name(c->precision),
           (long long)c->batch, bench->recipe.backend->n_threads, 1e3 * median, 1e3 * seconds[0],
           1e3 * median / (double)c->batch, (double)c->batch / median, gflops, 100 * gflops / peak,
           peak, (double)plan->memory.total / (1 << 20), grown / (1 << 20));
    if (!bench->options.run_profile) return OK;
    exec_profile(bench->exec, true);
    TRY(exec_run(bench->exec));
    account_profile(stdout, bench->step->graph, bench->exec, peak);
    return OK;
}

static Status run_bench(Bench *bench)
{
    TRY(prepare(bench));
    account_memory(stderr, exec_plan(bench->exec));
    double *seconds = mem_alloc((size_t)bench->repeat * sizeof *seconds);
    Status status = time_runs(bench->exec, bench->repeat, seconds);
    if (status == OK) status = report(bench, seconds);
    free(seconds);
    return status;
}

static Status find_kind(const char *what, StepKind *kind)
{
    const char *names[] = {[STEP_ENCODE] = "encoder",
                           [STEP_DECODE] = "decoder",
                           [STEP_DISTILL] = "distill",
                           [STEP_FINETUNE] = "finetune"};
    for (int i = 0; what && i < 4; i++)
        if (strcmp(names[i], what) == 0) {
            *kind = (StepKind)i;
            return OK;
        }
    return status_fail(E_CONFIG, "unknown benchmark %s; usage: %s", what ? what : "(none)", usage);
}

Status command_bench(Args *args)
{
    Bench bench = {.what = args_positional(args)};
    const char *config = args_positional(args);
    TRY(find_kind(bench.what, &bench.kind));
    if (!config) return status_fail(E_CONFIG, "name a config; usage: %s", usage);
    TRY(args_int(args, "repeat", 5, 1, 1000, &bench.repeat));
    Status status = options_load(config, args->n, args->words, &bench.options);
    if (status == OK) status = run_bench(&bench);
    exec_destroy(bench.exec);
    step_destroy(bench.step);
    recipe_close(&bench.recipe);
    options_free(&bench.options);
    return status;
}
