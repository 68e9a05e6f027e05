/* The learning rate at the points where schedules go wrong: first step, end of warm-up, last step,
 * beyond. */
#include <criterion/criterion.h>

#include "train/schedule.h"

Test(schedule, cosine_starts_at_lr_and_ends_near_zero)
{
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 2.0, 0, 100, 0), 2.0, 1e-15);
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 2.0, 0, 100, 50), 1.0, 1e-12);
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 2.0, 0, 100, 25), 1.70710678118654752, 1e-12);
    cr_assert_eq(schedule_lr(SCHEDULE_COSINE, 2.0, 0, 100, 100), 0.0);
    cr_assert_eq(schedule_lr(SCHEDULE_COSINE, 2.0, 0, 100, 150), 0.0, "must not rise again");
}

Test(schedule, warm_up_is_linear_and_never_zero)
{
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 1.0, 4, 104, 0), 0.25, 1e-15);
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 1.0, 4, 104, 3), 1.0, 1e-15);
    cr_assert_float_eq(schedule_lr(SCHEDULE_COSINE, 1.0, 4, 104, 54), 0.5, 1e-12);
    cr_assert_float_eq(schedule_lr(SCHEDULE_CONSTANT, 3.0, 0, 10, 9), 3.0, 0);
}
