/* Cases of the optimiser's ops. See op_cases.h. */
#include <math.h>

#include "tests/op_cases.h"

#define SUMSQ(title, ...) \
    {.op = OP_SUMSQ, .name = title, .attr.sumsq = {0}, \
     .src = {NORMAL(__VA_ARGS__)}, \
     .dst = {CONST(2.5, 1)}}
#define CLIP(title, max_norm, sumsq, loss, loss_scale) \
    {.op = OP_CLIP, .name = title, .attr.clip = {max_norm}, \
     .src = {CONST(sumsq, 1), CONST(loss, 1), CONST(loss_scale, 1)}}
#define STATE(step, ...) \
    {NORMAL(__VA_ARGS__), NORMAL(__VA_ARGS__), POSITIVE(__VA_ARGS__), CONST(step, 1)}
#define ADAMW(title, decay, clip, state, ...) \
    {.op = OP_ADAMW, .name = title, .attr.adamw = {0.9, 0.999, 1e-8, decay, 1, clip}, \
     .src = {__VA_ARGS__}, \
     .dst = state}
#define RATES(ok, scale) CONST(1e-3, 1), CONST(ok, 1), CONST(scale, 1)
#define EMA(title, decay, ok, ...) \
    {.op = OP_EMA, .name = title, .attr.ema = {decay}, \
     .src = {NORMAL(__VA_ARGS__), CONST(ok, 1)}, \
     .dst = {NORMAL(__VA_ARGS__)}}

static const OpCase cases[] = {
    SUMSQ("map", 3, 5, 7),
    SUMSQ("size 1", 1),
    SUMSQ("long", 20011),

    CLIP("not clipped", 10, 4, 1, 1),
    CLIP("clipped", 0.5, 4, 1, 1),
    CLIP("no limit", 0, 400, 1, 1),
    CLIP("loss scale", 1, 1e6, 1, 1024),
    CLIP("overflow", 1, INFINITY, 1, 1024),
    CLIP("lost loss", 1, 4, NAN, 1),
    CLIP("lost gradient", 0, NAN, 1, 1),
    CLIP("no gradient", 1, 0, 1, 1),

    {.op = OP_ADAMW, .name = "first step", .attr.adamw = {0.9, 0.999, 1e-8, 0.1, 1, 0},
     .src = {NORMAL(3, 5), RATES(1, 1)},
     .dst = {NORMAL(3, 5), CONST(0, 3, 5), CONST(0, 3, 5), CONST(0, 1)}},
    ADAMW("later step", 0.1, 0, STATE(7, 3, 5), NORMAL(3, 5), RATES(1, 0.5)),
    ADAMW("no decay", 0, 0, STATE(2, 7), NORMAL(7), RATES(1, 1)),
    ADAMW("clamped", 0.1, 0.5, STATE(1, 33), SCALED(2, 33), RATES(1, 1)),
    ADAMW("skipped", 0.1, 0, STATE(4, 9), NORMAL(9), RATES(0, 1)),
    ADAMW("gate open", 0.1, 0, STATE(4, 9), NORMAL(9), RATES(1, 1), CONST(3, 1)),
    ADAMW("gate shut", 0.1, 0, STATE(4, 9), NORMAL(9), RATES(1, 1), CONST(0, 1)),
    ADAMW("size 1", 0.1, 2, STATE(4, 1), NORMAL(1), RATES(1, 1)),
    ADAMW("long", 0.1, 2, STATE(99, 11, 1777), NORMAL(11, 1777), RATES(1, 1)),
    {.op = OP_ADAMW, .name = "lower rate", .attr.adamw = {0.8, 0.95, 1e-6, 0.05, 0.1, 0},
     .src = {NORMAL(21), RATES(1, 1)},
     .dst = STATE(1000, 21)},

    EMA("map", 0.99, 1, 3, 5),
    EMA("skipped", 0.99, 0, 3, 5),
    EMA("size 1", 0.5, 1, 1),
    EMA("long", 0.999, 1, 11, 1777),
};

CASE_LIST(cases_optimiser, cases);
