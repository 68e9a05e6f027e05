/* Where a mask is wrong, computed plainly: what the clicks of training rounds are judged by.
 */
#ifndef RETORT_TESTS_CLICK_ERRORS_H
#define RETORT_TESTS_CLICK_ERRORS_H

#include <stdint.h>

/* click_errors: the pixels where map (low,low), logits, resized bilinearly to (side,side), and
 * target (side,side), 0..1, are on different sides, in reading order. returns their number */
int click_errors(const float *map, int64_t low, const float *target, int64_t side, int *pixel);

#endif
