/* A batch of the loader to the inputs of a step. */
#ifndef RETORT_TRAIN_FEED_H
#define RETORT_TRAIN_FEED_H

#include "data/loader.h"
#include "train/step.h"

/* feed_batch: writes what `step` takes of `batch`.
 * mode   1: three masks, 0: the single one (fine-tuning)
 * errors  E_DEVICE */
Status feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode);

/* Per-mask inputs as plain (B,M,..) arrays; NULL where the step has no such input. */
typedef struct MaskTensors {
    const float *coords;      /* (B,M,P,2) */
    const int32_t *labels;    /* (B,M,P) */
    const float *mask_input;  /* (B,M,l,l) */
    const int32_t *rows;      /* (B,M,S+1) */
    const float *weight;      /* (B,M) */
    const int32_t *point_key; /* (B,M,2) */
    const float *loss_points; /* (B,M,4,n_points,2) */
} MaskTensors;

/* feed_mask_tensors: writes them to the step's chunks; slots that fill up the last chunk are empty
 * prompts of weight 0. errors  E_DEVICE */
Status feed_mask_tensors(Step *step, Exec *exec, const MaskTensors *tensors);

/* feed_scalar: one f32 input of one element (learning rate, loss scale). */
Status feed_scalar(Exec *exec, ValueId input, double value);

#endif
