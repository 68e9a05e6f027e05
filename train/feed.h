/* A batch of the loader to the inputs of a step. */
#ifndef RETORT_TRAIN_FEED_H
#define RETORT_TRAIN_FEED_H

#include "data/loader.h"
#include "train/step.h"

/* feed_batch: writes what `step` takes of `batch`.
 * mode   1: three masks, 0: the single one (fine-tuning)
 * errors  E_DEVICE */
Status feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode);

/* feed_scalar: one f32 input of one element (learning rate, loss scale). */
Status feed_scalar(Exec *exec, ValueId input, double value);

#endif
