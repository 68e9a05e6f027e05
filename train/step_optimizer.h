/* The optimiser's part of a step's graph: gates, clipping, AdamW, EMA, running statistics. */
#ifndef RETORT_TRAIN_STEP_OPTIMIZER_H
#define RETORT_TRAIN_STEP_OPTIMIZER_H

#include "train/step.h"

/* step_optimizer: adds the update nodes for step->gradients to the step region and declares the
 * optimiser's store entries ("exp_avg.NAME", "exp_avg_sq.NAME", "step.NAME", "ema.NAME"). Weight
 * decay: 0 for names that contain one of config->no_decay. Nothing is added for a parameter that no
 * path connects to the loss: it is never touched, as a parameter whose gradient is None in PyTorch.
 */
Status step_optimizer(Step *step, BuildContext *context);

#endif
