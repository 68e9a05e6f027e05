/* The training loop that distillation and fine-tuning share. */
#ifndef RETORT_TRAIN_TRAINER_H
#define RETORT_TRAIN_TRAINER_H

#include "train/options.h"
#include "train/step.h"

/* trainer_run: a run of `kind` (STEP_DISTILL or STEP_FINETUNE) from its first step, or from the
 * state that run.resume names, to its last. Writes config, log and checkpoints into run.dir, and at
 * the end the weights as model.safetensors. errors  whatever stops a run, each with its message;
 * E_NUMERIC names the first bad tensor and the sample ids; E_INTERRUPTED after SIGINT or SIGTERM,
 * once the state is saved. The last good checkpoint stays. */
Status trainer_run(Options *options, StepKind kind);

/* trainer_fit_budget: makes the plan fit run.memory_budget. Sets config->mask_chunk where it is 0:
 * the most masks at a time, up to TRAINER_MAX_CHUNK, that fit. errors  E_MEMORY saying what the run
 * would need, with one mask at a time if the chunk was free */
enum { TRAINER_MAX_CHUNK = 8 }; /* beyond it the decoder's matrix products gain nothing */
typedef struct Recipe Recipe;
Status trainer_fit_budget(const Options *options, const Recipe *recipe, int64_t words_per_image,
                          StepConfig *config);

#endif
