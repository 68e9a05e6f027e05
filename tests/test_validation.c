/* Boundary IoU, and validation during training: its numbers are those of `retort eval`, and the run
 * is the same with and without it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/annotations.h"
#include "data/boundary.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

/* ---- boundaries ---- */

/* By the definition: a pixel that is not set, or none, within the square around (x,y). */
static bool near_background(const uint8_t *mask, ImageSize size, int64_t distance, int64_t y,
                            int64_t x)
{
    for (int64_t v = y - distance; v <= y + distance; v++)
        for (int64_t u = x - distance; u <= x + distance; u++) {
            bool inside = v >= 0 && v < size.height && u >= 0 && u < size.width;
            if (!inside || !mask[v * size.width + u]) return true;
        }
    return false;
}

Test(boundary, is_what_a_square_around_each_pixel_says)
{
    static const ImageSize sizes[] = {{1, 1}, {7, 1}, {1, 9}, {23, 31}, {40, 17}};
    BoundaryScratch scratch = {0};
    uint8_t mask[23 * 31 + 40 * 17], boundary[sizeof mask];
    for (int s = 0; s < 5; s++)
        for (int64_t distance = 1; distance <= 5; distance += 2) {
            ImageSize size = sizes[s];
            RngKey key = {.seed = 5, .sample = (uint64_t)s};
            for (int64_t i = 0; i < size.height * size.width; i++)
                mask[i] = rng_uniform(key, (uint64_t)i) < 0.99;
            must(boundary_of(&scratch, mask, size, distance, boundary));
            for (int64_t i = 0; i < size.height * size.width; i++) {
                bool near = near_background(mask, size, distance, i / size.width, i % size.width);
                cr_assert_eq(boundary[i], mask[i] && near, "%d, %d, %d", s, (int)distance, (int)i);
            }
        }
    boundary_scratch_free(&scratch);
}

Test(boundary, distances_are_two_percent_of_the_diagonal)
{
    cr_expect_eq(boundary_distance((ImageSize){512, 512}), 14);
    cr_expect_eq(boundary_distance((ImageSize){1024, 1024}), 29);
    cr_expect_eq(boundary_distance((ImageSize){10, 10}), 1);
}

/* The masks of a genuine image against themselves moved right by nine columns; the mean comes from
 * a computation in numpy that erodes 51 times by a square of 3 px. */
Test(boundary, iou_of_an_image_equals_repeated_erosion)
{
    char path[256];
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", path);
    Annotations all = {0};
    BoundaryScratch scratch = {0};
    must(annotations_read(path, &all));
    ImageSize size = {all.height, all.width};
    size_t n_px = (size_t)(size.height * size.width);
    uint8_t *truth = mem_alloc(n_px), *moved = mem_alloc(n_px);
    double sum = 0;
    cr_expect_eq(boundary_distance(size), 51);
    for (int64_t i = 0; i < all.n_items; i++) {
        double iou;
        rle_decode(&all.items[i].mask, truth);
        memset(moved, 0, n_px);
        for (int64_t y = 0; y < size.height; y++)
            memcpy(moved + y * size.width + 9, truth + y * size.width, (size_t)size.width - 9);
        must(boundary_iou(&scratch, truth, moved, size, 51, &iou));
        sum += iou;
    }
    cr_expect_float_eq(sum / (double)all.n_items, 0.6914268121500734, 1e-9);
    free(truth);
    free(moved);
    boundary_scratch_free(&scratch);
    annotations_free(&all);
}

/* ---- runs ---- */

typedef struct Judged { /* records of log.jsonl */
    int n;
    int step[16];
    double miou[16], boundary[16];
} Judged;

static Judged read_judged(const char *folder)
{
    char path[300];
    Judged judged = {0};
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    char *text = file_text(path);
    for (char *at = text; (at = strstr(at, "\"val_miou\"")); at++) {
        char *line = at;
        while (line > text && line[-1] != '\n') line--;
        int i = judged.n++;
        cr_assert_eq(sscanf(line, "{\"step\":%d,\"val_miou\":%lf,\"val_boundary_iou\":%lf",
                            &judged.step[i], &judged.miou[i], &judged.boundary[i]),
                     3, "%.80s", line);
    }
    free(text);
    return judged;
}

static double eval_boxes(const char *config, const char *weights, const char *scenes)
{
    double percent = NAN;
    const ProgramResult *r = program_succeed(
        "eval %s --weights=%s --data.root=%s --prompts=box --limit=3", config, weights, scenes);
    const char *line = strstr(r->out, "\nbox: all=");
    cr_assert(line && sscanf(line, "\nbox: all=%lf", &percent) == 1, "%s", r->out);
    return percent / 100;
}

Test(validation, says_what_eval_says_and_changes_nothing)
{
    char root[128], scenes[160], state[256], why[512];
    test_folder("validation", root, sizeof root);
    test_folder("validation/scenes", scenes, sizeof scenes);
    make_scenes(scenes, 5, 4);
    program_succeed(TINY_FINETUNE " --data.root=%s --run.dir=%s/plain --train.steps=5", scenes,
                    root);
    program_succeed(TINY_FINETUNE " --data.root=%s --run.dir=%s/judged --train.steps=5 "
                                  "--val.root=%s --val.every=2 --val.limit=3 --run.keep_last=1",
                    scenes, root, scenes);
    char plain[200], judged[200], folder[160], config[200];
    snprintf(plain, sizeof plain, "%s/plain/model.safetensors", root);
    snprintf(judged, sizeof judged, "%s/judged/model.safetensors", root);
    cr_expect(same_tensors(plain, judged, why, sizeof why), "%s", why);
    snprintf(folder, sizeof folder, "%s/judged", root);
    snprintf(config, sizeof config, "%s/config.yaml", folder);
    Judged records = read_judged(folder);
    cr_assert_eq(records.n, 3);
    static const int wanted[] = {1, 3, 4};
    int best = 0;
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(records.step[i], wanted[i]);
        cr_expect(records.miou[i] > 0 && records.miou[i] < 1, "%g", records.miou[i]);
        cr_expect(records.boundary[i] > 0 && records.boundary[i] < 1, "%g", records.boundary[i]);
        if (records.miou[i] > records.miou[best]) best = i;
    }
    cr_expect_float_eq(records.miou[2], eval_boxes(config, judged, scenes), 1e-5);
    snprintf(state, sizeof state, "%s/judged/checkpoints/step_%09d.safetensors", root,
             records.step[best] + 1);
    cr_expect_float_eq(records.miou[best], eval_boxes(config, state, scenes), 1e-5,
                       "the best is kept");
}

Test(validation, of_distillation_needs_the_teacher_and_its_decoder)
{
    char root[128], scenes[160];
    test_folder("validation_distill", root, sizeof root);
    test_folder("validation_distill/scenes", scenes, sizeof scenes);
    make_scenes(scenes, 4, 3);
    program_succeed(TINY_DISTILL " --data.root=%s --run.dir=%s/run --train.steps=2 --val.root=%s",
                    scenes, root, scenes);
    char folder[160];
    snprintf(folder, sizeof folder, "%s/run", root);
    cr_expect_eq(read_judged(folder).n, 1);
    program_succeed(TINY_TEACH " --data.root=%s --out=%s/embeddings --data.flip=0.5", scenes, root);
    const ProgramResult *r = program_run(
        "distill --model=" TINY_STUDENT TINY_STEP " --data.root=%s --teacher.embeddings=%s/"
        "embeddings --run.dir=%s/two --train.steps=2 --val.root=%s",
        scenes, root, root, scenes);
    cr_expect_eq(r->code, 1);
    cr_expect(strstr(r->err, "teacher.model"), "%s", r->err);
}
