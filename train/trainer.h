/* The training loop that distillation and fine-tuning share. */
#ifndef RETORT_TRAIN_TRAINER_H
#define RETORT_TRAIN_TRAINER_H

#include "train/options.h"
#include "train/step.h"

/* trainer_run: a run of `kind` (STEP_DISTILL or STEP_FINETUNE) from its first step, or from the
 * state that run.resume finds or names, to its last. Writes config, log and checkpoints into
 * run.dir, and at the end the weights as model.safetensors and the mark DONE.
 * ops     what its states, config and result are written with
 * errors  whatever stops a run, each with its message; E_NUMERIC names the first bad tensor and the
 *         sample ids; E_INTERRUPTED after SIGINT, SIGTERM or SIGUSR1, once the step under way is
 *         done and its state saved. The last good checkpoint stays. */
Status trainer_run(Options *options, StepKind kind, const FileOps *ops);

#endif
