/* Wrong pixels of a mask, by the definitions. See click_errors.h. */
#include "tests/click_errors.h"

#include <math.h>

static double upsampled(const float *map, int64_t low, int64_t side, int64_t y, int64_t x)
{
    double at[2], part[2];
    int64_t first[2], second[2], place[2] = {y, x};
    for (int axis = 0; axis < 2; axis++) {
        at[axis] = fmax(((double)place[axis] + 0.5) * (double)low / (double)side - 0.5, 0);
        first[axis] = (int64_t)at[axis];
        second[axis] = first[axis] + 1 < low ? first[axis] + 1 : first[axis];
        part[axis] = at[axis] - (double)first[axis];
    }
    double above = (1 - part[1]) * map[first[0] * low + first[1]] +
                   part[1] * map[first[0] * low + second[1]];
    double below = (1 - part[1]) * map[second[0] * low + first[1]] +
                   part[1] * map[second[0] * low + second[1]];
    return (1 - part[0]) * above + part[0] * below;
}

int click_errors(const float *map, int64_t low, const float *target, int64_t side, int *pixel)
{
    int n = 0;
    for (int i = 0; i < side * side; i++)
        if ((upsampled(map, low, side, i / side, i % side) > 0) != (target[i] > 0.5f))
            pixel[n++] = i;
    return n;
}
