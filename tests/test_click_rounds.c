/* SAM's own training: the IoU head's loss, and rounds of clicks where the last masks were wrong. A
 * step with rounds is compared with steps that are given each round's prompts, made here by hand
 * from what the step before gave.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/rules.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/soft_runs.h"
#include "tests/support.h"
#include "train/feed.h"
#include "train/step.h"

/* ---- a model and a scene ---- */

enum { SIDE = 32, FRAME = 64, LOWRES = 16, BATCH = 2, MASKS = 3, SLOTS = 3, ROUNDS = 2 };
enum {
    CANDIDATES = 4,
    MAX_SLOTS = SLOTS + ROUNDS,
    N_MASKS = BATCH * MASKS,
    WORDS = MASKS * SIDE * 8
};
enum { MAP = LOWRES * LOWRES, PIXELS = SIDE * SIDE };

static const char model_text[] =
    "{name: mini, image_size: 32, prompt_frame: 64, grid: 4, embed_dim: 16,\n"
    "image_encoder: {kind: vit, activation: gelu_erf, norm_eps: 1.0e-6, patch: 8, width: 16,\n"
    "  depth: 2, heads: 2, mlp_dim: 32, window: 2, global_blocks: [1]},\n"
    "prompt_encoder: {activation: gelu_erf, mask_channels: 8},\n"
    "mask_decoder: {activation: gelu_erf, norm_eps: 1.0e-5, layers: 2, heads: 2, cross_width: 8,\n"
    "  mlp_dim: 32, iou_hidden: 16}}\n";

typedef struct Scene {
    float image[BATCH * PIXELS * 3];
    uint32_t words[BATCH * WORDS];
    int32_t rows[N_MASKS * (SIDE + 1)], keys[N_MASKS * 2];
    float weight[N_MASKS];
    float target[N_MASKS][PIXELS];
} Scene;

typedef struct Prompts {
    int64_t n_slots;
    float coords[N_MASKS * MAX_SLOTS * 2];
    int32_t labels[N_MASKS * MAX_SLOTS];
    float masks[N_MASKS * MAP];
    bool has_masks;
} Prompts;

/* A disc with a soft fringe; the last mask of the last image is an empty slot. */
static void paint(Scene *scene, int mask)
{
    double x0 = 8 + 5 * mask % 17, y0 = 10 + 7 * mask % 13, radius = 4 + mask;
    for (int i = 0; i < PIXELS; i++) {
        double depth = radius - hypot(i % SIDE - x0, i / SIDE - y0);
        float value = depth <= 0 ? 0 : depth >= 1 ? 1 : (float)depth;
        scene->target[mask][i] = mask == N_MASKS - 1 ? 0 : value;
    }
}

static void encode(Scene *scene)
{
    for (int image = 0; image < BATCH; image++) {
        uint32_t *words = scene->words + image * WORDS;
        int64_t used = 0;
        for (int m = 0; m < MASKS; m++)
            for (int y = 0; y <= SIDE; y++) {
                int mask = image * MASKS + m;
                scene->rows[mask * (SIDE + 1) + y] = (int32_t)used;
                if (y == SIDE) break;
                int64_t n = soft_runs_encode_row(&scene->target[mask][y * SIDE], SIDE, words + used,
                                                 WORDS - used);
                cr_assert_geq(n, 0);
                used += n;
            }
    }
}

static Scene *make_scene(void)
{
    Scene *scene = mem_alloc(sizeof *scene);
    RngKey key = {.seed = 3, .purpose = RNG_TEST};
    for (int i = 0; i < BATCH * PIXELS * 3; i++)
        scene->image[i] = (float)rng_normal(key, (uint64_t)i);
    for (int m = 0; m < N_MASKS; m++) {
        paint(scene, m);
        scene->weight[m] = m == N_MASKS - 1 ? 0.0f : 0.1f + 0.05f * (float)m;
        scene->keys[2 * m] = 17 * m - 40;
        scene->keys[2 * m + 1] = 1 << m;
    }
    encode(scene);
    return scene;
}

/* Image 0 has boxes, image 1 a point per mask and the padding point. */
static Prompts *make_prompts(void)
{
    Prompts *prompts = mem_alloc(sizeof *prompts);
    prompts->n_slots = SLOTS;
    for (int m = 0; m < N_MASKS; m++) {
        const int32_t boxes[] = {2, 3, -2}, points[] = {1, -1, -2}, none[] = {-2, -2, -2};
        const int32_t *labels = m < MASKS ? boxes : m == N_MASKS - 1 ? none : points;
        for (int p = 0; p < SLOTS; p++) {
            prompts->labels[m * SLOTS + p] = labels[p];
            for (int axis = 0; axis < 2; axis++)
                prompts->coords[2 * (m * SLOTS + p) + axis] =
                    labels[p] < 0 ? 0 : (float)(11 + 3 * m + 20 * p + axis);
        }
    }
    return prompts;
}

/* ---- a step ---- */

typedef struct Run {
    Backend *backend;
    Model *model;
    Store *store;
    Step *step;
    Exec *exec;
    float loss;
} Run;

static StepConfig finetune(int64_t click_rounds)
{
    return (StepConfig){.kind = STEP_FINETUNE,
                        .bn = BN_EVAL,
                        .precision = DT_F32,
                        .batch = BATCH,
                        .micro_batch = 1,
                        .n_masks = MASKS,
                        .mask_chunk = 2,
                        .n_slots = SLOTS,
                        .mask_weight = 20,
                        .dice_weight = 1,
                        .focal_alpha = 0.25,
                        .focal_gamma = 2,
                        .iou_weight = 1,
                        .click_rounds = click_rounds,
                        .click_masks = true};
}

static void load_model(Model **model)
{
    char folder[256], path[320];
    test_folder("click_rounds", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/mini.yaml", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, model_text, strlen(model_text)), OK);
    cr_assert_eq(model_load(path, model), OK, "%s", status_message());
}

static void open_run(Run *run, StepConfig config)
{
    cr_assert_eq(backend_open("cpu", 1, &run->backend), OK);
    load_model(&run->model);
    run->store = store_create(run->backend);
    cr_assert_eq(model_declare(run->model, run->store), OK, "%s", status_message());
    Status status = step_build(&config, run->model, run->store, WORDS, &run->step);
    cr_assert_eq(status, OK, "%s", status_message());
    for (int i = 0; i < run->step->n_gradients; i++)
        graph_output(run->step->graph, run->step->gradients[i].value, "gradient");
    step_watch_masks(run->step);
    cr_assert_eq(step_finish(run->step), OK, "%s", status_message());
    cr_assert_eq(store_allocate(run->store), OK);
    cr_assert_eq(model_init(run->model, run->store, 7), OK);
    cr_assert_eq(exec_create(run->step->graph, run->backend, &run->exec), OK, "%s",
                 status_message());
}

static void close_run(Run *run)
{
    exec_destroy(run->exec);
    step_destroy(run->step);
    store_destroy(run->store);
    model_destroy(run->model);
    backend_close(run->backend);
    *run = (Run){0};
}

static void feed_and_run(Run *run, const Scene *scene, const Prompts *prompts, int32_t mode)
{
    MaskTensors masks = {.coords = prompts->coords,
                         .labels = prompts->labels,
                         .mask_input = prompts->masks,
                         .rows = scene->rows,
                         .weight = scene->weight,
                         .point_key = scene->keys};
    cr_assert_eq(exec_write(run->exec, run->step->image, scene->image), OK);
    cr_assert_eq(exec_write(run->exec, run->step->words, scene->words), OK);
    cr_assert_eq(exec_write(run->exec, run->step->mode, &mode), OK);
    cr_assert_eq(feed_mask_tensors(run->step, run->exec, &masks), OK);
    cr_assert_eq(feed_scalar(run->exec, run->step->loss_scale, 1), OK);
    cr_assert_eq(feed_scalar(run->exec, run->step->lr, 1e-3), OK);
    cr_assert_eq(exec_run(run->exec), OK, "%s", status_message());
    cr_assert_eq(exec_read(run->exec, run->step->loss, &run->loss), OK);
}

/* The gradient of an entry; NULL if it has none. To be freed. */
static float *gradient_of(const Run *run, int entry)
{
    for (int i = 0; i < run->step->n_gradients; i++) {
        if (run->step->gradients[i].entry != entry) continue;
        int64_t n = shape_elems(run->store->entries[entry].shape);
        float *values = mem_alloc((size_t)n * sizeof *values);
        cr_assert_eq(exec_read(run->exec, run->step->gradients[i].value, values), OK);
        return values;
    }
    return NULL;
}

/* ---- the next prompts, by hand ---- */

static double upsampled(const float *map, int64_t low, int64_t side, int64_t y, int64_t x)
{
    double at[2], part[2];
    int64_t first[2], second[2], place[2] = {y, x};
    for (int axis = 0; axis < 2; axis++) {
        at[axis] = fmax(((double)place[axis] + 0.5) * (double)low / (double)side - 0.5, 0);
        first[axis] = (int64_t)at[axis];
        second[axis] = first[axis] + 1 < low ? first[axis] + 1 : first[axis];
        part[axis] = at[axis] - (double)first[axis];
    }
    double above = (1 - part[1]) * map[first[0] * low + first[1]] +
                   part[1] * map[first[0] * low + second[1]];
    double below = (1 - part[1]) * map[second[0] * low + first[1]] +
                   part[1] * map[second[0] * low + second[1]];
    return (1 - part[0]) * above + part[0] * below;
}

/* Pixels where mask and target differ, in reading order. returns their number */
static int find_errors(const float *map, int64_t low, const float *target, int64_t side, int *pixel)
{
    int n = 0;
    for (int i = 0; i < side * side; i++)
        if ((upsampled(map, low, side, i / side, i % side) > 0) != (target[i] > 0.5f))
            pixel[n++] = i;
    return n;
}

static void click(const Scene *scene, int mask, int round, const float *map, float coord[2],
                  int32_t *label)
{
    int pixel[PIXELS], n = find_errors(map, LOWRES, scene->target[mask], SIDE, pixel);
    uint64_t high = (uint32_t)scene->keys[2 * mask + 1], low = (uint32_t)scene->keys[2 * mask];
    RngKey key = {.seed = high << 32 | low, .purpose = RNG_ERROR_CLICK, .epoch = (uint32_t)round};
    coord[0] = coord[1] = 0;
    *label = -2;
    if (scene->weight[mask] == 0) return;
    cr_assert_gt(n, 0);
    int at = pixel[rng_below(key, 0, (uint64_t)n)];
    coord[0] = (float)((at % SIDE + 0.5) * FRAME / SIDE - 0.5);
    coord[1] = (float)((at / SIDE + 0.5) * FRAME / SIDE - 0.5);
    *label = scene->target[mask][at] > 0.5f;
}

/* The prompts of round `round`, from a run of the round before. */
static Prompts *next_prompts(const Run *run, const Scene *scene, const Prompts *before, int round)
{
    Prompts *next = mem_alloc(sizeof *next);
    float *maps = mem_alloc(N_MASKS * CANDIDATES * MAP * sizeof *maps);
    int32_t best[N_MASKS];
    int64_t n = before->n_slots;
    cr_assert_eq(step_read_masks(run->step, run->exec, run->step->lowres, maps,
                                 CANDIDATES * MAP * sizeof(float)),
                 OK);
    cr_assert_eq(step_read_masks(run->step, run->exec, run->step->best, best, sizeof *best), OK);
    *next = (Prompts){.n_slots = n + 1, .has_masks = true};
    for (int m = 0; m < N_MASKS; m++) {
        const float *map = maps + (m * CANDIDATES + best[m]) * MAP;
        float *coords = next->coords + m * (n + 1) * 2;
        int32_t *labels = next->labels + m * (n + 1);
        memcpy(next->masks + m * MAP, map, MAP * sizeof *map);
        memcpy(coords, before->coords + m * n * 2, (size_t)n * 2 * sizeof *coords);
        memcpy(labels, before->labels + m * n, (size_t)n * sizeof *labels);
        click(scene, m, round, map, coords + 2 * n, labels + n);
    }
    free(maps);
    return next;
}

/* ---- rounds against steps of their own ---- */

static void run_with_prompts(Run *run, const Scene *scene, const Prompts *prompts, int32_t mode)
{
    StepConfig config = finetune(0);
    config.n_slots = prompts->n_slots;
    config.mask_input = prompts->has_masks;
    open_run(run, config);
    feed_and_run(run, scene, prompts, mode);
}

static void compare_gradients(const Run *all, const Run *single)
{
    for (int e = 0; e < all->store->n_entries; e++) {
        const StoreEntry *entry = &all->store->entries[e];
        if (entry->kind != STORE_PARAMETER) continue;
        int64_t n = shape_elems(entry->shape);
        float *got = gradient_of(all, e), *part[ROUNDS + 1];
        double scale = 0, worst = 0;
        cr_assert_not_null(got, "%s has no gradient", entry->name);
        for (int r = 0; r <= ROUNDS; r++) part[r] = gradient_of(&single[r], e);
        for (int64_t i = 0; i < n; i++) {
            double wanted = 0;
            for (int r = 0; r <= ROUNDS; r++) wanted += part[r] ? part[r][i] / (ROUNDS + 1.0) : 0;
            scale = fmax(scale, fabs(wanted));
            worst = fmax(worst, fabs(got[i] - wanted));
        }
        /* the biases of keys have none: what is there is rounding */
        cr_expect_leq(worst, 1e-5 * scale + 1e-8, "%s: %g of %g", entry->name, worst, scale);
        for (int r = 0; r <= ROUNDS; r++) free(part[r]);
        free(got);
    }
}

static void check_rounds(int32_t mode)
{
    Scene *scene = make_scene();
    Prompts *prompts[ROUNDS + 1] = {make_prompts()};
    Run all = {0}, single[ROUNDS + 1] = {0};
    double mean = 0;
    open_run(&all, finetune(ROUNDS));
    feed_and_run(&all, scene, prompts[0], mode);
    for (int r = 0; r <= ROUNDS; r++) {
        if (r > 0) prompts[r] = next_prompts(&single[r - 1], scene, prompts[r - 1], r);
        run_with_prompts(&single[r], scene, prompts[r], mode);
        mean += single[r].loss / (ROUNDS + 1.0);
    }
    cr_expect_float_eq(all.loss, mean, 1e-5 * mean, "%.9g, wanted %.9g", all.loss, mean);
    cr_expect_neq(single[0].loss, single[1].loss, "a click changes the masks");
    compare_gradients(&all, single);
    close_run(&all);
    for (int r = 0; r <= ROUNDS; r++) {
        close_run(&single[r]);
        free(prompts[r]);
    }
    free(scene);
}

Test(click_rounds, are_steps_with_given_prompts_three_masks) { check_rounds(1); }
Test(click_rounds, are_steps_with_given_prompts_one_mask) { check_rounds(0); }

Test(click_rounds, give_the_same_bits_again_and_do_not_depend_on_chunks)
{
    Scene *scene = make_scene();
    Prompts *prompts = make_prompts();
    const int64_t chunks[] = {2, 2, 1, 3};
    float loss[4];
    for (int i = 0; i < 4; i++) {
        Run run = {0};
        StepConfig config = finetune(ROUNDS);
        config.mask_chunk = chunks[i];
        open_run(&run, config);
        feed_and_run(&run, scene, prompts, 1);
        loss[i] = run.loss;
        close_run(&run);
        cr_expect(i != 1 || loss[1] == loss[0]);
        cr_expect_float_eq(loss[i], loss[0], 1e-5 * loss[0], "%lld at a time: %.9g, %.9g",
                           (long long)chunks[i], loss[i], loss[0]);
    }
    free(scene);
    free(prompts);
}

/* ---- what takes part ---- */

static double largest_gradient(const Run *run, const char *name)
{
    int entry = store_find(run->store, name);
    float *gradient = gradient_of(run, entry);
    double largest = gradient ? 0 : -1;
    for (int64_t i = 0; gradient && i < shape_elems(run->store->entries[entry].shape); i++)
        largest = fmax(largest, fabs(gradient[i]));
    free(gradient);
    return largest;
}

static int count_nodes(const Graph *graph, OpId op)
{
    int n = 0;
    for (NodeId i = 0; i < graph->n_nodes; i++)
        n += !graph->nodes[i].dead && graph->nodes[i].op == op;
    return n;
}

Test(click_rounds, iou_head_and_mask_prompts_train_where_they_are_used)
{
    Scene *scene = make_scene();
    Prompts *prompts = make_prompts();
    for (int rounds = 0; rounds < 2; rounds++)
        for (int weight = 0; weight < 2; weight++) {
            Run run = {0};
            StepConfig config = finetune(rounds);
            config.iou_weight = weight;
            open_run(&run, config);
            feed_and_run(&run, scene, prompts, 1);
            double head = largest_gradient(&run,
                                           "mask_decoder.iou_prediction_head.layers.0.weight");
            double mask = largest_gradient(&run, "prompt_encoder.mask_downscaling.0.weight");
            double background = largest_gradient(&run, "prompt_encoder.point_embeddings.0.weight");
            cr_expect(weight ? head > 0 : head == -1, "%g", head);
            cr_expect(rounds ? mask > 0 : mask == -1, "%g", mask);
            cr_expect(rounds ? background > 0 : background == 0, "%g", background);
            cr_expect_eq(count_nodes(run.step->graph, OP_MASK_IOU), weight ? 1 + rounds : 0);
            cr_expect_eq(count_nodes(run.step->graph, OP_ERROR_CLICK), rounds);
            close_run(&run);
        }
    free(scene);
    free(prompts);
}

Test(click_rounds, clicks_may_come_without_masks)
{
    Scene *scene = make_scene();
    Prompts *prompts = make_prompts();
    for (int masks = 0; masks < 2; masks++) {
        Run run = {0};
        StepConfig config = finetune(1);
        config.click_masks = masks;
        open_run(&run, config);
        feed_and_run(&run, scene, prompts, 1);
        double mask = largest_gradient(&run, "prompt_encoder.mask_downscaling.0.weight");
        double background = largest_gradient(&run, "prompt_encoder.point_embeddings.0.weight");
        cr_expect(masks ? mask > 0 : mask == -1, "%g", mask);
        cr_expect_gt(background, 0);
        cr_expect_eq(count_nodes(run.step->graph, OP_ERROR_CLICK), 1);
        close_run(&run);
    }
    free(scene);
    free(prompts);
}

static float updates_of(const Run *run, const char *parameter)
{
    char name[256];
    float n;
    Tensor host = {.dtype = DT_F32, .shape = SHAPE(1), .data = &n};
    snprintf(name, sizeof name, "step.%s", parameter);
    cr_assert_eq(store_get(run->store, store_find(run->store, name), &host), OK, "%s", name);
    return n;
}

/* Boxes alone: points take part by clicks only, and a slot without weight gets no click. */
Test(click_rounds, clicks_open_the_gate_of_points)
{
    Scene *scene = make_scene();
    Prompts *prompts = make_prompts();
    static const char *const names[] = {"prompt_encoder.point_embeddings.0.weight",
                                        "prompt_encoder.point_embeddings.1.weight",
                                        "prompt_encoder.not_a_point_embed.weight"};
    for (int i = 0; i < N_MASKS * SLOTS; i++)
        prompts->labels[i] = i % SLOTS == 2 ? -2 : 2 + i % SLOTS;
    for (int weighty = 0; weighty < 2; weighty++)
        for (int rounds = 0; rounds < 2; rounds++) {
            Run run = {0};
            StepConfig config = finetune(rounds);
            config.update = true;
            config.beta1 = 0.9, config.beta2 = 0.999, config.eps = 1e-8;
            open_run(&run, config);
            if (!weighty) memset(scene->weight, 0, sizeof scene->weight);
            feed_and_run(&run, scene, prompts, 1);
            for (int i = 0; i < 3; i++)
                cr_expect_eq(updates_of(&run, names[i]), weighty && rounds, "%s, %d rounds",
                             names[i], rounds);
            cr_expect_eq(updates_of(&run, "prompt_encoder.point_embeddings.2.weight"), 1);
            close_run(&run);
            free(scene);
            scene = make_scene();
        }
    free(scene);
    free(prompts);
}

/* ---- the ops by themselves ---- */

#define F32(data, ...) ((Tensor){DT_F32, SHAPE(__VA_ARGS__), data})
#define I32(data, ...) ((Tensor){DT_I32, SHAPE(__VA_ARGS__), data})

static void run_op(const char *name, OpId op, OpAttr attr, int n_src, const Tensor *src, int n_dst,
                   const Tensor *dst)
{
    Backend *backend;
    KernelCall call = {.op = op, .label = "test", .attr = &attr, .n_src = n_src, .n_dst = n_dst};
    memcpy(call.src, src, (size_t)n_src * sizeof *src);
    memcpy(call.dst, dst, (size_t)n_dst * sizeof *dst);
    cr_assert_eq(backend_open(name, 1, &backend), OK);
    cr_assert_eq(backend->bind(backend, &call), OK, "%s", status_message());
    cr_assert_eq(backend->alloc(backend, call.scratch_bytes, &call.scratch), OK);
    call.run(&call);
    backend->free(backend, call.scratch, call.scratch_bytes);
    backend_close(backend);
}

static const char *const backends[] = {"ref", "cpu"};

enum { SMALL = 8, LOW = 4, DRAWS = 20000 };

typedef struct Clicks { /* of DRAWS masks that differ in their keys alone */
    float map[LOW * LOW], target[SMALL * SMALL];
    uint32_t words[SMALL * (SMALL + 2)];
    int32_t rows[SMALL + 1];
    float *maps, *weights, *coords;
    int32_t *all_rows, *keys, *labels;
} Clicks;

static Clicks make_clicks(void)
{
    Clicks c = {0};
    int64_t used = 0;
    for (int i = 0; i < LOW * LOW; i++) c.map[i] = (float)sin(5 * i + 1);
    for (int i = 0; i < SMALL * SMALL; i++)
        c.target[i] = i % SMALL < 3 ? 1 : i % SMALL == 3 ? 0.5f : 0;
    for (int y = 0; y < SMALL; y++) {
        used += soft_runs_encode_row(c.target + y * SMALL, SMALL, c.words + used,
                                     (int64_t)(sizeof c.words / sizeof *c.words) - used);
        c.rows[y + 1] = (int32_t)used;
    }
    c.maps = mem_alloc(DRAWS * sizeof c.map);
    c.all_rows = mem_alloc(DRAWS * sizeof c.rows);
    c.weights = mem_alloc(DRAWS * sizeof(float));
    c.keys = mem_alloc(DRAWS * 2 * sizeof(int32_t));
    c.coords = mem_alloc(DRAWS * 2 * sizeof(float));
    c.labels = mem_alloc(DRAWS * sizeof(int32_t));
    for (int i = 0; i < DRAWS; i++) {
        memcpy(c.maps + i * LOW * LOW, c.map, sizeof c.map);
        memcpy(c.all_rows + i * (SMALL + 1), c.rows, sizeof c.rows);
        c.weights[i] = 1;
        c.keys[2 * i] = i;
    }
    return c;
}

static void free_clicks(Clicks *c)
{
    free(c->maps);
    free(c->all_rows);
    free(c->weights);
    free(c->keys);
    free(c->coords);
    free(c->labels);
}

/* A frame of side 2 * SMALL. */
static void run_clicks(const char *backend, Clicks *c, int round)
{
    OpAttr attr = {.error_click = {.size = SMALL, .round = round, .frame = 2 * SMALL}};
    int64_t n_words = (int64_t)(sizeof c->words / sizeof *c->words);
    Tensor src[] = {F32(c->maps, 1, DRAWS, LOW, LOW), I32(c->words, 1, n_words),
                    I32(c->all_rows, 1, DRAWS, SMALL + 1), F32(c->weights, 1, DRAWS),
                    I32(c->keys, 1, DRAWS, 2)};
    Tensor dst[] = {F32(c->coords, 1, DRAWS, 1, 2), I32(c->labels, 1, DRAWS, 1)};
    run_op(backend, OP_ERROR_CLICK, attr, 5, src, 2, dst);
}

static int pixel_of(const float coord[2])
{
    double x = (coord[0] + 0.5) / 2 - 0.5, y = (coord[1] + 0.5) / 2 - 0.5;
    cr_assert(x == floor(x) && y == floor(y), "%g, %g is no centre of a pixel", coord[0], coord[1]);
    return (int)y * SMALL + (int)x;
}

Test(error_click, picks_error_pixels_uniformly)
{
    Clicks c = make_clicks();
    int errors[SMALL * SMALL], n = find_errors(c.map, LOW, c.target, SMALL, errors);
    cr_assert(n > 10 && n < SMALL * SMALL - 10);
    for (int b = 0; b < 2; b++) {
        int count[SMALL * SMALL] = {0}, n_found = 0;
        double chi_square = 0, wanted = DRAWS / (double)n;
        run_clicks(backends[b], &c, 1);
        for (int i = 0; i < DRAWS; i++) {
            int at = pixel_of(c.coords + 2 * i);
            cr_assert_eq(c.labels[i], c.target[at] > 0.5f);
            count[at]++;
        }
        for (int i = 0; i < n; i++) {
            n_found += count[errors[i]];
            chi_square += (count[errors[i]] - wanted) * (count[errors[i]] - wanted) / wanted;
        }
        cr_expect_eq(n_found, DRAWS, "%d clicks where nothing is wrong", DRAWS - n_found);
        cr_expect_lt(fabs(chi_square - (n - 1)), 4 * sqrt(2 * (n - 1)), "%g of %d", chi_square,
                     n - 1);
    }
    free_clicks(&c);
}

Test(error_click, draws_anew_in_each_round)
{
    Clicks c = make_clicks();
    int n = 0, same = 0, errors[SMALL * SMALL];
    n = find_errors(c.map, LOW, c.target, SMALL, errors);
    run_clicks("cpu", &c, 1);
    float *first = mem_alloc(DRAWS * 2 * sizeof *first);
    memcpy(first, c.coords, DRAWS * 2 * sizeof *first);
    run_clicks("cpu", &c, 2);
    for (int i = 0; i < DRAWS; i++) same += memcmp(first + 2 * i, c.coords + 2 * i, 8) == 0;
    double wanted = DRAWS / (double)n;
    cr_expect_lt(fabs(same - wanted), 5 * sqrt(wanted), "%d, wanted about %g", same, wanted);
    free(first);
    free_clicks(&c);
}

Test(error_click, stays_empty_where_nothing_is_wrong_or_counts)
{
    for (int b = 0; b < 2; b++) {
        float map[] = {1, -1, 1, -1, 1, -1, 1, -1}, weight[] = {1, 0}, coords[4] = {9, 9, 9, 9};
        uint32_t words[] = {SOFT_ONES | 1, SOFT_ONES | 1}; /* the left column; nothing */
        int32_t rows[] = {0, 1, 2, 2, 2, 2}, keys[4] = {0}, labels[2] = {9, 9};
        OpAttr attr = {.error_click = {.size = 2, .round = 1, .frame = 2}};
        Tensor src[] = {F32(map, 1, 2, 2, 2), I32(words, 1, 2), I32(rows, 1, 2, 3),
                        F32(weight, 1, 2), I32(keys, 1, 2, 2)};
        Tensor dst[] = {F32(coords, 1, 2, 1, 2), I32(labels, 1, 2, 1)};
        run_op(backends[b], OP_ERROR_CLICK, attr, 5, src, 2, dst);
        for (int i = 0; i < 2; i++) cr_expect_eq(labels[i], -2, "mask %d: %d", i, labels[i]);
        for (int i = 0; i < 4; i++) cr_expect_eq(coords[i], 0);
    }
}

Test(iou, of_masks_and_error_by_hand)
{
    /* candidates 0: all; 1: the upper row; 2: nothing; targets: the left column, nothing */
    static const float candidates[] = {1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1};
    static const float wanted[] = {0, 1.0f / 3, 0, 0, 0, 0};
    float maps[24], iou[6], pred[] = {9, 0.5f, 1, 9, 2, 3}, weight[] = {0.5f, 2}, loss;
    uint32_t words[] = {SOFT_ONES | 1, SOFT_ONES | 1};
    int32_t rows[] = {0, 1, 2, 2, 2, 2}, mode = 1;
    memcpy(maps, candidates, sizeof candidates);
    memcpy(maps + 12, candidates, sizeof candidates);
    for (int b = 0; b < 2; b++) {
        OpAttr attr = {.mask_iou = {2}}, scale = {.iou_mse = {0.5}};
        Tensor src[] = {F32(maps, 1, 2, 3, 2, 2), I32(words, 1, 2), I32(rows, 1, 2, 3),
                        I32(&mode, 1)};
        Tensor dst = F32(iou, 1, 2, 3);
        run_op(backends[b], OP_MASK_IOU, attr, 4, src, 1, &dst);
        for (int i = 0; i < 6; i++)
            cr_expect_float_eq(iou[i], wanted[i], 1e-7, "%d: %g", i, iou[i]);
        Tensor head[] = {F32(pred, 1, 2, 3), dst, I32(&mode, 1), F32(weight, 1, 2)};
        Tensor sum = F32(&loss, 1);
        run_op(backends[b], OP_IOU_MSE, scale, 4, head, 1, &sum);
        double first = (1.0 / 36 + 1) / 2, second = (4.0 + 9) / 2;
        cr_expect_float_eq(loss, 0.5 * (0.5 * first + 2 * second), 1e-6, "%g", loss);
    }
}

Test(concat, refuses_labels_beside_floats)
{
    OpAttr attr = {.concat = {0}};
    ShapeCall call = {.op = OP_CONCAT, .label = "x", .attr = &attr, .n_src = 2};
    call.src[0] = (Tensor){.dtype = DT_F32, .shape = SHAPE(3)};
    call.src[1] = (Tensor){.dtype = DT_I32, .shape = SHAPE(2)};
    cr_expect_eq(rules_infer(&call), E_SHAPE);
    cr_expect_not_null(strstr(status_message(), "source 1 is int32"), "%s", status_message());
    call.src[0].dtype = DT_I32;
    cr_expect_eq(rules_infer(&call), OK);
    cr_expect_eq(call.dst[0].dtype, DT_I32);
}
