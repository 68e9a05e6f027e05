/* Masks from boxes, between two steps. See validation.h. */
#include "train/validation.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/boundary.h"
#include "train/judged.h"
#include "train/miou.h"

enum { BOXES_AT_ONCE = 8 };

struct Validation {
    int64_t every;
    Comm *comm; /* the ranks that share the images; NULL: one */
    Source *source;
    Predictor *predictor;
    JudgedImage image; /* the present one */
    BoundaryScratch boundary;
    float *logits, *iou; /* (BOXES_AT_ONCE,3,lowres,lowres), (BOXES_AT_ONCE,3) */
    Miou miou, boundary_miou;
};

/* ---- opening ---- */

static Status open_parts(const Options *o, const Recipe *recipe, StepKind kind, Validation *v)
{
    StepConfig config;
    TRY(judged_open_source(&o->val_root, "val.root", o->val_limit, &v->source));
    TRY(judged_open(&v->image));
    recipe_step_config(recipe, o, kind, &config);
    TRY(predictor_create(recipe->model, recipe->store, recipe->backend, BN_EVAL, config.precision,
                         BOXES_AT_ONCE, &v->predictor));
    size_t n = BOXES_AT_ONCE * PREDICTOR_CANDIDATES;
    size_t lowres = (size_t)predictor_lowres(v->predictor);
    v->logits = mem_alloc(n * lowres * lowres * sizeof(float));
    v->iou = mem_alloc(n * sizeof(float));
    return OK;
}

Status validation_open(const Options *options, const Recipe *recipe, StepKind kind,
                       Validation **out)
{
    *out = NULL;
    if (options->val_root.n == 0) return OK;
    if (kind == STEP_DISTILL && !recipe->teacher)
        return status_fail(E_CONFIG, "val.root: masks of a distilled encoder come from its "
                                     "teacher's decoder; set teacher.model and teacher.weights");
    Validation *v = mem_alloc(sizeof *v);
    *v = (Validation){.every = options->val_every, .comm = recipe->backend->comm};
    Status status = open_parts(options, recipe, kind, v);
    if (status == OK)
        *out = v;
    else
        validation_close(v);
    return status;
}

void validation_close(Validation *validation)
{
    Validation *v = validation;
    if (!v) return;
    predictor_destroy(v->predictor);
    source_close(v->source);
    judged_close(&v->image);
    boundary_scratch_free(&v->boundary);
    free(v->logits);
    free(v->iou);
    free(v);
}

bool validation_is_due(const Validation *validation, int64_t n_done, int64_t n_steps)
{
    return validation && (n_done % validation->every == 0 || n_done == n_steps);
}

/* ---- masks ---- */

typedef struct Boxes { /* that are worked on together */
    const Annotation *items[BOXES_AT_ONCE];
    double corners[BOXES_AT_ONCE][4];
    Prompt prompts[BOXES_AT_ONCE];
    int64_t n;
} Boxes;

static Status score_mask(Validation *v, const Annotation *item, int64_t place)
{
    const float *iou = v->iou + place * PREDICTOR_CANDIDATES;
    int64_t best = predictor_most_confident(iou, PREDICTOR_CANDIDATES);
    int64_t number = place * PREDICTOR_CANDIDATES + best, lowres = predictor_lowres(v->predictor);
    ImageSize size = v->image.size;
    uint8_t *truth = v->image.truth.data, *prediction = v->image.prediction.data;
    double boundary;
    rle_decode(&item->mask, truth);
    predictor_mask(v->predictor, v->logits + number * lowres * lowres, prediction);
    TRY(boundary_iou(&v->boundary, truth, prediction, size, boundary_distance(size), &boundary));
    miou_add(&v->miou, item->area, mask_iou(truth, prediction, size.height * size.width));
    miou_add(&v->boundary_miou, item->area, boundary);
    return OK;
}

static Status score_boxes(Validation *v, Boxes *boxes)
{
    TRY(predictor_predict(v->predictor, boxes->n, boxes->prompts, true, v->logits, v->iou));
    for (int64_t i = 0; i < boxes->n; i++) TRY(score_mask(v, boxes->items[i], i));
    boxes->n = 0;
    return OK;
}

static void add_box(Boxes *boxes, const Annotation *item)
{
    double *corners = boxes->corners[boxes->n];
    judged_box(item, corners);
    boxes->items[boxes->n] = item;
    boxes->prompts[boxes->n++] = (Prompt){.box = corners};
}

static Status score_masks(Validation *v)
{
    Boxes boxes = {.n = 0};
    for (int64_t i = 0; i < v->image.annotations.n_items; i++) {
        if (v->image.annotations.items[i].area < 1) continue;
        add_box(&boxes, &v->image.annotations.items[i]);
        if (boxes.n == BOXES_AT_ONCE) TRY(score_boxes(v, &boxes));
    }
    return boxes.n > 0 ? score_boxes(v, &boxes) : OK;
}

static Status record(const Validation *v, int64_t step, double seconds, Log *log,
                     Tensorboard *board)
{
    double miou = miou_mean(&v->miou, AREA_ALL);
    double boundary = miou_mean(&v->boundary_miou, AREA_ALL);
    LogField fields[] = {
        LOG_INT("step", step),
        LOG_DOUBLE("val_miou", miou),
        LOG_DOUBLE("val_boundary_iou", boundary),
        LOG_DOUBLE("val_ms", 1e3 * seconds),
    };
    TensorboardScalar scalars[] = {{"val_miou", miou}, {"val_boundary_iou", boundary}};
    log_text(log, LOG_INFO,
             "validation after step %" PRId64 ": mIoU %.4f, boundary IoU %.4f, %" PRId64
             " masks of %" PRId64 " images, %.1f s",
             step, miou, boundary, v->miou.n[AREA_ALL], source_size(v->source), seconds);
    TRY(log_record(log, sizeof fields / sizeof fields[0], fields));
    return tensorboard_add(board, step, sizeof scalars / sizeof scalars[0], scalars);
}

Status validation_run(Validation *validation, int64_t step, Log *log, Tensorboard *board,
                      double *miou)
{
    Validation *v = validation;
    double start = clock_seconds();
    v->miou = v->boundary_miou = (Miou){0};
    for (int64_t i = comm_rank(v->comm); i < source_size(v->source); i += comm_size(v->comm)) {
        TRY(judged_read(&v->image, v->source, i, v->predictor));
        TRY(score_masks(v));
    }
    TRY(miou_merge_ranks(v->comm, &v->miou));
    TRY(miou_merge_ranks(v->comm, &v->boundary_miou));
    *miou = miou_mean(&v->miou, AREA_ALL);
    if (comm_rank(v->comm) > 0) return OK;
    return record(v, step, clock_seconds() - start, log, board);
}
