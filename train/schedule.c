/* The learning-rate schedule. See schedule.h. */
#include "train/schedule.h"

#include <math.h>

double schedule_lr(ScheduleKind kind, double lr, int64_t warmup_steps, int64_t total_steps,
                   int64_t step)
{
    if (step < warmup_steps) return lr * (double)(step + 1) / (double)warmup_steps;
    if (kind == SCHEDULE_CONSTANT) return lr;
    int64_t done = step - warmup_steps, total = total_steps - warmup_steps;
    if (done >= total) return 0;
    return 0.5 * lr * (1 + cos(3.14159265358979323846 * (double)done / (double)total));
}
