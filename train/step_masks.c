/* The decoder's part of a step: chunks of masks, their losses, and rounds of clicks. See
 * step_parts.h.
 *
 * A round decodes the chunk's masks and adds its loss. Each further round has one more prompt per
 * mask, a click where the best candidate of the round before is wrong, and, with click_masks, that
 * candidate's logits as mask prompt; no gradient goes back through either, so a round is trained as
 * if its prompts were given. The loss is the mean over the rounds.
 *
 * source  Kirillov et al., "Segment Anything" (2023), appendix A, training algorithm
 */
#include <assert.h>

#include "train/step_parts.h"

/* What all rounds of a chunk share. */
typedef struct Chunk {
    Step *step;
    BuildContext *context;
    RegionId micro, region;
    ValueId embedding;                        /* of the micro-batch */
    ValueId words, rows, weight, key, points; /* of the targets; points are given, or NONE */
    double share;                             /* of a round in the loss */
} Chunk;

/* ---- inputs ---- */

static ValueId mask_input(const Chunk *chunk, const char *name, DType dtype, int n,
                          const int64_t *dims, ValueId *input)
{
    Step *step = chunk->step;
    int64_t outer[] = {step->n_micro, step->n_chunks, step->config.micro_batch,
                       step->config.mask_chunk};
    *input = step_input(step, name, dtype, 4, outer, n, dims);
    return graph_slice(step->graph, chunk->region, graph_slice(step->graph, chunk->micro, *input));
}

static PromptInputs prompt_inputs(const Chunk *chunk)
{
    Step *step = chunk->step;
    int64_t n_slots = step->config.n_slots, coords[] = {n_slots, 2};
    int64_t lowres[] = {model_lowres(step->model), model_lowres(step->model)};
    PromptInputs prompts = {0};
    prompts.coords = mask_input(chunk, "coords", DT_F32, 2, coords, &step->coords);
    prompts.labels = mask_input(chunk, "labels", DT_I32, 1, &n_slots, &step->labels);
    if (step->config.mask_input)
        prompts.mask_input = mask_input(chunk, "mask_input", DT_F32, 2, lowres, &step->mask_input);
    return prompts;
}

/* The rank limit lets candidates and points share an axis in the input. */
static ValueId given_points(const Chunk *chunk)
{
    const StepConfig *c = &chunk->step->config;
    int64_t dims[] = {4 * c->n_points, 2};
    ValueId flat = mask_input(chunk, "loss_points", DT_F32, 2, dims, &chunk->step->loss_points);
    return graph_reshape(chunk->step->graph, flat,
                         SHAPE(c->micro_batch, c->mask_chunk, 4, c->n_points, 2));
}

static void target_inputs(Chunk *chunk)
{
    Step *step = chunk->step;
    const StepConfig *c = &step->config;
    int64_t n_rows = model_image_size(step->model) + 1, key[] = {2};
    bool samples = c->loss == LOSS_BCE_POINTS && !c->given_points;
    chunk->rows = mask_input(chunk, "rows", DT_I32, 1, &n_rows, &step->rows);
    if (c->loss == LOSS_BCE_POINTS && c->given_points) chunk->points = given_points(chunk);
    if (samples || c->click_rounds > 0)
        chunk->key = mask_input(chunk, "point_key", DT_I32, 1, key, &step->point_key);
    chunk->weight = mask_input(chunk, "weight", DT_F32, 0, NULL, &step->weight);
}

/* ---- losses ---- */

static ValueId mask_terms(const Chunk *chunk, ValueId logits)
{
    const StepConfig *c = &chunk->step->config;
    Graph *graph = chunk->step->graph;
    ValueId words = chunk->words, rows = chunk->rows, mode = chunk->step->mode;
    ValueId points = chunk->points;
    int64_t size = model_image_size(chunk->step->model);
    if (c->loss == LOSS_FOCAL)
        return graph_op(
            graph, OP_FOCAL_DICE,
            ATTR(focal_dice, .alpha = c->focal_alpha, .gamma = c->focal_gamma, .size = size),
            SRC(logits, words, rows, mode));
    if (!c->given_points)
        points = graph_op(graph, OP_POINT_SAMPLE,
                          ATTR(point_sample, .size = size, .n_points = c->n_points,
                               .oversample = c->oversample, .importance = c->importance),
                          SRC(logits, chunk->key));
    return graph_op(graph, OP_BCE_DICE_POINTS, ATTR(bce_dice_points, .size = size),
                    SRC(logits, words, rows, mode, points));
}

static ValueId iou_loss(const Chunk *chunk, DecoderOutputs decoded)
{
    Graph *graph = chunk->step->graph;
    ValueId mode = chunk->step->mode;
    ValueId iou = graph_op(graph, OP_MASK_IOU,
                           ATTR(mask_iou, .size = model_image_size(chunk->step->model)),
                           SRC(decoded.masks, chunk->words, chunk->rows, mode));
    return graph_op(graph, OP_IOU_MSE,
                    ATTR(iou_mse, .scale = chunk->share * chunk->step->config.iou_weight),
                    SRC(decoded.iou, iou, mode, chunk->weight));
}

/* ---- rounds ---- */

typedef struct Round {
    DecoderOutputs decoded;
    ValueId terms, candidates, best, loss;
} Round;

static void round_loss(const Chunk *chunk, Round *round)
{
    const StepConfig *c = &chunk->step->config;
    Graph *graph = chunk->step->graph;
    int mark = graph_label_push(graph, "loss");
    round->terms = mask_terms(chunk, round->decoded.masks);
    round->loss = graph_op(graph, OP_MIN_CANDIDATE,
                           ATTR(min_candidate, .mask_weight = chunk->share * c->mask_weight,
                                .dice_weight = chunk->share * c->dice_weight),
                           SRC(round->terms, chunk->step->mode, chunk->weight));
    round->candidates = graph_dst(graph, round->loss, 1);
    round->best = graph_dst(graph, round->loss, 2);
    if (c->iou_weight > 0)
        round->loss = graph_op(graph, OP_ADD, NO_ATTR,
                               SRC(round->loss, iou_loss(chunk, round->decoded)));
    graph_label_pop(graph, mark);
}

static Round build_round(const Chunk *chunk, PromptInputs prompts)
{
    const Step *step = chunk->step;
    Round round = {
        .decoded = build_decoder(chunk->context, step->model, chunk->embedding, prompts)};
    if (step->config.kind == STEP_FINETUNE) round_loss(chunk, &round);
    return round;
}

/* The prompts of round `index`, from what the round before gave. */
static PromptInputs add_click(const Chunk *chunk, PromptInputs prompts, const Round *before,
                              int64_t index)
{
    const Step *step = chunk->step;
    Graph *graph = step->graph;
    ClickAttr attr = {.size = model_image_size(step->model),
                      .round = index,
                      .frame = (double)model_frame(step->model)};
    int mark = graph_label_push(graph, "click");
    ValueId mask = graph_op(graph, OP_PICK_CANDIDATE, NO_ATTR,
                            SRC(before->decoded.masks, before->best));
    if (step->config.click_masks) prompts.mask_input = mask;
    ValueId coords = graph_op(
        graph, OP_ERROR_CLICK, (OpAttr){.error_click = attr},
        SRC(mask, chunk->words, chunk->rows, chunk->weight, chunk->key));
    ValueId labels = graph_dst(graph, coords, 1);
    prompts.coords = graph_op(graph, OP_CONCAT, ATTR(concat, .axis = 2),
                              SRC(prompts.coords, coords));
    prompts.labels = graph_op(graph, OP_CONCAT, ATTR(concat, .axis = 2),
                              SRC(prompts.labels, labels));
    graph_label_pop(graph, mark);
    return prompts;
}

/* What a trace shows is of the first round, which all steps have. */
static void keep_results(Step *step, const Round *first)
{
    step->lowres = first->decoded.masks;
    step->iou = first->decoded.iou;
    step->terms = first->terms;
    step->candidates = first->candidates;
    step->best = first->best;
}

/* returns the chunk's loss, or VALUE_NONE */
static ValueId build_rounds(const Chunk *chunk)
{
    Step *step = chunk->step;
    Graph *graph = step->graph;
    PromptInputs prompts = prompt_inputs(chunk);
    Round round = build_round(chunk, prompts);
    ValueId loss = round.loss;
    int n_modules = graph->n_modules; /* act.PATH of a trace is the first round's, too */
    keep_results(step, &round);
    for (int64_t i = 1; i <= step->config.click_rounds; i++) {
        prompts = add_click(chunk, prompts, &round, i);
        round = build_round(chunk, prompts);
        loss = graph_op(graph, OP_ADD, NO_ATTR, SRC(loss, round.loss));
        step->prompt_labels = prompts.labels;
    }
    graph->n_modules = n_modules;
    return loss;
}

ValueId step_masks(Step *step, BuildContext *context, RegionId micro, ValueId embedding,
                   int64_t words_per_image)
{
    Graph *graph = step->graph;
    const StepConfig *c = &step->config;
    Chunk chunk = {.step = step,
                   .context = context,
                   .micro = micro,
                   .embedding = embedding,
                   .share = 1.0 / (double)(1 + c->click_rounds)};
    assert(c->kind == STEP_FINETUNE || c->click_rounds == 0);
    if (c->kind == STEP_FINETUNE) {
        int64_t dims[] = {c->micro_batch, words_per_image};
        step->words = step_input(step, "words", DT_I32, 1, &step->n_micro, 2, dims);
        chunk.words = graph_slice(graph, micro, step->words);
        step->mode = graph_input(graph, "mode", DT_I32, SHAPE(1));
    }
    chunk.region = graph_region_open(graph, micro, step->n_chunks, "chunk");
    if (c->kind == STEP_FINETUNE) target_inputs(&chunk);
    ValueId loss = build_rounds(&chunk);
    if (loss != VALUE_NONE) loss = graph_accumulate(graph, loss);
    graph_region_close(graph, chunk.region);
    return loss;
}
