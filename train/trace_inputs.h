/* What `retort trace` is fed: tensors under PyTorch's names and order, turned into a step's inputs.
 */
#ifndef RETORT_TRAIN_TRACE_INPUTS_H
#define RETORT_TRAIN_TRACE_INPUTS_H

#include "checkpoints/safetensors.h"
#include "train/step.h"

typedef struct TraceInputs {
    StepKind kind; /* by what is there: masks, target, prompts, or an image alone */
    BnMode bn;     /* `eval` or `train` if given; else train where there is a loss */
    bool multi;    /* `multi`: 1 (default) or 0 */
    int64_t batch, n_masks, n_slots, n_points;
    float *image;       /* (B,S,S,3) */
    float *target;      /* (B,grid,grid,D) */
    float *coords;      /* (B,M,P,2) */
    int32_t *labels;    /* (B,M,P) */
    float *mask_input;  /* (B,M,l,l) */
    float *loss_points; /* (B,M,4,n_points,2) */
    float *weight;      /* (B,M) */
    int32_t *point_key; /* (B,M,2): the mask's number, so that draws are the same in every trace */
    uint32_t *words;    /* (B,words_per_image) */
    int32_t *rows;      /* (B,M,S+1) */
    int64_t words_per_image;
} TraceInputs;

/* trace_inputs_read: from a safetensors file with image (B,3,S,S) and, as wanted, target
 * (B,D,grid,grid), boxes (B,M,4), points (B,M,P,2) with labels (B,M,P), mask_input (B,M,1,l,l) or
 * (B,M,l,l), masks (B,M,S,S), multi, loss_points (B,M,C,P,2), eval or train (their presence
 * counts). Floats of any kind; integers of any kind for labels, masks and multi.
 *
 * Prompts follow SAM: the points of a mask, a padding point (label -1) if the mask has no box, then
 * the two corners of its box. Slots of label -2 are empty. A box whose four numbers are equal or
 * not numbers is no box, so that a batch may mix images with boxes and images with points. errors
 * E_FILE, E_FORMAT; E_SHAPE naming tensor, got and wanted; E_CONFIG if a needed tensor is absent */
Status trace_inputs_read(const char *path, const Model *model, TraceInputs *out);
void trace_inputs_free(TraceInputs *inputs);

/* trace_inputs_feed: writes them to the inputs of `step`. */
Status trace_inputs_feed(const TraceInputs *inputs, Step *step, Exec *exec);

#endif
