/* Mean IoU, and the command `eval` on a genuine SA-1B pair with a tiny model of drawn weights: what
 * it writes equals what is computed here from the predictor alone. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/clicker.h"
#include "data/json.h"
#include "tests/support.h"
#include "train/commands.h"
#include "train/miou.h"
#include "train/predictor.h"
#include "train/weights.h"

#define MODEL "configs/models/efficientvit_sam_tiny.yaml"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- mean IoU ---- */

Test(miou, areas_on_a_bound_count_twice)
{
    static const double areas[] = {1, 1024, 1025, 9215, 9216, 9217};
    Miou miou = {0};
    for (int i = 0; i < 6; i++) miou_add(&miou, areas[i], 0.125 * i);
    cr_expect_eq(miou.n[AREA_SMALL], 2);
    cr_expect_eq(miou.n[AREA_MEDIUM], 4);
    cr_expect_eq(miou.n[AREA_LARGE], 2);
    cr_expect_eq(miou.n[AREA_ALL], 6);
    cr_expect_float_eq(miou_mean(&miou, AREA_MEDIUM), 0.125 * (1 + 2 + 3 + 4) / 4, 1e-12);
    cr_expect_float_eq(miou_mean(&miou, AREA_LARGE), 0.125 * 4.5, 1e-12);
    cr_expect(isnan(miou_mean(&(Miou){0}, AREA_ALL)));
}

Test(miou, of_empty_masks_is_zero)
{
    uint8_t none[4] = {0}, some[4] = {1, 0, 1, 1};
    cr_expect_eq(mask_iou(none, none, 4), 0);
    cr_expect_eq(mask_iou(none, some, 4), 0);
    cr_expect_float_eq(mask_iou(some, some, 4), 1, 1e-6);
}

/* Whether pixel p, counted down the columns, lies in a run of foreground. */
static bool run_covers(const Rle *mask, int64_t *run, int64_t *end, int64_t p)
{
    while (p >= *end) *end += mask->counts[++*run];
    return *run % 2 == 1;
}

/* The IoU of a mask with itself moved right by `columns`, from its runs alone. */
static double moved_iou(const Rle *mask, int64_t columns)
{
    int64_t run = 0, end = mask->counts[0], late_run = 0, late_end = mask->counts[0];
    int64_t common = 0, either = 0, n_px = mask->height * mask->width;
    for (int64_t p = 0; p < n_px; p++) {
        int64_t late = p - columns * mask->height;
        bool here = run_covers(mask, &run, &end, p);
        bool there = late >= 0 && run_covers(mask, &late_run, &late_end, late);
        common += here && there;
        either += here || there;
    }
    return (double)common / ((double)either + 1e-7);
}

static void move_right(const uint8_t *src, int64_t height, int64_t width, int64_t columns,
                       uint8_t *dst)
{
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            dst[y * width + x] = x >= columns ? src[y * width + x - columns] : 0;
}

Test(miou, of_given_masks_equals_a_count_on_runs)
{
    enum { COLUMNS = 9 };
    char path[256];
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", path);
    Annotations all = {0};
    must(annotations_read(path, &all));
    int64_t n_px = all.height * all.width, n_large = 0;
    uint8_t *truth = mem_alloc((size_t)n_px), *moved = mem_alloc((size_t)n_px);
    Miou miou = {0};
    double sum = 0, sum_large = 0;
    for (int64_t i = 0; i < all.n_items; i++) {
        const Annotation *item = &all.items[i];
        rle_decode(&item->mask, truth);
        move_right(truth, all.height, all.width, COLUMNS, moved);
        miou_add(&miou, item->area, mask_iou(truth, moved, n_px));
        double wanted = moved_iou(&item->mask, COLUMNS);
        sum += wanted;
        sum_large += item->area >= 96 * 96 ? wanted : 0;
        n_large += item->area >= 96 * 96;
    }
    cr_expect_eq(miou.n[AREA_ALL], 65);
    /* each mask is rounded to a unit of 2^-36 */
    cr_expect_float_eq(miou_mean(&miou, AREA_ALL), sum / 65, 0x1p-37);
    cr_expect_float_eq(miou_mean(&miou, AREA_LARGE), sum_large / (double)n_large, 0x1p-37);
    free(truth);
    free(moved);
    annotations_free(&all);
}

/* ---- a folder with a pair, weights and a config ---- */

typedef struct Fixture {
    char folder[256], weights[300], config[300];
    Options options;
    Recipe recipe;
    Predictor *predictor;
    ImageReader reader;
    Annotations annotations;
    int64_t n_px, pixels; /* of the image; of a low-resolution mask */
    uint8_t *truth, *prediction;
} Fixture;

static void write_text(const char *path, const char *text)
{
    must(file_replace(&file_ops_system, path, text, strlen(text)));
}

static void fixture_open(Fixture *f, const char *name, const char *image, const char *masks)
{
    *f = (Fixture){0};
    test_folder(name, f->folder, sizeof f->folder);
    snprintf(f->weights, sizeof f->weights, "%s/weights.safetensors", f->folder);
    snprintf(f->config, sizeof f->config, "%s/config.yaml", f->folder);
    write_text(f->config, "model: " MODEL "\nrun:\n  threads: 1\n");
    write_large_weights(MODEL, 3, f->weights);
    must(options_load(f->config, 0, NULL, &f->options));
    must(predictor_open(&f->options, f->weights, 5, &f->recipe, &f->predictor));
    must(annotations_read(masks, &f->annotations));
    must(image_reader_open(&f->reader));
    must(image_read(&f->reader, image, 0));
    must(predictor_set_image(f->predictor, &f->reader));
    f->n_px = f->annotations.height * f->annotations.width;
    f->pixels = predictor_lowres(f->predictor) * predictor_lowres(f->predictor);
    f->truth = mem_alloc((size_t)f->n_px);
    f->prediction = mem_alloc((size_t)f->n_px);
}

static void fixture_close(Fixture *f)
{
    predictor_destroy(f->predictor);
    recipe_close(&f->recipe);
    options_free(&f->options);
    annotations_free(&f->annotations);
    image_reader_close(&f->reader);
    free(f->truth);
    free(f->prediction);
}

/* ---- eval ---- */

typedef struct Results { /* of the result file */
    double box, box_large, click1, click3, box_fill;
    char select[32];
    int64_t n_masks;
} Results;

static Status take_result(void *user, const JsonEvent *event)
{
    Results *r = user;
    struct {
        const char *path;
        double *value;
    } numbers[] = {{"miou.box.all", &r->box},
                   {"miou.box.large", &r->box_large},
                   {"miou.click1.all", &r->click1},
                   {"miou.click3.all", &r->click3},
                   {"miou.box_fill.all", &r->box_fill}};
    for (int i = 0; i < 5; i++)
        if (strcmp(event->path, numbers[i].path) == 0) *numbers[i].value = event->number;
    if (strcmp(event->path, "miou.box.masks.all") == 0) r->n_masks = (int64_t)event->number;
    if (strcmp(event->path, "select") == 0)
        snprintf(r->select, sizeof r->select, "%.*s", (int)event->n_chars, event->text);
    return OK;
}

/* retort eval with these prompts and this rule, on the folder of the pair. */
static Results run_eval(const Fixture *f, const char *root, const char *prompts, const char *select)
{
    char weights[340], data[340], out[340], kinds[64], rule[64];
    snprintf(weights, sizeof weights, "--weights=%s", f->weights);
    snprintf(data, sizeof data, "--data.root=%s", root);
    snprintf(out, sizeof out, "--out=%s/result.json", f->folder);
    snprintf(kinds, sizeof kinds, "--prompts=%s", prompts);
    snprintf(rule, sizeof rule, "--select=%s", select);
    char *words[] = {(char *)f->config, weights, data, out, kinds, rule};
    Args args = {.n = 6, .words = words};
    must(command_eval(&args));
    Results results = {.box = NAN, .click1 = NAN, .click3 = NAN};
    must(json_read(out + strlen("--out="), take_result, &results));
    return results;
}

static ImageSize size_of(const Fixture *f)
{
    return (ImageSize){f->annotations.height, f->annotations.width};
}

static double iou_of(Fixture *f, const float *logits)
{
    int64_t common = 0, either = 0;
    predictor_mask(f->predictor, logits, f->prediction);
    for (int64_t i = 0; i < f->n_px; i++) {
        common += f->truth[i] && f->prediction[i];
        either += f->truth[i] || f->prediction[i];
    }
    return (double)common / ((double)either + 1e-7);
}

/* The score of one prompt alone under a rule; f->prediction is the mask that was scored. */
static double ask(Fixture *f, const Prompt *prompt, const char *select)
{
    float iou[3], *logits = mem_alloc((size_t)(3 * f->pixels) * sizeof *logits);
    bool first = strcmp(select, "first") == 0, oracle = strcmp(select, "oracle") == 0;
    must(predictor_predict(f->predictor, 1, prompt, !first, logits, iou));
    int best = 0;
    double true_iou[3];
    for (int c = 0; c < (first ? 1 : 3); c++) {
        true_iou[c] = iou_of(f, logits + c * f->pixels);
        if (oracle ? true_iou[c] > true_iou[best] : iou[c] > iou[best]) best = c;
    }
    double score = iou_of(f, logits + best * f->pixels);
    free(logits);
    return score;
}

static double mean_of_boxes(Fixture *f, const char *select, double least_area)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < f->annotations.n_items; i++) {
        const Annotation *item = &f->annotations.items[i];
        if (item->area < least_area) continue;
        double box[4] = {item->bbox[0], item->bbox[1], item->bbox[0] + item->bbox[2],
                         item->bbox[1] + item->bbox[3]};
        rle_decode(&item->mask, f->truth);
        sum += ask(f, &(Prompt){.box = box}, select);
        n++;
    }
    return 100 * sum / (double)n;
}

Test(eval, boxes_equal_a_count_of_their_own)
{
    static const char *const rules[] = {"predicted-iou", "first", "oracle"};
    char root[256], image[256], masks[256];
    SKIP_WITHOUT("data/sa1b/pairs", root);
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.jpg", image);
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", masks);
    Fixture f;
    fixture_open(&f, "eval_boxes", image, masks);
    for (int i = 0; i < 3; i++) {
        Results r = run_eval(&f, root, "box", rules[i]);
        cr_expect_str_eq(r.select, rules[i]);
        cr_expect_eq(r.n_masks, 65);
        cr_expect_float_eq(r.box, mean_of_boxes(&f, rules[i], 0), 1e-3, "%s: %.6f", rules[i],
                           r.box);
        cr_expect_float_eq(r.box_large, mean_of_boxes(&f, rules[i], 9216), 1e-3);
        cr_expect_float_eq(r.box_fill, 73.70468056833927, 1e-6); /* also by numpy */
    }
    fixture_close(&f);
}

/* Clicks on one mask up to `n`; the IoU after the last. */
static double click_through(Fixture *f, Clicker *clicker, const Rle *mask, int64_t n)
{
    Click clicks[8];
    double points[8][2], score = 0;
    int32_t labels[8];
    rle_decode(mask, f->truth);
    memset(f->prediction, 0, (size_t)f->n_px);
    for (int64_t i = 0; i < n; i++) {
        must(clicker_next(clicker, f->truth, f->prediction, size_of(f), i, clicks, &clicks[i]));
        points[i][0] = (double)clicks[i].x;
        points[i][1] = (double)clicks[i].y;
        labels[i] = clicks[i].positive;
        Prompt prompt = {.n_points = i + 1, .points = &points[0][0], .labels = labels};
        score = ask(f, &prompt, "predicted-iou");
    }
    return score;
}

Test(eval, clicks_are_given_anew_and_answer_the_last_mask)
{
    char root[256], image[256], masks[256];
    SKIP_WITHOUT("data/sa1b/pairs", root);
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.jpg", image);
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", masks);
    Fixture f;
    Clicker clicker = {0};
    double click1 = 0, click3 = 0;
    fixture_open(&f, "eval_clicks", image, masks);
    Results r = run_eval(&f, root, "click3,click1", "predicted-iou");
    for (int64_t i = 0; i < f.annotations.n_items; i++) {
        click1 += click_through(&f, &clicker, &f.annotations.items[i].mask, 1) / 65;
        click3 += click_through(&f, &clicker, &f.annotations.items[i].mask, 3) / 65;
    }
    cr_expect_float_eq(r.click1, 100 * click1, 5e-4, "%.6f, wanted %.6f", r.click1, 100 * click1);
    cr_expect_float_eq(r.click3, 100 * click3, 5e-4, "%.6f, wanted %.6f", r.click3, 100 * click3);
    cr_expect_gt(fabs(click1 - click3), 1e-4, "more clicks change nothing: a weak test");
    clicker_free(&clicker);
    fixture_close(&f);
}

Test(eval, wrong_arguments_are_named)
{
    char *unknown_kind[] = {"c.yaml", "--weights=w", "--prompts=box,click0"};
    cr_expect_eq(command_eval(&(Args){.n = 3, .words = unknown_kind}), E_CONFIG);
    cr_expect(strstr(status_message(), "click0"), "%s", status_message());
    char *unknown_rule[] = {"c.yaml", "--weights=w", "--select=best"};
    cr_expect_eq(command_eval(&(Args){.n = 3, .words = unknown_rule}), E_CONFIG);
    cr_expect(strstr(status_message(), "best"), "%s", status_message());
    char *no_weights[] = {"c.yaml"};
    cr_expect_eq(command_eval(&(Args){.n = 1, .words = no_weights}), E_CONFIG);
    cr_expect(strstr(status_message(), "--weights"), "%s", status_message());
}
