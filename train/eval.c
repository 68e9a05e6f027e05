/* `retort eval`: how well boxes and clicks give the masks of a data set.
 *
 *   retort eval CONFIG --weights=F --data.root=FOLDER
 *               [--prompts=box,click1,click3,click5] [--select=predicted-iou|first|oracle]
 *               [--limit=N] [--out=F.json] [--pictures=FOLDER] [--pictured=N] [--key=value ..]
 *
 * data.root is as in training (data/source.h), but no mask is left out by size or score. One image
 * at a time; annotations of an area below 1 px are left out, crowds are not. `box`: the
 * annotation's box. `clickN`: N clicks, each where the prediction so far is most wrong, all given
 * anew to the model without the earlier mask; the first is made on an empty prediction. A run of
 * five clicks passes through those of one and three.
 *
 * Of a prompt's masks one is scored, and clicked on: that with the highest predicted IoU
 * (predicted-iou, the published protocol), the single-mask output (first), or the best of the three
 * by its true IoU (oracle). The rule is named in the result file.
 *
 * --pictures: the first images (--pictured, 4) with prompts, predictions and true outlines.
 *
 * Ranks of torchrun, mpirun or srun share the images, each image judged once; the results are those
 * of one process, to the bit, and are rank 0's to print and write. It pictures its own images.
 *
 * box_fill is the score of the mask's tight pixel box, filled: what is had without a model.
 *
 * source  the zero-shot evaluation of EfficientViT-SAM
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/text.h"
#include "checkpoints/digest.h"
#include "data/clicker.h"
#include "data/json_writer.h"
#include "kernels/comm/comm.h"
#include "train/commands.h"
#include "train/eval_pictures.h"
#include "train/judged.h"
#include "train/miou.h"
#include "train/predictor.h"
#include "train/ranks.h"

static const char usage[] =
    "retort eval CONFIG --weights=F --data.root=FOLDER "
    "[--prompts=box,click1,click3,click5] [--select=predicted-iou|first|oracle] [--limit=N] "
    "[--out=F.json] [--pictures=FOLDER] [--pictured=N] [--key=value ..]";

enum {
    GROUP = 32, /* masks in work at a time, so that memory does not grow with an image's masks */
    MAX_KINDS = 8,
    MAX_CLICKS = 20,
    PROMPTS_AT_ONCE = 8,
    PROGRESS_SECONDS = 10,
};

typedef enum Select { SELECT_PREDICTED_IOU, SELECT_FIRST, SELECT_ORACLE, N_SELECTS } Select;
static const char *const select_names[] = {"predicted-iou", "first", "oracle"};

typedef struct PromptKind {
    char name[16];
    int64_t n_clicks; /* 0: a box */
    Miou miou;
} PromptKind;

typedef struct EvalArgs {
    const char *config, *weights, *out, *pictures;
    Select select;
    int64_t limit;    /* images; 0: all */
    int64_t pictured; /* images */
} EvalArgs;

typedef struct Eval {
    EvalArgs args;
    PromptKind kinds[MAX_KINDS];
    int n_kinds;
    int64_t max_clicks;
    Miou box_fill;
    Options options;
    Comm *comm; /* NULL: one rank */
    Recipe recipe;
    Predictor *predictor;
    Source *source;
    JudgedImage image; /* the present one */
    Clicker clicker;
    float *logits, *iou; /* (GROUP,C,lowres,lowres), (GROUP,C) */
    EvalPictures *pictures; /* or NULL */
} Eval;

/* Masks of an image that are worked on together, and what was clicked so far. */
typedef struct Group {
    const Annotation *items[GROUP];
    int64_t n;
    Click clicks[GROUP][MAX_CLICKS];
    double points[GROUP][2 * MAX_CLICKS];
    int32_t labels[GROUP][MAX_CLICKS];
    double boxes[GROUP][4];
} Group;

/* ---- scoring ---- */

static int64_t n_candidates(const Eval *e)
{
    return e->args.select == SELECT_FIRST ? 1 : PREDICTOR_CANDIDATES;
}

/* Makes the mask of candidate `c` of place `place` in e->prediction; its IoU with e->image.truth.
 */
static double score_candidate(Eval *e, int64_t place, int64_t c)
{
    int64_t lowres = predictor_lowres(e->predictor), number = place * n_candidates(e) + c;
    predictor_mask(e->predictor, e->logits + number * lowres * lowres, e->image.prediction.data);
    return mask_iou(e->image.truth.data, e->image.prediction.data,
                    e->image.size.height * e->image.size.width);
}

/* The IoU of the candidate that the rule selects; its mask is left in e->image.prediction. */
static double score(Eval *e, int64_t place)
{
    int64_t n = n_candidates(e);
    if (e->args.select != SELECT_ORACLE)
        return score_candidate(e, place, predictor_most_confident(e->iou + place * n, n));
    int64_t best = 0;
    double best_iou = -1, iou = 0;
    for (int64_t c = 0; c < n; c++) {
        iou = score_candidate(e, place, c);
        if (iou > best_iou) best = c;
        if (iou > best_iou) best_iou = iou;
    }
    return best == n - 1 ? iou : score_candidate(e, place, best);
}

/* Scores place `place` of a group, for all kinds that end with this prompt. */
static Status add_score(Eval *e, const Annotation *item, int64_t place, const Prompt *prompt)
{
    rle_decode(&item->mask, e->image.truth.data);
    double iou = score(e, place);
    for (int i = 0; i < e->n_kinds; i++) {
        if (e->kinds[i].n_clicks != prompt->n_points) continue;
        miou_add(&e->kinds[i].miou, item->area, iou);
        if (e->pictures && eval_pictures_wanted(e->pictures))
            TRY(eval_pictures_add(e->pictures, i, item - e->image.annotations.items, prompt,
                                  e->image.truth.data, e->image.prediction.data));
    }
    return OK;
}

/* ---- boxes ---- */

static bool wants_boxes(const Eval *e)
{
    for (int i = 0; i < e->n_kinds; i++)
        if (e->kinds[i].n_clicks == 0) return true;
    return false;
}

static Status predict(Eval *e, int64_t n, const Prompt *prompts)
{
    bool multimask = e->args.select != SELECT_FIRST;
    return predictor_predict(e->predictor, n, prompts, multimask, e->logits, e->iou);
}

static Status eval_boxes(Eval *e, Group *group)
{
    Prompt prompts[GROUP] = {0};
    for (int64_t i = 0; i < group->n; i++) {
        judged_box(group->items[i], group->boxes[i]);
        prompts[i].box = group->boxes[i];
    }
    TRY(predict(e, group->n, prompts));
    for (int64_t i = 0; i < group->n; i++) TRY(add_score(e, group->items[i], i, &prompts[i]));
    return OK;
}

/* ---- clicks ---- */

/* Adds the click that answers e->prediction; e->truth is the mask of place `place`. */
static Status click(Eval *e, Group *group, int64_t place, int64_t n_before)
{
    Click *next = &group->clicks[place][n_before];
    TRY(clicker_next(&e->clicker, e->image.truth.data, e->image.prediction.data, e->image.size,
                     n_before, group->clicks[place], next));
    group->points[place][2 * n_before] = (double)next->x;
    group->points[place][2 * n_before + 1] = (double)next->y;
    group->labels[place][n_before] = next->positive;
    return OK;
}

static Status first_clicks(Eval *e, Group *group)
{
    memset(e->image.prediction.data, 0, (size_t)(e->image.size.height * e->image.size.width));
    for (int64_t i = 0; i < group->n; i++) {
        rle_decode(&group->items[i]->mask, e->image.truth.data);
        TRY(click(e, group, i, 0));
    }
    return OK;
}

static Status eval_clicks(Eval *e, Group *group)
{
    Prompt prompts[GROUP] = {0};
    TRY(first_clicks(e, group));
    for (int64_t n_clicks = 1; n_clicks <= e->max_clicks; n_clicks++) {
        for (int64_t i = 0; i < group->n; i++)
            prompts[i] = (Prompt){
                .n_points = n_clicks, .points = group->points[i], .labels = group->labels[i]};
        TRY(predict(e, group->n, prompts));
        for (int64_t i = 0; i < group->n; i++) {
            TRY(add_score(e, group->items[i], i, &prompts[i]));
            if (n_clicks < e->max_clicks) TRY(click(e, group, i, n_clicks));
        }
    }
    return OK;
}

/* ---- images ---- */

static void add_box_fill(Eval *e, const Annotation *item)
{
    int64_t box[4];
    rle_bbox(&item->mask, box);
    double area = (double)rle_area(&item->mask), filled = (double)(box[2] * box[3]);
    miou_add(&e->box_fill, item->area, area / (filled + 1e-7));
}

static Status eval_group(Eval *e, Group *group)
{
    for (int64_t i = 0; i < group->n; i++) add_box_fill(e, group->items[i]);
    if (wants_boxes(e)) TRY(eval_boxes(e, group));
    return e->max_clicks > 0 ? eval_clicks(e, group) : OK;
}

static Status eval_masks(Eval *e, Group *group)
{
    const Annotations *all = &e->image.annotations;
    group->n = 0;
    for (int64_t i = 0; i < all->n_items; i++) {
        if (all->items[i].area >= 1) group->items[group->n++] = &all->items[i];
        bool full = group->n == GROUP || (i + 1 == all->n_items && group->n > 0);
        if (!full) continue;
        TRY(eval_group(e, group));
        group->n = 0;
    }
    return OK;
}

static Status end_pictures(Eval *e, const char *image_path)
{
    const char *kinds[MAX_KINDS];
    for (int i = 0; i < e->n_kinds; i++) kinds[i] = e->kinds[i].name;
    return eval_pictures_end(e->pictures, image_path, kinds);
}

static Status eval_image(Eval *e, int64_t index, Group *group)
{
    TRY(judged_read(&e->image, e->source, index, e->predictor));
    if (e->pictures) eval_pictures_begin(e->pictures, &e->image.reader);
    TRY(eval_masks(e, group));
    return e->pictures ? end_pictures(e, e->image.name) : OK;
}

static Status eval_all(Eval *e)
{
    Group *group = mem_alloc(sizeof *group);
    time_t reported = time(NULL);
    Status status = OK;
    int64_t first = comm_rank(e->comm), step = comm_size(e->comm);
    for (int64_t i = first; i < source_size(e->source) && status == OK; i += step) {
        comm_at_step(e->comm, i);
        status = eval_image(e, i, group);
        if (first > 0 || time(NULL) - reported < PROGRESS_SECONDS) continue;
        reported = time(NULL);
        fprintf(stderr, "image %lld of %lld\n", (long long)i + 1,
                (long long)source_size(e->source));
    }
    free(group);
    return status;
}

/* ---- results ---- */

static Status merge_all(Eval *e)
{
    comm_at_step(e->comm, source_size(e->source)); /* behind the last image, on all ranks */
    TRY(miou_merge_ranks(e->comm, &e->box_fill));
    for (int i = 0; i < e->n_kinds; i++) TRY(miou_merge_ranks(e->comm, &e->kinds[i].miou));
    return OK;
}

static void print_row(const char *name, const Miou *miou)
{
    printf("%s:", name);
    for (int i = 0; i < N_AREA_CLASSES; i++) {
        double mean = miou_mean(miou, (AreaClass)i);
        if (isnan(mean))
            printf(" %s=-", area_class_names[i]);
        else
            printf(" %s=%.3f", area_class_names[i], 100 * mean);
    }
    printf(" (%lld masks)\n", (long long)miou->n[AREA_ALL]);
}

static void write_row(JsonWriter *writer, const char *name, const Miou *miou)
{
    json_writer_object(writer, name);
    for (int i = 0; i < N_AREA_CLASSES; i++)
        json_writer_number(writer, area_class_names[i], 100 * miou_mean(miou, (AreaClass)i));
    json_writer_object(writer, "masks");
    for (int i = 0; i < N_AREA_CLASSES; i++)
        json_writer_integer(writer, area_class_names[i], miou->n[i]);
    json_writer_end(writer);
    json_writer_end(writer);
}

static Status write_results(const Eval *e)
{
    char sha256[DIGEST_HEX_BYTES];
    TRY(file_sha256(e->args.weights, sha256));
    JsonWriter *writer = json_writer_create();
    json_writer_object(writer, NULL);
    json_writer_text(writer, "model", model_name(e->recipe.model));
    json_writer_text(writer, "weights", e->args.weights);
    json_writer_text(writer, "weights_sha256", sha256);
    json_writer_text(writer, "data", e->options.text[OPTION_data_root]);
    json_writer_integer(writer, "images", source_size(e->source));
    json_writer_text(writer, "select", select_names[e->args.select]);
    json_writer_text(writer, "unit", "mean IoU in percent");
    json_writer_object(writer, "miou");
    write_row(writer, "box_fill", &e->box_fill);
    for (int i = 0; i < e->n_kinds; i++) write_row(writer, e->kinds[i].name, &e->kinds[i].miou);
    json_writer_end(writer);
    json_writer_end(writer);
    return json_writer_commit(writer, e->args.out);
}

/* ---- the command ---- */

static Status add_kind(Eval *e, const char *name)
{
    PromptKind kind = {0};
    bool is_click = strncmp(name, "click", 5) == 0 && text_to_int(name + 5, &kind.n_clicks) &&
                    kind.n_clicks >= 1 && kind.n_clicks <= MAX_CLICKS;
    if ((!is_click && strcmp(name, "box") != 0) || e->n_kinds == MAX_KINDS)
        return status_fail(E_CONFIG,
                           "--prompts: got %s, wanted at most %d of box and click1 to "
                           "click%d",
                           name, MAX_KINDS, MAX_CLICKS);
    snprintf(kind.name, sizeof kind.name, "%s", name);
    if (kind.n_clicks > e->max_clicks) e->max_clicks = kind.n_clicks;
    e->kinds[e->n_kinds++] = kind;
    return OK;
}

static Status parse_kinds(Eval *e, const char *list)
{
    char *copy = mem_string(list ? list : "box,click1,click3,click5"), *rest = copy;
    Status status = OK;
    for (char *name; status == OK && (name = strsep(&rest, ","));) status = add_kind(e, name);
    free(copy);
    return status;
}

static Status parse_select(const char *name, Select *out)
{
    for (int i = 0; i < N_SELECTS; i++) {
        if (name && strcmp(name, select_names[i]) != 0) continue;
        *out = (Select)i; /* absent: the first */
        return OK;
    }
    return status_fail(E_CONFIG, "--select=%s: wanted predicted-iou, first or oracle", name);
}

static Status parse_args(Args *args, Eval *e)
{
    e->args.config = args_positional(args);
    if (!e->args.config) return status_fail(E_CONFIG, "name a config; usage: %s", usage);
    TRY(args_need(args, "weights", usage, &e->args.weights));
    TRY(parse_kinds(e, args_flag(args, "prompts")));
    TRY(parse_select(args_flag(args, "select"), &e->args.select));
    TRY(args_int(args, "limit", 0, 1, INT64_MAX, &e->args.limit));
    TRY(args_int(args, "pictured", 4, 1, INT64_MAX, &e->args.pictured));
    e->args.out = args_flag(args, "out");
    e->args.pictures = args_flag(args, "pictures");
    return options_load(e->args.config, args->n, args->words, &e->options);
}

/* What data.root, data.ids and data.split say, but no mask is left out. */
static Status open_data(Eval *e)
{
    SourceConfig config;
    char *index;
    TRY(recipe_source_config(&e->options, true, NULL, &config, &index));
    if (e->args.limit > 0) config.limit = e->args.limit;
    Status status = source_open(&config, &e->source);
    free(index);
    return status;
}

static Status open_all(Eval *e)
{
    TRY(ranks_open(&e->options, &e->comm));
    comm_doing(e->comm, "", "loading", true);
    TRY(open_data(e));
    TRY(judged_open(&e->image));
    TRY(predictor_open(&e->options, e->args.weights, PROMPTS_AT_ONCE, &e->recipe, &e->predictor));
    e->recipe.backend->comm = e->comm;
    if (e->args.pictures && comm_rank(e->comm) == 0)
        TRY(eval_pictures_open(e->args.pictures, e->args.pictured, e->n_kinds, &e->pictures));
    size_t n = GROUP * (size_t)n_candidates(e), lowres = (size_t)predictor_lowres(e->predictor);
    e->logits = mem_alloc(n * lowres * lowres * sizeof(float));
    e->iou = mem_alloc(n * sizeof(float));
    return OK;
}

static Status run_eval(Args *args, Eval *e)
{
    TRY(parse_args(args, e));
    TRY(open_all(e));
    TRY(eval_all(e));
    TRY(merge_all(e));
    if (comm_rank(e->comm) > 0) return OK;
    printf("%s, %s, %lld images, mask by %s, mean IoU in percent\n", model_name(e->recipe.model),
           e->args.weights, (long long)source_size(e->source), select_names[e->args.select]);
    print_row("box_fill", &e->box_fill);
    for (int i = 0; i < e->n_kinds; i++) print_row(e->kinds[i].name, &e->kinds[i].miou);
    return e->args.out ? write_results(e) : OK;
}

Status command_eval(Args *args)
{
    Eval *e = mem_alloc(sizeof *e);
    Status status = run_eval(args, e);
    if (!comm_close(e->comm, status)) return status;
    predictor_destroy(e->predictor);
    recipe_close(&e->recipe);
    source_close(e->source);
    judged_close(&e->image);
    clicker_free(&e->clicker);
    eval_pictures_close(e->pictures);
    free(e->logits);
    free(e->iou);
    options_free(&e->options);
    free(e);
    return status;
}
