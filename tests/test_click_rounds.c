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
#include "tests/click_errors.h"
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

static void click(const Scene *scene, int mask, int round, const float *map, float coord[2],
                  int32_t *label)
{
    int pixel[PIXELS], n = click_errors(map, LOWRES, scene->target[mask], SIDE, pixel);
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
