/* Validation during training: how well boxes give the masks of images that are not trained on.
 *
 * Called by the training loop every val.every steps. The protocol is that of `retort eval` with
 * boxes: one image at a time at its own size, of three masks the one with the highest predicted
 * IoU; annotations of an area below 1 px are left out. The means are over masks. So val_miou is
 * what `retort eval --prompts=box` says of the same images and weights.
 *
 * Ranks share the images; their sums do not depend on how (miou.h), so the means are those of one
 * rank.
 *
 * Invariant: nothing of the run changes. The weights are read where training has them, batch norms
 * use their running statistics, and nothing is drawn.
 */
#ifndef RETORT_TRAIN_VALIDATION_H
#define RETORT_TRAIN_VALIDATION_H

#include "train/log.h"
#include "train/recipe.h"
#include "train/tensorboard.h"

typedef struct Validation Validation;

/* validation_open: of val.root, the first val.limit images; *out is NULL if val.root is not set.
 * The recipe's store must be allocated, and outlive it.
 * errors  those of source_open and predictor_create; E_CONFIG if distillation has no teacher.model,
 *         whose decoder makes masks of embeddings */
Status validation_open(const Options *options, const Recipe *recipe, StepKind kind,
                       Validation **out);
void validation_close(Validation *validation); /* NULL is fine */

/* validation_is_due: after this many of the run's steps. */
bool validation_is_due(const Validation *validation, int64_t n_done, int64_t n_steps);

/* validation_run: judges the weights after update `step`, on all ranks at once, which must have the
 * same ones (ranks_share_buffers). Rank 0 records it in the run's log, text and records, and
 * TensorBoard. miou: 0..1, NaN if there is no mask
 * errors  E_FILE and E_FORMAT naming an image or its masks; E_FILE of log and board; E_MEMORY,
 *         E_DEVICE, E_NETWORK */
Status validation_run(Validation *validation, int64_t step, Log *log, Tensorboard *board,
                      double *miou);

#endif
