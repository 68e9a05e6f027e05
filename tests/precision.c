/* Training steps in low precision against f32. See precision.h. */
#include "tests/precision.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tests/support.h"
#include "train/bench.h"
#include "train/feed.h"

/* A norm below this part of the whole gradient's is zero up to f32's rounding, as that of a bias in
 * front of a softmax: some roundings of 2^-24. */
#define ZERO_PART 0x1p-20
/* The loss scale with which a run in fp16 begins (train/scaler.h). */
#define LOSS_SCALE 65536.0

static const struct {
    DType dtype;
    int bits; /* significant */
    double loss_scale;
} lows[N_LOW] = {[LOW_BF16] = {DT_BF16, 8, 1}, [LOW_F16] = {DT_F16, 11, LOSS_SCALE}};

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

/* ---- model and weights ---- */

/* Copies a line of a config; a side that shrinks is divided. */
static void copy_line(FILE *out, const char *line, int64_t shrink)
{
    static const char *const sides[] = {"image_size", "prompt_frame", "grid"};
    long long side;
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(sides[i]);
        if (strncmp(line, sides[i], n) != 0 || sscanf(line + n, ": %lld", &side) != 1) continue;
        fprintf(out, "%s: %lld\n", sides[i], side / (long long)shrink);
        return;
    }
    fputs(line, out);
}

static Model *load_model(const PrecisionCase *test)
{
    char folder[256], path[300], shrunk[300], line[512];
    Model *model;
    snprintf(path, sizeof path, "configs/models/%s.yaml", test->model);
    snprintf(line, sizeof line, "precision_%s", test->model);
    test_folder(line, folder, sizeof folder);
    snprintf(shrunk, sizeof shrunk, "%s/model.yaml", folder);
    FILE *in = fopen(path, "r"), *out = fopen(shrunk, "w");
    cr_assert(in && out, "%s", path);
    while (fgets(line, sizeof line, in)) copy_line(out, line, test->shrink);
    fclose(in);
    cr_assert_eq(fclose(out), 0);
    must(model_load(shrunk, &model));
    return model;
}

/* Initial weights with nothing left at a value that hides a mistake: a last norm of 0 would keep
 * its whole branch without a gradient, a bias or position of 0 would not be seen. */
static void settle(Store *store, int i)
{
    const StoreEntry *entry = &store->entries[i];
    if (entry->kind != STORE_PARAMETER) return;
    Tensor host = {.dtype = entry->dtype, .shape = entry->shape};
    float *values = host.data = mem_alloc(tensor_bytes(&host));
    bool bias = strstr(entry->name, ".bias"), norm = entry->shape.rank == 1 && !bias;
    RngKey key = {.seed = 5, .purpose = RNG_TEST, .sample = rng_name_hash(entry->name)};
    must(store_get(store, i, &host));
    for (int64_t k = 0; k < shape_elems(entry->shape); k++) {
        if (!norm && !bias && values[k] != 0) continue;
        values[k] = (float)(0.2 * rng_uniform(key, (uint64_t)k) - 0.1 + norm);
    }
    must(store_set(store, i, &host));
    free(values);
}

static Store *make_store(const Model *model, Backend *backend)
{
    Store *store = store_create(backend);
    must(model_declare(model, store));
    must(store_allocate(store));
    must(model_init(model, store, 1));
    for (int i = 0; i < store->n_entries; i++) settle(store, i);
    return store;
}

/* ---- one step ---- */

typedef struct Run { /* a step that was taken, to read from */
    Step *step;
    Exec *exec;
    double loss, loss_scale;
} Run;

static Run take_step(const PrecisionCase *test, const Model *model, Store *store, DType precision,
                     double loss_scale)
{
    char *words[] = {"--train.mode=single"};
    Options options;
    Run run = {.loss_scale = loss_scale};
    float loss;
    StepConfig config = {.kind = test->kind,
                         .bn = test->bn,
                         .precision = precision,
                         .batch = test->batch,
                         .micro_batch = test->batch,
                         .n_masks = test->n_masks,
                         .mask_chunk = test->n_masks,
                         .n_slots = 3,
                         .loss = LOSS_FOCAL,
                         .mask_weight = 20,
                         .dice_weight = 1,
                         .focal_alpha = 0.25,
                         .focal_gamma = 2,
                         .iou_weight = 1};
    must(options_load("configs/recipes/finetune_l0_paper.yaml", 1, words, &options));
    must(step_build(&config, model, store, 2 * test->n_masks * model_image_size(model), &run.step));
    for (int i = 0; i < run.step->n_gradients; i++)
        graph_output(run.step->graph, run.step->gradients[i].value,
                     store->entries[run.step->gradients[i].entry].name);
    must(step_finish(run.step));
    must(exec_create(run.step->graph, store->backend, &run.exec));
    must(bench_feed_made_up(run.step, run.exec, &options));
    must(feed_scalar(run.exec, run.step->loss_scale, loss_scale));
    must(exec_run(run.exec));
    must(exec_read(run.exec, run.step->loss, &loss));
    cr_assert(isfinite(loss), "%s in %s: loss %g", test->model, dtype_name(precision), loss);
    run.loss = loss;
    options_free(&options);
    return run;
}

static void end_run(Run *run)
{
    exec_destroy(run->exec);
    step_destroy(run->step);
}

static float *read_gradient(const Run *run, int i, int64_t *n)
{
    ValueId value = run->step->gradients[i].value;
    *n = shape_elems(graph_value(run->step->graph, value)->shape);
    float *values = mem_alloc((size_t)*n * sizeof *values);
    must(exec_read_f32(run->exec, value, values));
    for (int64_t k = 0; k < *n; k++) values[k] /= (float)run->loss_scale;
    return values;
}

/* Nodes whose result is of a low precision. */
static int count_roundings(const Graph *graph, DType low)
{
    int n = 0;
    for (NodeId id = 0; id < graph->n_nodes; id++)
        n += !graph->nodes[id].dead && graph->values[graph->nodes[id].dst[0]].dtype == low;
    return n;
}

/* ---- comparing ---- */

static double norm_of(const float *a, const float *minus, int64_t n)
{
    double squares = 0;
    for (int64_t k = 0; k < n; k++) {
        double value = (double)a[k] - (minus ? (double)minus[k] : 0);
        squares += value * value;
    }
    return sqrt(squares);
}

typedef struct Exact { /* gradients in f32 */
    float **values;
    double *norms, whole; /* norm of each, and of all */
} Exact;

static Exact read_exact(const Run *run)
{
    size_t n = (size_t)run->step->n_gradients;
    Exact exact = {mem_alloc(n * sizeof *exact.values), mem_alloc(n * sizeof *exact.norms), 0};
    for (size_t i = 0; i < n; i++) {
        int64_t n_values;
        exact.values[i] = read_gradient(run, (int)i, &n_values);
        exact.norms[i] = norm_of(exact.values[i], NULL, n_values);
        exact.whole = hypot(exact.whole, exact.norms[i]);
    }
    return exact;
}

static void compare(const Run *run, const Exact *exact, LowPrecision low, PrecisionReport *out)
{
    double squares = 0;
    out->n_parameters = 0;
    for (int i = 0; i < run->step->n_gradients; i++) {
        int64_t n;
        float *values = read_gradient(run, i, &n);
        double norm = norm_of(values, NULL, n), wanted = exact->norms[i];
        const char *name = run->step->store->entries[run->step->gradients[i].entry].name;
        cr_expect(isfinite(norm), "%s: gradient of norm %g", name, norm);
        if (wanted >= ZERO_PART * exact->whole) {
            double off = norm_of(values, exact->values[i], n) / wanted;
            cr_expect_gt(norm, 0, "%s: no gradient, in f32 one of norm %g", name, wanted);
            squares += off * off;
            out->n_parameters++;
        } else if (wanted == 0) {
            cr_expect_eq(norm, 0, "%s: gradient of norm %g, in f32 none", name, norm);
        }
        free(values);
    }
    out->off[low] = sqrt(squares / out->n_parameters);
    out->loss_off[low] = fabs(run->loss - out->loss) / fabs(out->loss);
    out->expected[low] = sqrt(count_roundings(run->step->graph, lows[low].dtype)) * 0.425 *
                         ldexp(1, -lows[low].bits);
}

void precision_compare(const PrecisionCase *test, PrecisionReport *out)
{
    Backend *backend;
    must(backend_open("cpu", 1, &backend));
    Model *model = load_model(test);
    Store *store = make_store(model, backend);
    Run run = take_step(test, model, store, DT_F32, 1);
    Exact exact = read_exact(&run);
    int n = run.step->n_gradients;
    *out = (PrecisionReport){.loss = run.loss};
    end_run(&run);
    for (LowPrecision low = 0; low < N_LOW; low++) {
        run = take_step(test, model, store, lows[low].dtype, lows[low].loss_scale);
        compare(&run, &exact, low, out);
        end_run(&run);
    }
    for (int i = 0; i < n; i++) free(exact.values[i]);
    free(exact.values);
    free(exact.norms);
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
}

/* ---- the rules ---- */

static void expect_loss(const PrecisionReport *report)
{
    for (LowPrecision low = 0; low < N_LOW; low++)
        cr_expect_lt(report->loss_off[low], ldexp(1, -lows[low].bits), "loss %g, off by %g",
                     report->loss, report->loss_off[low]);
}

void precision_expect_ratio(const PrecisionReport *report, bool relu)
{
    double ratio = report->off[LOW_BF16] / report->off[LOW_F16];
    expect_loss(report);
    cr_expect(relu ? ratio > sqrt(8) / 2 : ratio > 4 && ratio < 16,
              "gradients off by %g in bf16, by %g in fp16: %.2f times", report->off[LOW_BF16],
              report->off[LOW_F16], ratio);
}

void precision_expect_size(const PrecisionReport *report)
{
    for (LowPrecision low = 0; low < N_LOW; low++)
        cr_expect_lt(report->off[low], 2 * report->expected[low],
                     "gradients off by %g in %s, rounding makes %g", report->off[low],
                     dtype_name(lows[low].dtype), report->expected[low]);
}
