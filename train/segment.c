/* `retort segment`: masks of one image from points, boxes and earlier masks.
 *
 *   retort segment IMAGE --model=MODEL.yaml --weights=F --out=FOLDER
 *                  [--point=x,y[,label] ..] [--box=x0,y0,x1,y1] [--mask-input=FILE]
 *                  [--prompt=PART[+PART..] ..] [--select=predicted-iou|first|all] [--save-logits]
 *                  [--key=value ..]
 *
 * All --point, the --box and the --mask-input make one prompt set; each --prompt is a set of its
 * own, as in --prompt=box:10,20,300,400+point:50,60+point:70,80,0. Coordinates are px of the image;
 * label 1 (default): the point is part of the object, 0: it is not. A mask is that of an earlier
 * call, as low-resolution logits in a file (train/mask_input.h).
 *
 * Of SAM's three masks (multimask_output=True) the one with the highest predicted IoU is kept, as
 * by `retort eval` (predicted-iou), or all three (all); first: its single-mask output
 * (multimask_output=False).
 *
 * Written to FOLDER: mask_P.png for each set P, from 0 (with all: mask_P_C.png for its candidates
 * C), overlay.png (overlay_C.png) with the masks and prompts of all sets, and masks.json with run
 * lengths, box, area and predicted IoU of each mask. With --save-logits also logits_P.safetensors
 * (logits_P_C.safetensors), what --mask-input reads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/json_writer.h"
#include "data/overlay.h"
#include "data/png.h"
#include "train/commands.h"
#include "train/mask_input.h"
#include "train/segment_prompts.h"

static const char usage[] =
    "retort segment IMAGE --model=MODEL.yaml --weights=F --out=FOLDER [--point=x,y[,label] ..] "
    "[--box=x0,y0,x1,y1] [--mask-input=FILE] [--prompt=PART[+PART..] ..] "
    "[--select=predicted-iou|first|all] [--save-logits] [--key=value ..]; "
    "PART: point:x,y[,label], box:x0,y0,x1,y1 or mask:FILE";

typedef enum Keep { KEEP_PREDICTED_IOU, KEEP_FIRST, KEEP_ALL, N_KEEPS } Keep;
static const char *const keep_names[] = {"predicted-iou", "first", "all"};

typedef struct Segment {
    const char *image, *weights, *folder;
    Keep keep;
    bool save_logits;
    int64_t n_candidates; /* masks that are kept of a set */
    PromptSets sets;
    Options options;
    Recipe recipe;
    Predictor *predictor;
    ImageReader reader;
    ImageSize size; /* px */
    int64_t n_px;
    uint8_t *masks; /* (sets,candidates,height,width) */
    float *logits, *iou;
} Segment;

static uint8_t *mask_of(const Segment *s, int64_t set, int64_t candidate)
{
    return s->masks + (set * s->n_candidates + candidate) * s->n_px;
}

/* "STEM_SET.ENDING", with three masks a set "STEM_SET_CANDIDATE.ENDING"; set < 0 leaves it out. */
static void name_file(const Segment *s, const char *stem, int64_t set, int64_t candidate,
                      const char *ending, char name[64])
{
    int n = snprintf(name, 64, "%s", stem);
    if (set >= 0) n += snprintf(name + n, (size_t)(64 - n), "_%lld", (long long)set);
    if (s->n_candidates > 1)
        n += snprintf(name + n, (size_t)(64 - n), "_%lld", (long long)candidate);
    snprintf(name + n, (size_t)(64 - n), ".%s", ending);
}

/* ---- predicting ---- */

/* Of each set's candidates only the most confident is left, in place `set` of logits and iou. */
static void keep_most_confident(Segment *s)
{
    int64_t lowres = predictor_lowres(s->predictor), n_px = lowres * lowres;
    for (int64_t set = 0; set < s->sets.n; set++) {
        int64_t first = set * PREDICTOR_CANDIDATES;
        int64_t best = first + predictor_most_confident(s->iou + first, PREDICTOR_CANDIDATES);
        memmove(s->logits + set * n_px, s->logits + best * n_px, (size_t)n_px * sizeof(float));
        s->iou[set] = s->iou[best];
    }
}

static Status predict(Segment *s)
{
    int64_t n = s->sets.n, n_masks = n * s->n_candidates, lowres = predictor_lowres(s->predictor);
    size_t n_predicted = (size_t)(n * PREDICTOR_CANDIDATES);
    bool multimask = s->keep != KEEP_FIRST;
    s->logits = mem_alloc(n_predicted * (size_t)(lowres * lowres) * sizeof(float));
    s->iou = mem_alloc(n_predicted * sizeof(float));
    s->masks = calloc((size_t)n_masks, (size_t)s->n_px);
    if (!s->masks) return status_fail(E_MEMORY, "out of memory: %lld masks", (long long)n_masks);
    Prompt *prompts = mem_alloc((size_t)n * sizeof *prompts);
    for (int64_t i = 0; i < n; i++) prompts[i] = prompt_of(&s->sets.items[i]);
    Status status = predictor_predict(s->predictor, n, prompts, multimask, s->logits, s->iou);
    free(prompts);
    TRY(status);
    if (s->keep == KEEP_PREDICTED_IOU) keep_most_confident(s);
    for (int64_t i = 0; i < n_masks; i++)
        predictor_mask(s->predictor, s->logits + i * lowres * lowres, s->masks + i * s->n_px);
    return OK;
}

/* ---- pictures ---- */

static Status write_picture(const Segment *s, const char *name, const uint8_t *pixels, PngKind kind)
{
    char *path = file_join(s->folder, name);
    Status status = png_write(path, pixels, s->size, kind);
    free(path);
    return status;
}

static Status write_mask(const Segment *s, int64_t set, int64_t candidate)
{
    char name[64];
    name_file(s, "mask", set, candidate, "png", name);
    const uint8_t *mask = mask_of(s, set, candidate);
    uint8_t *grey = mem_alloc((size_t)s->n_px);
    for (int64_t i = 0; i < s->n_px; i++) grey[i] = mask[i] ? 255 : 0;
    Status status = write_picture(s, name, grey, PNG_GREY);
    free(grey);
    return status;
}

static void draw_prompts(const PromptSet *set, Colour colour, Canvas *canvas)
{
    if (set->has_box) overlay_box(canvas, set->box, colour);
    for (int64_t i = 0; i < set->n_points; i++)
        overlay_point(canvas, set->points[i][0], set->points[i][1], set->labels[i] == 1);
}

/* One candidate of every set; the prompts on top, so that no mask hides them. */
static Status write_overlay(const Segment *s, int64_t candidate)
{
    char name[64];
    Status status = OK;
    DistanceScratch scratch = {0};
    Canvas canvas = {.rgb = mem_alloc((size_t)s->n_px * 3), .size = s->size};
    memcpy(canvas.rgb, s->reader.image.pixels, (size_t)s->n_px * 3);
    for (int64_t i = 0; i < s->sets.n; i++)
        TRY_GOTO(overlay_mask(&canvas, mask_of(s, i, candidate), overlay_colour(i), &scratch),
                 done);
    for (int64_t i = 0; i < s->sets.n; i++)
        draw_prompts(&s->sets.items[i], overlay_colour(i), &canvas);
    name_file(s, "overlay", -1, candidate, "png", name);
    status = write_picture(s, name, canvas.rgb, PNG_RGB);
done:
    distance_scratch_free(&scratch);
    free(canvas.rgb);
    return status;
}

static Status write_pictures(const Segment *s)
{
    for (int64_t candidate = 0; candidate < s->n_candidates; candidate++) {
        for (int64_t set = 0; set < s->sets.n; set++) TRY(write_mask(s, set, candidate));
        TRY(write_overlay(s, candidate));
    }
    return OK;
}

/* ---- logits ---- */

static Status write_logits(const Segment *s)
{
    int64_t side = predictor_lowres(s->predictor);
    for (int64_t i = 0; i < s->sets.n * s->n_candidates; i++) {
        char name[64];
        name_file(s, "logits", i / s->n_candidates, i % s->n_candidates, "safetensors", name);
        char *path = file_join(s->folder, name);
        Status status = mask_input_write(path, side, s->logits + i * side * side);
        free(path);
        TRY(status);
    }
    return OK;
}

/* ---- JSON ---- */

static void write_runs(JsonWriter *writer, const Rle *rle)
{
    char *text = mem_alloc((size_t)rle->n * RLE_MAX_CHARS_PER_RUN + 1);
    text[rle_to_string(rle, text)] = '\0';
    json_writer_object(writer, "segmentation");
    json_writer_list(writer, "size");
    json_writer_integer(writer, NULL, rle->height);
    json_writer_integer(writer, NULL, rle->width);
    json_writer_end(writer);
    json_writer_text(writer, "counts", text);
    json_writer_end(writer);
    free(text);
}

static void write_mask_record(const Segment *s, JsonWriter *writer, int64_t set, int64_t candidate)
{
    char name[64];
    int64_t box[4];
    Rle rle = {.height = s->size.height, .width = s->size.width};
    rle.counts = mem_alloc((size_t)(s->n_px + 1) * sizeof *rle.counts);
    rle.n = rle_encode(mask_of(s, set, candidate), rle.height, rle.width, rle.counts);
    rle_bbox(&rle, box);
    name_file(s, "mask", set, candidate, "png", name);
    json_writer_object(writer, NULL);
    json_writer_text(writer, "file", name);
    json_writer_number(writer, "predicted_iou", (double)s->iou[set * s->n_candidates + candidate]);
    json_writer_integer(writer, "area", rle_area(&rle));
    json_writer_list(writer, "bbox");
    for (int i = 0; i < 4; i++) json_writer_integer(writer, NULL, box[i]);
    json_writer_end(writer);
    write_runs(writer, &rle);
    json_writer_end(writer);
    free(rle.counts);
}

static void write_prompt(JsonWriter *writer, const PromptSet *set)
{
    json_writer_list(writer, "points");
    for (int64_t i = 0; i < set->n_points; i++) {
        json_writer_list(writer, NULL);
        json_writer_number(writer, NULL, set->points[i][0]);
        json_writer_number(writer, NULL, set->points[i][1]);
        json_writer_integer(writer, NULL, set->labels[i]);
        json_writer_end(writer);
    }
    json_writer_end(writer);
    if (set->mask_path) json_writer_text(writer, "mask_input", set->mask_path);
    if (!set->has_box) return;
    json_writer_list(writer, "box");
    for (int i = 0; i < 4; i++) json_writer_number(writer, NULL, set->box[i]);
    json_writer_end(writer);
}

static Status write_json(const Segment *s)
{
    JsonWriter *writer = json_writer_create();
    json_writer_object(writer, NULL);
    json_writer_text(writer, "image", s->image);
    json_writer_integer(writer, "height", s->size.height);
    json_writer_integer(writer, "width", s->size.width);
    json_writer_text(writer, "model", model_name(s->recipe.model));
    json_writer_text(writer, "weights", s->weights);
    json_writer_text(writer, "select", keep_names[s->keep]);
    json_writer_list(writer, "prompts");
    for (int64_t set = 0; set < s->sets.n; set++) {
        json_writer_object(writer, NULL);
        write_prompt(writer, &s->sets.items[set]);
        json_writer_list(writer, "masks");
        for (int64_t c = 0; c < s->n_candidates; c++) write_mask_record(s, writer, set, c);
        json_writer_end(writer);
        json_writer_end(writer);
    }
    json_writer_end(writer);
    json_writer_end(writer);
    char *path = file_join(s->folder, "masks.json");
    Status status = json_writer_commit(writer, path);
    free(path);
    return status;
}

/* ---- the command ---- */

static Status parse_keep(const char *name, Keep *out)
{
    for (*out = 0; *out < N_KEEPS; (*out)++)
        if (!name || strcmp(name, keep_names[*out]) == 0) return OK;
    return status_fail(E_CONFIG, "--select=%s: wanted predicted-iou, first or all", name);
}

static Status parse_args(Args *args, Segment *s)
{
    s->image = args_positional(args);
    if (!s->image) return status_fail(E_CONFIG, "name an image; usage: %s", usage);
    TRY(args_need(args, "weights", usage, &s->weights));
    TRY(args_need(args, "out", usage, &s->folder));
    TRY(prompt_sets_parse(args, &s->sets));
    TRY(parse_keep(args_flag(args, "select"), &s->keep));
    s->n_candidates = s->keep == KEEP_ALL ? PREDICTOR_CANDIDATES : 1;
    s->save_logits = args_switch(args, "save-logits");
    return options_load(NULL, args->n, args->words, &s->options);
}

static Status run_segment(Args *args, Segment *s)
{
    TRY(parse_args(args, s));
    TRY(image_reader_open(&s->reader));
    TRY(image_read(&s->reader, s->image, 0));
    s->size = image_full_size(&s->reader);
    s->n_px = s->size.height * s->size.width;
    TRY(prompt_sets_check(&s->sets, s->size));
    int64_t at_once = s->sets.n < 8 ? s->sets.n : 8;
    TRY(predictor_open(&s->options, s->weights, at_once, &s->recipe, &s->predictor));
    TRY(prompt_sets_read_masks(&s->sets, predictor_lowres(s->predictor)));
    TRY(predictor_set_image(s->predictor, &s->reader));
    TRY(predict(s));
    TRY(file_make_folders(s->folder));
    TRY(write_pictures(s));
    if (s->save_logits) TRY(write_logits(s));
    TRY(write_json(s));
    for (int64_t i = 0; i < s->sets.n * s->n_candidates; i++)
        printf("prompt %lld, mask %lld: predicted IoU %.4f\n", (long long)(i / s->n_candidates),
               (long long)(i % s->n_candidates), (double)s->iou[i]);
    return OK;
}

Status command_segment(Args *args)
{
    Segment s = {0};
    Status status = run_segment(args, &s);
    predictor_destroy(s.predictor);
    recipe_close(&s.recipe);
    image_reader_close(&s.reader);
    prompt_sets_free(&s.sets);
    free(s.masks);
    free(s.logits);
    free(s.iou);
    options_free(&s.options);
    return status;
}
