/* The parts of a step's graph that step.c joins. Used by train/step*.c only. */
#ifndef RETORT_TRAIN_STEP_PARTS_H
#define RETORT_TRAIN_STEP_PARTS_H

#include "train/step.h"

/* step_input: an input of shape (outer, inner); the outer dims are the counts of the loops it is
 * sliced by. */
ValueId step_input(Step *step, const char *name, DType dtype, int n_outer, const int64_t *outer,
                   int n_inner, const int64_t *inner);

/* step_masks: the loop over chunks of masks: decoder, and in fine-tuning its loss and the rounds of
 * clicks. Fills in the step's per-mask inputs and results.
 * returns the loss of the micro-batch, or VALUE_NONE */
ValueId step_masks(Step *step, BuildContext *context, RegionId micro, ValueId embedding,
                   int64_t words_per_image);

#endif
