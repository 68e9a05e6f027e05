/* What `retort bench` tells: the profile's tables and its trace, read back by a JSON reader as a
 * viewer would, and that it times the very step that `retort trace` shows. Times themselves are
 * judged nowhere: they are the machine's. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/json.h"
#include "model/model.h"
#include "tests/kat.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"
#include "train/weights.h"

#define TINY_BENCH(what)                                                                 \
    "bench " what " --model=" TINY_STUDENT " --train.batch=2 --run.threads=1 --repeat=2" \
    " --data.masks_per_image=6 --run.mask_chunk=2"
#define DISTILL TINY_BENCH("distill configs/recipes/distill_l0_paper.yaml --teacher.model=")
#define FINETUNE TINY_BENCH("finetune configs/recipes/finetune_l0_paper.yaml")

/* ---- the trace ---- */

typedef struct Span {
    char name[128], category[32], module[160];
    double start, seconds;
    bool is_complete; /* "ph": "X" */
} Span;

typedef struct Trace {
    Span *spans;
    int n, capacity;
} Trace;

static void copy_text(char *dst, size_t n_bytes, const JsonEvent *event)
{
    snprintf(dst, n_bytes, "%.*s", (int)event->n_chars, event->text);
}

static Status take_event(void *user, const JsonEvent *event)
{
    Trace *trace = user;
    const char *prefix = "traceEvents[]", *key = event->path + strlen(prefix);
    if (strncmp(event->path, prefix, strlen(prefix)) != 0) return OK;
    if (event->kind == JSON_OBJECT && *key == '\0') {
        trace->spans = mem_grow(trace->spans, &trace->capacity, trace->n + 1, sizeof(Span));
        trace->spans[trace->n++] = (Span){0};
        return OK;
    }
    Span *span = &trace->spans[trace->n - 1];
    if (strcmp(key, ".name") == 0) copy_text(span->name, sizeof span->name, event);
    if (strcmp(key, ".cat") == 0) copy_text(span->category, sizeof span->category, event);
    if (strcmp(key, ".args.module") == 0) copy_text(span->module, sizeof span->module, event);
    if (strcmp(key, ".ph") == 0) span->is_complete = event->n_chars == 1 && event->text[0] == 'X';
    if (strcmp(key, ".ts") == 0) span->start = event->number;
    if (strcmp(key, ".dur") == 0) span->seconds = event->number;
    return OK;
}

static Trace read_trace(const char *path)
{
    Trace trace = {0};
    cr_assert_eq(json_read(path, take_event, &trace), OK, "%s", status_message());
    return trace;
}

static int count(const Trace *trace, const char *name, const char *module_part)
{
    int n = 0;
    for (int i = 0; i < trace->n; i++)
        n += strcmp(trace->spans[i].name, name) == 0 &&
             strstr(trace->spans[i].module, module_part) != NULL;
    return n;
}

/* Kernels follow one another, each inside the span of its layer, and layers follow one another. */
Test(bench, trace_is_nested_and_in_order, .timeout = 300)
{
    char root[128];
    test_folder("bench_trace", root, sizeof root);
    program_succeed(FINETUNE " --trace=%s/trace.json", root);
    char path[160];
    snprintf(path, sizeof path, "%s/trace.json", root);
    Trace trace = read_trace(path);
    const Span *layer = NULL, *kernel = NULL;
    const double rounding_us = 0.002; /* two times rounded to nanoseconds */
    cr_assert_gt(trace.n, 100);
    for (int i = 0; i < trace.n; i++) {
        const Span *span = &trace.spans[i];
        cr_expect(span->is_complete && span->seconds >= 0 && span->name[0], "event %d", i);
        bool is_layer = strcmp(span->category, "layer") == 0;
        const Span *before = is_layer ? layer : kernel;
        cr_expect(!before || span->start + rounding_us >= before->start + before->seconds,
                  "event %d, %s, begins before the one before it ends", i, span->name);
        if (is_layer) layer = span;
        if (is_layer) continue;
        kernel = span;
        cr_assert(layer, "a kernel before any layer");
        cr_expect(span->start + rounding_us >= layer->start &&
                      span->start + span->seconds <= layer->start + layer->seconds + rounding_us,
                  "event %d, %s, is outside of its layer %s", i, span->name, layer->name);
    }
    /* Six masks, two at a time: the loop's three turns are three executions of each kernel. */
    cr_expect_eq(count(&trace, "focal_dice", ""), 3);
    cr_expect_eq(count(&trace, "conv2d", "image_encoder.backbone.stages.0.op_list.0"), 1);
    free(trace.spans);
}

/* ---- the tables ---- */

/* Sums the column of shares of the table headed `what`; counts its rows. */
static double shares_of(const char *text, const char *what, int *n_rows)
{
    char heading[32];
    double sum = 0, share;
    snprintf(heading, sizeof heading, "\n%s ", what);
    const char *line = strstr(text, heading);
    cr_assert(line, "no table %s in %s", what, text);
    line = strchr(line + 1, '\n');
    for (*n_rows = 0; line && line[1]; (*n_rows)++) {
        if (strlen(line) < 66 || sscanf(line + 65, "%*f %lf%%", &share) != 1) break;
        sum += share;
        line = strchr(line + 1, '\n');
    }
    return sum;
}

/* Every kernel is in one layer and of one op, so both tables tell the same whole. */
Test(bench, tables_share_out_the_step, .timeout = 300)
{
    const ProgramResult *result = program_succeed(DISTILL " --run.profile=true");
    int n_layers, n_ops, n_slowest;
    double layers = shares_of(result->out, "by layer", &n_layers);
    double ops = shares_of(result->out, "by op", &n_ops);
    shares_of(result->out, "slowest nodes", &n_slowest);
    double rounding = 0.05 * (n_layers + n_ops); /* shares are printed to a tenth of a percent */
    cr_expect(fabs(layers - ops) <= rounding, "by layer %.1f%%, by op %.1f%%", layers, ops);
    cr_expect(layers > 50 && layers <= 100 + rounding, "by layer %.1f%%", layers);
    cr_expect_eq(n_slowest, 20);
    cr_expect(strstr(result->out, "\nimage_encoder.backbone.stages.1 (backward) "));
}

/* A run with run.profile leaves the trace of its last step. */
Test(bench, a_run_leaves_its_profile, .timeout = 300)
{
    char root[128], scenes[128], path[192];
    test_folder("bench_run", root, sizeof root);
    test_folder("bench_run/scenes", scenes, sizeof scenes);
    make_scenes(scenes, 3, 3);
    const ProgramResult *result = program_succeed(
        TINY_FINETUNE " --data.root=%s --train.steps=2 --run.dir=%s/run --run.profile=true", scenes,
        root);
    cr_expect(strstr(result->err, "profile of 2 steps"), "%s", result->err);
    snprintf(path, sizeof path, "%s/run/profile.json", root);
    Trace trace = read_trace(path);
    cr_expect_gt(count(&trace, "adamw", ""), 10);
    free(trace.spans);
}

/* ---- the loader ---- */

static double number_in(const char *text, const char *format)
{
    double value = -1;
    const char *at = strstr(text, format);
    cr_assert(at && sscanf(at + strlen(format), "%lf", &value) == 1, "%s in %s", format, text);
    return value;
}

/* Stages share out a sample; a worker keeps at most 64 MB. Times are
 * for a person: another process on the core makes any limit wrong. */
static void check_loader(const char *recipe)
{
    static const char *const stages[] = {"read the image's file", "decode ", "parse run lengths",
                                         "flip, resize, normalise, pad", "read the embedding",
                                         "to soft runs", "prompts, weights, keys"};
    char data[256];
    SKIP_WITHOUT("data/sa1b/pairs", data);
    const char *out = program_succeed("bench loader configs/recipes/%s --data.root=%s --repeat=1 "
                                      "--train.batch=1 --data.threads=1",
                                      recipe, data)->out;
    double sum = 0;
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) sum += number_in(out, stages[i]);
    double all = number_in(out, "in all ");
    double rounding = 0.005 * (double)(sizeof stages / sizeof stages[0] + 1);
    cr_expect(fabs(sum - all) <= rounding && all > 1, "stages %.2f ms, in all %.2f: %s", sum, all,
              out);
    double worker_mib = number_in(out, " MiB of batches, ");
    cr_expect(worker_mib > 1 && worker_mib * (1 << 20) <= 64e6, "%.1f MiB per worker", worker_mib);
}

Test(bench, loader_shares_out_its_time_at_512, .timeout = 300)
{
    check_loader("finetune_l0_paper.yaml");
}

Test(bench, loader_shares_out_its_time_at_1024, .timeout = 300)
{
    check_loader("finetune_xl1_paper.yaml");
}

/* ---- what is timed ---- */

static void write_inputs(const char *path)
{
    enum { BATCH = 2, SIDE = 128, GRID = 16, DIM = 128 };
    static float image[BATCH * 3 * SIDE * SIDE], target[BATCH * DIM * GRID * GRID];
    kat_fill("image", 2, image, BATCH * 3 * SIDE * SIDE);
    kat_fill("target", 1, target, BATCH * DIM * GRID * GRID);
    NamedTensor tensors[] = {{"image", {DT_F32, SHAPE(BATCH, 3, SIDE, SIDE), image}},
                             {"target", {DT_F32, SHAPE(BATCH, DIM, GRID, GRID), target}}};
    cr_assert_eq(safetensors_write(path, 2, tensors, 0, NULL), OK, "%s", status_message());
}

static void write_weights(const char *root)
{
    Backend *backend;
    Model *model;
    char path[192];
    snprintf(path, sizeof path, "%s/w.safetensors", root);
    cr_assert_eq(backend_open("ref", 1, &backend), OK);
    cr_assert_eq(model_load(TINY_STUDENT, &model), OK, "%s", status_message());
    Store *store = store_create(backend);
    cr_assert_eq(model_declare(model, store), OK, "%s", status_message());
    cr_assert_eq(store_allocate(store), OK);
    cr_assert_eq(kat_fill_store(store, ""), OK);
    cr_assert_eq(weights_save(&file_ops_system, store, path), OK, "%s", status_message());
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
}

typedef struct Losses {
    double values[8];
    int n;
} Losses;

static Status take_loss(void *user, const JsonEvent *event)
{
    Losses *losses = user;
    if (strcmp(event->path, "losses[]") == 0 && losses->n < 8)
        losses->values[losses->n++] = event->number;
    return OK;
}

/* The losses of the step that warms up and of the timed ones are those of trace's steps. */
Test(bench, times_the_steps_that_trace_shows, .timeout = 300)
{
    char root[128], path[192];
    test_folder("bench_inputs", root, sizeof root);
    snprintf(path, sizeof path, "%s/in.safetensors", root);
    write_inputs(path);
    write_weights(root);
    program_succeed("trace configs/recipes/distill_l0_paper.yaml --model=" TINY_STUDENT
                    " --teacher.model= --run.threads=1 --optim.lr=1e-3 --optim.warmup_steps=0"
                    " --optim.schedule=constant --weights=%s/w.safetensors --inputs=%s --steps=3"
                    " --save=loss --out=%s/out.safetensors",
                    root, path, root);
    program_succeed(DISTILL " --optim.lr=1e-3 --init.weights=%s/w.safetensors --inputs=%s"
                            " --json=%s/bench.json",
                    root, path, root);
    Losses losses = {0};
    SafeTensors *out;
    snprintf(path, sizeof path, "%s/bench.json", root);
    cr_assert_eq(json_read(path, take_loss, &losses), OK, "%s", status_message());
    snprintf(path, sizeof path, "%s/out.safetensors", root);
    cr_assert_eq(safetensors_open(path, &out), OK, "%s", status_message());
    const float *wanted = safetensors_find(out, "loss")->data;
    cr_assert_eq(losses.n, 3);
    for (int i = 0; i < 3; i++) cr_expect_eq((float)losses.values[i], wanted[i], "step %d", i);
    cr_expect_neq(wanted[1], wanted[2]);
    safetensors_close(out);
}
