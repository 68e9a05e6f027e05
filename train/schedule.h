/* The learning rate as a function of the step: nothing to save, nothing to drift. */
#ifndef RETORT_TRAIN_SCHEDULE_H
#define RETORT_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef enum ScheduleKind { SCHEDULE_COSINE, SCHEDULE_CONSTANT } ScheduleKind;

/* schedule_lr: learning rate of update `step` (from 0) of `total_steps`.
 * Warm-up is linear, from lr/warmup_steps at step 0 to lr; then constant, or 0.5 lr (1 + cos(pi
 * s/T)) to 0 at T, where s and T count the steps after the warm-up. Beyond T it stays 0 (the
 * formula alone would rise again). source  spec of the recipe, section 5 */
double schedule_lr(ScheduleKind kind, double lr, int64_t warmup_steps, int64_t total_steps,
                   int64_t step);

#endif
