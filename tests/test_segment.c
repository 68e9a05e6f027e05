/* `retort segment` on a drawn image with a tiny model of drawn weights: what it writes equals what
 * is computed here from the predictor alone (which test_predictor.c judges), with each way of
 * choosing masks and with the mask of an earlier call as a prompt. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "checkpoints/weights_file.h"
#include "data/json.h"
#include "tests/support.h"
#include "train/commands.h"
#include "train/mask_input.h"
#include "train/predictor.h"
#include "train/segment_prompts.h"
#include "train/weights.h"

#define MODEL "configs/models/efficientvit_sam_tiny.yaml"
enum { HEIGHT = 150, WIDTH = 201 };

/* In root mean squares of the logits: `segment` decodes its prompts in groups of other sizes, so
 * the orders of summation differ, as in test_predictor.c. */
#define TOL 2e-5

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- prompts ---- */

Test(segment, prompts_are_read_as_written)
{
    char *words[] = {"--prompt=box:1,2,3,4+point:5,6+point:7,8,0+mask:a.pth", "--point=9,10.5",
                     "--point=11,12,0", "--mask-input=b", "--rest"};
    PromptSets sets = {0};
    Args args = {.n = 5, .words = words};
    must(prompt_sets_parse(&args, &sets));
    cr_assert_eq(sets.n, 2);
    cr_expect_eq(args.n, 1, "what is no prompt stays");
    Prompt first = prompt_of(&sets.items[0]), second = prompt_of(&sets.items[1]);
    cr_expect_eq(first.n_points, 2);
    cr_expect_null(first.box);
    cr_expect_eq(first.points[1], 10.5);
    cr_expect_eq(first.labels[0], 1);
    cr_expect_eq(first.labels[1], 0);
    cr_expect_eq(second.n_points, 2);
    cr_expect_eq(second.box[3], 4);
    cr_expect_eq(second.points[3], 8);
    cr_expect_str_eq(sets.items[0].mask_path, "b");
    cr_expect_str_eq(sets.items[1].mask_path, "a.pth");
    cr_expect_eq(prompt_sets_check(&sets, (ImageSize){12, 11}), OK);
    cr_expect_eq(prompt_sets_check(&sets, (ImageSize){11, 11}), E_CONFIG);
    cr_expect(strstr(status_message(), "11,12"), "%s", status_message());
    prompt_sets_free(&sets);
}

Test(segment, wrong_prompts_are_quoted)
{
    static const char *const wrong[][2] = {{"--point=1", "1"},
                                           {"--point=1,2,3", "1,2,3"},
                                           {"--point=1,x", "1,x"},
                                           {"--box=1,2,3", "1,2,3"},
                                           {"--box=5,2,3,4", "5,2,3,4"},
                                           {"--prompt=point:1,2+circle:3", "circle:3"},
                                           {"--prompt=", "got "},
                                           {"--prompt=box:1,2,3,4+box:1,2,3,5", "1,2,3,5"},
                                           {"--prompt=mask:a+mask:b", "mask b"},
                                           {"--nothing", "no prompt"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *words[] = {(char *)wrong[i][0]};
        PromptSets sets = {0};
        cr_expect_eq(prompt_sets_parse(&(Args){.n = 1, .words = words}, &sets), E_CONFIG, "%s",
                     wrong[i][0]);
        cr_expect(strstr(status_message(), wrong[i][1]), "%s: %s", wrong[i][0], status_message());
        prompt_sets_free(&sets);
    }
}

/* ---- a folder with an image and weights ---- */

typedef struct Fixture {
    char folder[256], image[300], weights[300], out[300];
    Options options;
    Recipe recipe;
    Predictor *predictor; /* that has encoded the image */
    ImageReader reader;
    int64_t pixels; /* of a low-resolution mask */
} Fixture;

static void write_image(const char *path)
{
    const uint8_t *bytes;
    size_t n_bytes;
    uint8_t *rgb = mem_alloc(HEIGHT * WIDTH * 3);
    for (int64_t i = 0; i < HEIGHT * WIDTH * 3; i++)
        rgb[i] = (uint8_t)rng_below((RngKey){.purpose = RNG_TEST}, (uint64_t)(i / 150), 256);
    JpegEncoder *encoder = NULL;
    must(jpeg_encoder_create(&encoder));
    must(jpeg_encode(encoder, rgb, HEIGHT, WIDTH, 95, &bytes, &n_bytes));
    must(file_replace(&file_ops_system, path, bytes, n_bytes));
    jpeg_encoder_destroy(encoder);
    free(rgb);
}

static void fixture_open(Fixture *f, const char *name)
{
    *f = (Fixture){0};
    test_folder(name, f->folder, sizeof f->folder);
    snprintf(f->image, sizeof f->image, "%s/image.jpg", f->folder);
    snprintf(f->weights, sizeof f->weights, "%s/weights.safetensors", f->folder);
    snprintf(f->out, sizeof f->out, "%s/out", f->folder);
    write_image(f->image);
    write_large_weights(MODEL, 4, f->weights);
    char *words[] = {"--model=" MODEL, "--run.threads=1"};
    must(options_load(NULL, 2, words, &f->options));
    must(predictor_open(&f->options, f->weights, 1, &f->recipe, &f->predictor));
    must(image_reader_open(&f->reader));
    must(image_read(&f->reader, f->image, 0));
    must(predictor_set_image(f->predictor, &f->reader));
    f->pixels = predictor_lowres(f->predictor) * predictor_lowres(f->predictor);
}

static void fixture_close(Fixture *f)
{
    predictor_destroy(f->predictor);
    recipe_close(&f->recipe);
    options_free(&f->options);
    image_reader_close(&f->reader);
}

/* `segment` with up to four words more; an empty one is left out. */
static Status segment(Fixture *f, const char *a, const char *b, const char *c, const char *d)
{
    char weights[340], out[340];
    char *words[9] = {f->image, "--model=" MODEL, "--run.threads=1", weights, out};
    int n = 5;
    snprintf(weights, sizeof weights, "--weights=%s", f->weights);
    snprintf(out, sizeof out, "--out=%s", f->out);
    const char *const more[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (*more[i]) words[n++] = (char *)more[i];
    return command_segment(&(Args){.n = n, .words = words});
}

static const char *in_out(const Fixture *f, const char *name, char path[400])
{
    snprintf(path, 400, "%s/%s", f->out, name);
    return path;
}

/* ---- what is written ---- */

typedef struct MaskRecord { /* the wanted mask of masks.json */
    int64_t n_masks, area;
    double iou;
    char counts[1 << 20];
    size_t n_chars;
} MaskRecord;

/* Keeps the record of the last mask. */
static Status take_record(void *user, const JsonEvent *event)
{
    MaskRecord *record = user;
    if (strcmp(event->path, "prompts[].masks[]") == 0 && event->kind == JSON_OBJECT)
        record->n_masks++;
    if (strcmp(event->path, "prompts[].masks[].area") == 0) record->area = (int64_t)event->number;
    if (strcmp(event->path, "prompts[].masks[].predicted_iou") == 0) record->iou = event->number;
    if (strcmp(event->path, "prompts[].masks[].segmentation.counts") != 0) return OK;
    cr_assert_lt(event->n_chars, sizeof record->counts);
    memcpy(record->counts, event->text, event->n_chars);
    record->n_chars = event->n_chars;
    return OK;
}

static void read_record(const Fixture *f, MaskRecord *record)
{
    char path[400];
    *record = (MaskRecord){0};
    must(json_read(in_out(f, "masks.json", path), take_record, record));
}

/* The record's mask is that of these logits, but for pixels whose logit is 0 up to rounding. */
static void expect_mask(Fixture *f, const MaskRecord *record, const float *logits)
{
    uint8_t *wanted = mem_alloc(HEIGHT * WIDTH), *got = mem_alloc(HEIGHT * WIDTH);
    int64_t n_different = 0;
    Rle rle = {.height = HEIGHT, .width = WIDTH};
    rle.counts = mem_alloc((HEIGHT * WIDTH + 1) * sizeof *rle.counts);
    must(rle_parse(record->counts, record->n_chars, rle.counts, &rle.n));
    must(rle_check(&rle));
    rle_decode(&rle, got);
    predictor_mask(f->predictor, logits, wanted);
    for (int64_t i = 0; i < HEIGHT * WIDTH; i++) n_different += got[i] != wanted[i];
    cr_expect_leq(n_different, 1, "%d pixels differ", (int)n_different);
    cr_expect_eq(record->area, rle_area(&rle));
    free(rle.counts);
    free(wanted);
    free(got);
}

static void expect_iou(const MaskRecord *record, double wanted)
{
    double off = fabs(record->iou - wanted) / fabs(wanted);
    cr_expect_lt(off, TOL, "predicted IoU %g, wanted %g", record->iou, wanted);
}

/* The logits in a file that `segment` wrote. */
static void expect_logits(const Fixture *f, const char *name, const float *wanted)
{
    char path[400];
    float *got;
    double worst = 0, squares = 0;
    int64_t side = predictor_lowres(f->predictor);
    must(mask_input_read(in_out(f, name, path), side, &got));
    for (int64_t i = 0; i < f->pixels; i++) {
        worst = fmax(worst, fabs((double)got[i] - wanted[i]));
        squares += (double)wanted[i] * wanted[i];
    }
    worst /= sqrt(squares / (double)f->pixels);
    cr_expect_lt(worst, TOL, "%s differs by %g", name, worst);
    free(got);
}

static bool is_written(const Fixture *f, const char *name)
{
    char path[400];
    return file_exists(in_out(f, name, path));
}

/* ---- choosing masks ---- */

static const double box[4] = {20, 30, 120, 110};
#define POINT "--point=60,75"
#define BOX "--prompt=box:20,30,120,110"

Test(segment, all_writes_three_masks_of_each_set)
{
    Fixture f;
    MaskRecord *record = mem_alloc(sizeof *record);
    fixture_open(&f, "segment_all");
    must(segment(&f, POINT, BOX, "--select=all", "--save-logits"));
    float iou[3], *logits = mem_alloc((size_t)(3 * f.pixels) * sizeof *logits);
    must(predictor_predict(f.predictor, 1, &(Prompt){.box = box}, true, logits, iou));
    read_record(&f, record);
    cr_expect_eq(record->n_masks, 6);
    expect_iou(record, iou[2]);
    expect_mask(&f, record, logits + 2 * f.pixels);
    expect_logits(&f, "logits_1_0.safetensors", logits);
    expect_logits(&f, "logits_1_2.safetensors", logits + 2 * f.pixels);
    cr_expect(is_written(&f, "overlay_2.png"));
    cr_expect(is_written(&f, "mask_1_2.png"));
    free(record);
    free(logits);
    fixture_close(&f);
}

Test(segment, predicted_iou_writes_the_most_confident)
{
    Fixture f;
    MaskRecord *record = mem_alloc(sizeof *record);
    fixture_open(&f, "segment_confident");
    must(segment(&f, POINT, BOX, "", ""));
    float iou[3], *logits = mem_alloc((size_t)(3 * f.pixels) * sizeof *logits);
    must(predictor_predict(f.predictor, 1, &(Prompt){.box = box}, true, logits, iou));
    int64_t best = predictor_most_confident(iou, 3);
    read_record(&f, record);
    cr_expect_eq(record->n_masks, 2);
    expect_iou(record, iou[best]);
    expect_mask(&f, record, logits + best * f.pixels);
    cr_expect(is_written(&f, "mask_1.png"));
    cr_expect(is_written(&f, "overlay.png"));
    cr_expect_not(is_written(&f, "logits_1.safetensors"));
    free(record);
    free(logits);
    fixture_close(&f);
}

Test(segment, first_writes_the_single_mask_output)
{
    Fixture f;
    MaskRecord *record = mem_alloc(sizeof *record);
    fixture_open(&f, "segment_first");
    must(segment(&f, POINT, BOX, "--select=first", "--save-logits"));
    float iou, *logits = mem_alloc((size_t)f.pixels * sizeof *logits);
    must(predictor_predict(f.predictor, 1, &(Prompt){.box = box}, false, logits, &iou));
    read_record(&f, record);
    cr_expect_eq(record->n_masks, 2);
    expect_iou(record, iou);
    expect_mask(&f, record, logits);
    expect_logits(&f, "logits_1.safetensors", logits);
    cr_expect_eq(segment(&f, POINT, "--select=best", "", ""), E_CONFIG);
    cr_expect(strstr(status_message(), "best"), "%s", status_message());
    free(record);
    free(logits);
    fixture_close(&f);
}

/* ---- masks as prompts ---- */

/* As with SAM's predictor: a click, then its mask with a second click, and a box with the mask. */
Test(segment, an_earlier_mask_is_a_prompt)
{
    static const double points[] = {60, 75, 150, 20};
    static const int32_t labels[] = {1, 0};
    char mask[440], prompt[440], path[400];
    Fixture f;
    fixture_open(&f, "segment_mask");
    must(segment(&f, POINT, "--save-logits", "", ""));
    float *earlier, iou[3], *logits = mem_alloc((size_t)(3 * f.pixels) * sizeof *logits);
    must(mask_input_read(in_out(&f, "logits_0.safetensors", path), predictor_lowres(f.predictor),
                         &earlier));
    snprintf(mask, sizeof mask, "--mask-input=%s", path);
    snprintf(prompt, sizeof prompt, "--prompt=box:20,30,120,110+mask:%s", path);
    must(segment(&f, "--point=60,75", "--point=150,20,0", mask, "--save-logits"));
    Prompt clicks = {.n_points = 2, .points = points, .labels = labels, .mask_input = earlier};
    must(predictor_predict(f.predictor, 1, &clicks, true, logits, iou));
    expect_logits(&f, "logits_0.safetensors", logits + predictor_most_confident(iou, 3) * f.pixels);
    must(mask_input_write(path, predictor_lowres(f.predictor), earlier));
    must(segment(&f, mask, prompt, "--select=first", "--save-logits"));
    must(predictor_predict(f.predictor, 1, &(Prompt){.mask_input = earlier}, false, logits, iou));
    expect_logits(&f, "logits_0.safetensors", logits);
    must(predictor_predict(f.predictor, 1, &(Prompt){.box = box, .mask_input = earlier}, false,
                           logits, iou));
    expect_logits(&f, "logits_1.safetensors", logits);
    free(earlier);
    free(logits);
    fixture_close(&f);
}

/* What PyTorch users save: any floating-point type, any dims of 1 in front. */
Test(segment, masks_are_read_from_either_format)
{
    enum { SIDE = 3 };
    uint16_t halves[SIDE * SIDE];
    float *got;
    char folder[256], path[300];
    test_folder("segment_mask_formats", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/mask.pth", folder);
    for (int i = 0; i < SIDE * SIDE; i++) halves[i] = f16_from_f32((float)i - 4.25f);
    NamedTensor tensors[] = {{"other", {DT_F16, SHAPE(2), halves}},
                             {"mask_input", {DT_F16, SHAPE(1, 1, SIDE, SIDE), halves}}};
    must(weights_file_write(path, 2, tensors));
    must(mask_input_read(path, SIDE, &got));
    for (int i = 0; i < SIDE * SIDE; i++) cr_expect_eq(got[i], (float)i - 4.25f);
    free(got);
}

Test(segment, masks_that_are_none_are_refused)
{
    enum { SIDE = 3 };
    float values[3 * SIDE * SIDE] = {0};
    int64_t whole[SIDE * SIDE] = {0};
    const struct {
        NamedTensor tensor;
        const char *named;
    } wrong[] = {{{"lowres", {DT_F32, SHAPE(SIDE, SIDE), values}}, "has no tensor mask_input"},
                 {{"mask_input", {DT_F32, SHAPE(3, SIDE, SIDE), values}}, "is 3,3,3 of float32"},
                 {{"mask_input", {DT_F32, SHAPE(SIDE, SIDE, 1), values}}, "is 3,3,1"},
                 {{"mask_input", {DT_I64, SHAPE(SIDE, SIDE), whole}}, "of int64"},
                 {{"mask_input", {DT_F32, SHAPE(1, SIDE, SIDE), values + 2 * SIDE * SIDE}}, "inf"}};
    char folder[256], path[300];
    float *got;
    values[2 * SIDE * SIDE + 5] = INFINITY;
    test_folder("segment_mask_wrong", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/mask.safetensors", folder);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        must(weights_file_write(path, 1, &wrong[i].tensor));
        cr_expect_neq(mask_input_read(path, SIDE, &got), OK, "%s", wrong[i].named);
        cr_expect_null(got);
        cr_expect(strstr(status_message(), path), "%s", status_message());
        cr_expect(strstr(status_message(), wrong[i].named), "%s", status_message());
    }
}
