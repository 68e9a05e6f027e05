/* Cases of the optimiser's ops. See op_cases.h. */
#include <math.h>

#include "tests/op_cases.h"

#define SUMSQ(name, ...) {OP_SUMSQ, name, {.sumsq = {0}}, {NORMAL(__VA_ARGS__)}, {CONST(2.5, 1)}}
#define CLIP(name, max_norm, sumsq, loss, loss_scale)                                        \
    {OP_CLIP, name, {.clip = {max_norm}}, {CONST(sumsq, 1), CONST(loss, 1), CONST(loss_scale, 1)}, {{0}}}
#define STATE(step, ...) {NORMAL(__VA_ARGS__), NORMAL(__VA_ARGS__), POSITIVE(__VA_ARGS__), CONST(step, 1)}
#define RECIPE(decay, clip) {.adamw = {0.9, 0.999, 1e-8, decay, 1, clip}}
#define RATES(ok, scale) CONST(1e-3, 1), CONST(ok, 1), CONST(scale, 1)
#define EMA(name, decay, ok, ...) \
    {OP_EMA, name, {.ema = {decay}}, {NORMAL(__VA_ARGS__), CONST(ok, 1)}, {NORMAL(__VA_ARGS__)}}

static const OpCase cases[] = {
    SUMSQ("map", 3, 5, 7),
    SUMSQ("size 1", 1),
    SUMSQ("long", 5003),

    CLIP("not clipped", 10, 4, 1, 1),
    CLIP("clipped", 0.5, 4, 1, 1),
    CLIP("no limit", 0, 400, 1, 1),
    CLIP("loss scale", 1, 1e6, 1, 1024),
    CLIP("overflow", 1, INFINITY, 1, 1024),
    CLIP("lost loss", 1, 4, NAN, 1),
    CLIP("lost gradient", 0, NAN, 1, 1),
    CLIP("no gradient", 1, 0, 1, 1),

    {OP_ADAMW, "first step", RECIPE(0.1, 0), {NORMAL(3, 5), RATES(1, 1)},
     {NORMAL(3, 5), CONST(0, 3, 5), CONST(0, 3, 5), CONST(0, 1)}},
    {OP_ADAMW, "later step", RECIPE(0.1, 0), {NORMAL(3, 5), RATES(1, 0.5)}, STATE(7, 3, 5)},
    {OP_ADAMW, "no decay", RECIPE(0, 0), {NORMAL(7), RATES(1, 1)}, STATE(2, 7)},
    {OP_ADAMW, "clamped", RECIPE(0.1, 0.5), {SCALED(2, 33), RATES(1, 1)}, STATE(1, 33)},
    {OP_ADAMW, "skipped", RECIPE(0.1, 0), {NORMAL(9), RATES(0, 1)}, STATE(4, 9)},
    {OP_ADAMW, "gate open", RECIPE(0.1, 0), {NORMAL(9), RATES(1, 1), CONST(3, 1)}, STATE(4, 9)},
    {OP_ADAMW, "gate shut", RECIPE(0.1, 0), {NORMAL(9), RATES(1, 1), CONST(0, 1)}, STATE(4, 9)},
    {OP_ADAMW, "size 1", RECIPE(0.1, 2), {NORMAL(1), RATES(1, 1)}, STATE(4, 1)},
    {OP_ADAMW, "long", RECIPE(0.1, 2), {NORMAL(3, 1777), RATES(1, 1)}, STATE(99, 3, 1777)},
    {OP_ADAMW, "lower rate", {.adamw = {0.8, 0.95, 1e-6, 0.05, 0.1, 0}}, {NORMAL(21), RATES(1, 1)},
     STATE(1000, 21)},

    EMA("map", 0.99, 1, 3, 5),
    EMA("skipped", 0.99, 0, 3, 5),
    EMA("size 1", 0.5, 1, 1),
    EMA("long", 0.999, 1, 3, 1777),
};

CASE_LIST(cases_optimiser, cases);
