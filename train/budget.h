/* What a run will take, before anything is allocated, and a choice of chunks that fits what is
 * allowed. Used by the training loop and `bench`. */
#ifndef RETORT_TRAIN_BUDGET_H
#define RETORT_TRAIN_BUDGET_H

#include <stdio.h>

#include "train/recipe.h"

/* budget_fit: makes the plan fit run.memory_budget. Sets config->mask_chunk where it is 0: the most
 * masks at a time, up to BUDGET_MAX_CHUNK, that fit. Where one does not, and run.recompute is
 * empty, it becomes blocks of the encoder, those first that cost least work for what they free, as
 * few as fit; `config` then names them too. What is counted: the plan, and if the run saves the
 * copy of the store that is written as a checkpoint while training goes on (train/saver.h).
 * errors  E_MEMORY saying what the run would need, with what was free to choose at its least */
enum { BUDGET_MAX_CHUNK = 8 }; /* beyond it the decoder's matrix products gain nothing */
Status budget_fit(Options *options, const Recipe *recipe, int64_t words_per_image, bool saves,
                  StepConfig *config);

/* budget_print: a line of the blocks that are computed again, if there are any. */
void budget_print(FILE *out, const StepConfig *config);

#endif
