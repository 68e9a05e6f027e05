/* SAM's predictor on the engine. See predictor.h. */
#include "train/predictor.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/prompts.h"
#include "data/upsample.h"
#include "train/feed.h"

/* Slots of a prompt, such that with the decoder's own five there are 8, 16, 32 or 64 tokens. */
static const int64_t bucket_slots[] = {3, 11, 27, PREDICTOR_MAX_TOKENS};
enum { N_BUCKETS = sizeof bucket_slots / sizeof bucket_slots[0], N_CANDIDATES = 4 };

typedef struct DecoderGraph {
    Step *step; /* NULL: not built yet */
    Exec *exec;
    int64_t image; /* number of the image whose embedding it holds */
} DecoderGraph;

struct Predictor {
    const Model *model;
    Store *store;
    Backend *backend;
    StepConfig config; /* of the decoders, but for slots and mask input */
    Step *encoder;
    Exec *encoder_exec;
    DecoderGraph decoders[N_BUCKETS][2]; /* without and with mask input */
    int64_t image;                       /* number of the present image; 0: none yet */
    ImageSize size, extent;              /* of the image, and of it inside the prompt frame, px */
    Upsampler upsampler;
    float *pixels;    /* (S,S,3) */
    float *embedding; /* (grid,grid,D) */
    /* of one group of prompts */
    float *coords, *mask_input, *iou, *logits;
    int32_t *labels;
};

/* ---- building ---- */

static Status build_graph(Predictor *p, const StepConfig *config, Step **step, Exec **exec)
{
    TRY(step_build(config, p->model, p->store, 0, step));
    if (config->kind == STEP_ENCODE)
        graph_output((*step)->graph, (*step)->embedding, "embedding");
    else
        step_watch_masks(*step);
    TRY(step_finish(*step));
    return exec_create((*step)->graph, p->backend, exec);
}

static void allocate(Predictor *p)
{
    size_t side = (size_t)model_image_size(p->model), lowres = (size_t)model_lowres(p->model);
    size_t grid = (size_t)model_grid(p->model), n = (size_t)p->config.n_masks;
    size_t cells = grid * grid * (size_t)model_embed_dim(p->model);
    p->pixels = mem_alloc(side * side * 3 * sizeof(float));
    p->embedding = mem_alloc(cells * sizeof(float));
    p->coords = mem_alloc(n * PREDICTOR_MAX_TOKENS * 2 * sizeof(float));
    p->labels = mem_alloc(n * PREDICTOR_MAX_TOKENS * sizeof(int32_t));
    p->mask_input = mem_alloc(n * lowres * lowres * sizeof(float));
    p->iou = mem_alloc(n * N_CANDIDATES * sizeof(float));
    p->logits = mem_alloc(n * N_CANDIDATES * lowres * lowres * sizeof(float));
}

Status predictor_create(const Model *model, Store *store, Backend *backend, BnMode bn,
                        DType precision, int64_t prompts_at_once, Predictor **out)
{
    assert(prompts_at_once > 0);
    Predictor *p = mem_alloc(sizeof *p);
    *p = (Predictor){.model = model, .store = store, .backend = backend};
    p->config = (StepConfig){.kind = STEP_DECODE,
                             .bn = bn,
                             .precision = precision,
                             .batch = 1,
                             .micro_batch = 1,
                             .n_masks = prompts_at_once,
                             .mask_chunk = prompts_at_once,
                             .given_embedding = true};
    StepConfig encoder = {
        .kind = STEP_ENCODE, .bn = bn, .precision = precision, .batch = 1, .micro_batch = 1};
    allocate(p);
    Status status = build_graph(p, &encoder, &p->encoder, &p->encoder_exec);
    if (status == OK)
        *out = p;
    else
        predictor_destroy(p);
    return status;
}

void predictor_destroy(Predictor *predictor)
{
    if (!predictor) return;
    Predictor *p = predictor;
    exec_destroy(p->encoder_exec);
    step_destroy(p->encoder);
    for (int i = 0; i < N_BUCKETS; i++)
        for (int masked = 0; masked < 2; masked++) {
            exec_destroy(p->decoders[i][masked].exec);
            step_destroy(p->decoders[i][masked].step);
        }
    upsampler_free(&p->upsampler);
    void *owned[] = {p->pixels, p->embedding, p->coords, p->mask_input,
                     p->iou,    p->logits,    p->labels};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) free(owned[i]);
    free(p);
}

Status predictor_open(const Options *options, const char *weights_path, int64_t prompts_at_once,
                      Recipe *recipe, Predictor **out)
{
    StepConfig config;
    TRY(recipe_open(options, recipe));
    TRY(recipe_freeze(recipe, options));
    TRY(store_allocate(recipe->store));
    TRY(recipe_load_file(recipe, options, weights_path));
    recipe_step_config(recipe, options, STEP_DECODE, &config);
    return predictor_create(recipe->model, recipe->store, recipe->backend, BN_FOLDED,
                            config.precision, prompts_at_once, out);
}

/* ---- the image ---- */

Status predictor_set_image(Predictor *predictor, ImageReader *reader)
{
    Predictor *p = predictor;
    ImageSize inside; /* of the encoder's square; rounded apart from that of the prompt frame */
    p->size = image_full_size(reader);
    p->extent = resize_fit(p->size, model_frame(p->model));
    TRY(image_to_infer_tensor(reader, model_image_size(p->model), p->pixels, &inside));
    TRY(upsampler_prepare(&p->upsampler, model_lowres(p->model), model_frame(p->model), p->size));
    TRY(exec_write(p->encoder_exec, p->encoder->image, p->pixels));
    TRY(exec_run(p->encoder_exec));
    TRY(exec_read_f32(p->encoder_exec, p->encoder->embedding, p->embedding));
    p->image++;
    return OK;
}

ImageSize predictor_image_size(const Predictor *predictor) { return predictor->size; }

int64_t predictor_lowres(const Predictor *predictor) { return model_lowres(predictor->model); }

const float *predictor_embedding(const Predictor *predictor) { return predictor->embedding; }

void predictor_mask(Predictor *predictor, const float *logits, uint8_t *mask)
{
    upsample_mask(&predictor->upsampler, logits, mask);
}

int64_t predictor_most_confident(const float *iou, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (iou[i] > iou[best]) best = i;
    return best;
}

/* ---- prompts ---- */

/* Without a box SAM adds a padding point to the points. */
static int64_t count_tokens(const Prompt *prompt)
{
    if (prompt->box) return prompt->n_points + 2;
    return prompt->n_points > 0 ? prompt->n_points + 1 : 0;
}

static int bucket_of(int64_t n_tokens)
{
    int bucket = 0;
    while (bucket_slots[bucket] < n_tokens) bucket++;
    return bucket;
}

/* The next slot of a prompt that is being written. */
typedef struct SlotWriter {
    const Predictor *p;
    float *coords;
    int32_t *labels;
    int64_t n;
} SlotWriter;

static void put(SlotWriter *writer, const double *point, int32_t label)
{
    const Predictor *p = writer->p;
    float *xy = writer->coords + 2 * writer->n;
    xy[0] = point ? (float)frame_coordinate(point[0], p->extent.width, p->size.width) : 0;
    xy[1] = point ? (float)frame_coordinate(point[1], p->extent.height, p->size.height) : 0;
    writer->labels[writer->n++] = label;
}

/* Fills the slots of place `place` of the group; prompt NULL: an empty place. */
static void write_prompt(Predictor *p, const Prompt *prompt, int64_t place, int64_t n_slots)
{
    size_t pixels = (size_t)(model_lowres(p->model) * model_lowres(p->model));
    SlotWriter writer = {
        .p = p, .coords = p->coords + place * n_slots * 2, .labels = p->labels + place * n_slots};
    for (int64_t i = 0; prompt && i < prompt->n_points; i++)
        put(&writer, prompt->points + 2 * i, prompt->labels[i]);
    if (prompt && prompt->n_points > 0 && !prompt->box) put(&writer, NULL, LABEL_PADDING);
    if (prompt && prompt->box) {
        put(&writer, prompt->box, LABEL_BOX_FIRST);
        put(&writer, prompt->box + 2, LABEL_BOX_SECOND);
    }
    while (writer.n < n_slots) put(&writer, NULL, LABEL_EMPTY);
    float *mask = p->mask_input + (size_t)place * pixels;
    if (prompt && prompt->mask_input)
        memcpy(mask, prompt->mask_input, pixels * sizeof *mask);
    else
        memset(mask, 0, pixels * sizeof *mask);
}

/* ---- decoding ---- */

static Status ready_decoder(Predictor *p, int bucket, bool masked, DecoderGraph **out)
{
    DecoderGraph *decoder = &p->decoders[bucket][masked];
    *out = decoder;
    if (!decoder->exec) {
        StepConfig config = p->config;
        config.n_slots = bucket_slots[bucket];
        config.mask_input = masked;
        step_destroy(decoder->step); /* of an attempt that failed */
        decoder->step = NULL;
        TRY(build_graph(p, &config, &decoder->step, &decoder->exec));
    }
    if (decoder->image == p->image) return OK;
    TRY(exec_write(decoder->exec, decoder->step->given_embedding, p->embedding));
    decoder->image = p->image;
    return OK;
}

typedef struct Request { /* what predictor_predict was asked */
    const Prompt *prompts;
    bool multimask;
    float *logits, *iou;
} Request;

static void take_candidates(const Predictor *p, const Request *request, int64_t place,
                            int64_t number)
{
    int64_t n = request->multimask ? PREDICTOR_CANDIDATES : 1, first = request->multimask ? 1 : 0;
    size_t pixels = (size_t)(model_lowres(p->model) * model_lowres(p->model));
    memcpy(request->logits + (size_t)(number * n) * pixels,
           p->logits + (size_t)(place * N_CANDIDATES + first) * pixels,
           (size_t)n * pixels * sizeof(float));
    memcpy(request->iou + number * n, p->iou + place * N_CANDIDATES + first,
           (size_t)n * sizeof(float));
}

/* Decodes the prompts with the given numbers, at most prompts_at_once. */
static Status decode_group(Predictor *p, DecoderGraph *decoder, const Request *request, int64_t n,
                           const int64_t *numbers)
{
    Step *step = decoder->step;
    for (int64_t place = 0; place < p->config.n_masks; place++)
        write_prompt(p, place < n ? &request->prompts[numbers[place]] : NULL, place,
                     step->config.n_slots);
    MaskTensors tensors = {.coords = p->coords, .labels = p->labels, .mask_input = p->mask_input};
    TRY(feed_mask_tensors(step, decoder->exec, &tensors));
    TRY(exec_run(decoder->exec));
    TRY(exec_read_f32(decoder->exec, step->lowres, p->logits));
    TRY(exec_read_f32(decoder->exec, step->iou, p->iou));
    for (int64_t place = 0; place < n; place++) take_candidates(p, request, place, numbers[place]);
    return OK;
}

static bool belongs(const Prompt *prompt, int bucket, bool masked)
{
    return bucket_of(count_tokens(prompt)) == bucket && (prompt->mask_input != NULL) == masked;
}

/* All prompts of one kind, in groups. numbers: room for all */
static Status decode_kind(Predictor *p, const Request *request, int64_t n_prompts, int bucket,
                          bool masked, int64_t *numbers)
{
    int64_t n = 0, at_once = p->config.n_masks;
    DecoderGraph *decoder;
    for (int64_t i = 0; i < n_prompts; i++)
        if (belongs(&request->prompts[i], bucket, masked)) numbers[n++] = i;
    if (n == 0) return OK;
    TRY(ready_decoder(p, bucket, masked, &decoder));
    for (int64_t first = 0; first < n; first += at_once) {
        int64_t left = n - first;
        TRY(decode_group(p, decoder, request, left < at_once ? left : at_once, numbers + first));
    }
    return OK;
}

static Status check_prompts(int64_t n, const Prompt *prompts)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t n_tokens = count_tokens(&prompts[i]);
        if (n_tokens > PREDICTOR_MAX_TOKENS)
            return status_fail(E_CONFIG,
                               "prompt %lld has %lld points%s, which makes %lld tokens; "
                               "at most %d are possible",
                               (long long)i, (long long)prompts[i].n_points,
                               prompts[i].box ? " and a box" : "", (long long)n_tokens,
                               PREDICTOR_MAX_TOKENS);
    }
    return OK;
}

Status predictor_predict(Predictor *predictor, int64_t n, const Prompt *prompts, bool multimask,
                         float *logits, float *iou)
{
    assert(predictor->image > 0);
    TRY(check_prompts(n, prompts));
    Request request = {prompts, multimask, logits, iou};
    int64_t *numbers = mem_alloc((size_t)n * sizeof *numbers);
    Status status = OK;
    for (int kind = 0; kind < 2 * N_BUCKETS && status == OK; kind++)
        status = decode_kind(predictor, &request, n, kind / 2, kind % 2, numbers);
    free(numbers);
    return status;
}
