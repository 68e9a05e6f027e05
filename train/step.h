/* One training step as a graph: the recipe of distillation or fine-tuning, with its optimiser.
 *
 * Used by `distill`, `finetune`, `trace` and `bench`, so that what is compared with PyTorch and
 * timed is what trains. The program (see autograd/graph.h for regions):
 *
 *   step -> micro-batch x n_micro -> [teacher x n_teacher] -> encoder
 *                                 -> chunk of masks x n_chunk: decoder, loss, [click, decoder,
 * loss] .., and their backward pass
 *                                 -> encoder's backward pass
 *        -> clip, AdamW, running statistics, EMA
 *
 * Inputs are laid out so that every iteration's part is contiguous: per-mask inputs are
 * (n_micro, n_chunk, micro_batch, chunk, ..); step_feed_masks rearranges (B,M,..) to that.
 */
#ifndef RETORT_TRAIN_STEP_H
#define RETORT_TRAIN_STEP_H

#include "autograd/exec.h"
#include "model/model.h"

typedef enum StepKind {
    STEP_ENCODE, /* image -> embedding */
    STEP_DECODE, /* image or embedding, prompts -> masks; no loss */
    STEP_DISTILL,
    STEP_FINETUNE,
} StepKind;

typedef enum MaskLoss { LOSS_FOCAL, LOSS_BCE_POINTS } MaskLoss;

typedef struct StepConfig {
    StepKind kind;
    BnMode bn;
    DType precision;                      /* DT_F32, DT_BF16, DT_F16 */
    int64_t batch, micro_batch;           /* images of this rank */
    int world_size;                       /* ranks whose gradients are summed; 0 and 1: no others */
    int64_t n_masks, mask_chunk, n_slots; /* M, masks per chunk, P */
    bool given_embedding; /* STEP_DECODE: the embedding is an input, no encoder runs */
    bool mask_input;      /* prompts carry a mask */
    bool keep_extent;     /* distillation: only the un-padded part */
    MaskLoss loss;
    double mask_weight, dice_weight, focal_alpha, focal_gamma;
    double iou_weight;    /* 0: the IoU head is not trained */
    int64_t click_rounds; /* decodings after the first, each with one more click as prompt .. */
    bool click_masks;     /* .. and the last mask */
    int64_t n_points;     /* of LOSS_BCE_POINTS */
    double oversample, importance;
    bool given_points;    /* the points are an input ("loss_points"), not drawn */
    const Model *teacher; /* distillation: the frozen teacher, or NULL: "target" is an input */
    Store *teacher_store;
    int64_t teacher_micro; /* images the teacher takes at a time */
    /* optimiser; update false: gradients only */
    bool update;
    double beta1, beta2, eps, weight_decay, clip_norm, clip_value, ema_decay;
    int n_no_decay;
    const char *const *no_decay; /* substrings of names without weight decay */
    int n_lr_scales;
    const struct LrScale {
        const char *pattern;
        double factor;
    } * lr_scales;
    int n_recompute;
    const char *const *recompute;
} StepConfig;

typedef struct Step {
    StepConfig config;
    const Model *model;
    Store *store;
    Graph *graph;
    int64_t n_micro, n_chunks;
    /* inputs; VALUE_NONE where the kind has none */
    ValueId image, given_embedding, teacher_image, target, extent, coords, labels, mask_input,
        words, rows, weight, mode, point_key, loss_points, lr, loss_scale, stop;
    /* results */
    ValueId loss, norm, ok; /* of all ranks */
    ValueId stopping;       /* how many ranks had `stop` set: all end after the same step */
    ValueId embedding;      /* of the last micro-batch */
    ValueId lowres, iou, terms, candidates, best; /* of the first decoding;
                                            gathered: (n_micro,n_chunk,micro_batch,chunk,..) */
    ValueId prompt_labels;                        /* with all clicks, of a chunk; NONE without */
    void *staging; /* host memory for rearranged inputs; allocated by the first feed, then reused */
    size_t staging_bytes;
    int32_t *no_labels; /* of a slot that fills up the last chunk: all -2; its other inputs are zero
                           bytes */
    void *no_bytes;
    int n_gradients;
    struct StepGradient {
        int entry;
        ValueId value;
    } * gradients; /* parameters that take part */
} Step;

/* step_build: the graph of one step on `store` (declared, not yet allocated: the optimiser adds its
 * entries). words_per_image: capacity of the soft-run input, 32-bit words errors  the graph's,
 * E_CONFIG if batch is not a multiple of micro_batch */
Status step_build(const StepConfig *config, const Model *model, Store *store,
                  int64_t words_per_image, Step **out);
/* step_finish: the passes that come last (cast, recompute, prune); after marking outputs, before
 * exec_create. */
Status step_finish(Step *step);
void step_destroy(Step *step);

/* step_watch_masks: make the per-mask results (lowres, iou, terms, candidates) readable outputs. */
void step_watch_masks(Step *step);

/* step_feed_masks: writes a per-mask input given as (batch, n_masks, bytes_per_mask) to its chunked
 * place; slots beyond n_masks (the last chunk may be partial) get `empty` (bytes_per_mask bytes).
 * step_read_masks: the inverse for a gathered result. */
Status step_feed_masks(Step *step, Exec *exec, ValueId input, const void *host,
                       size_t bytes_per_mask, const void *empty);
Status step_read_masks(Step *step, Exec *exec, ValueId value, void *host, size_t bytes_per_mask);

#endif
