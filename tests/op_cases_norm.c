/* Cases of the normalisations. See op_cases.h. */
#include "tests/op_cases.h"

#define BN(title, eps, act, channels, ...) \
    {.op = OP_BATCHNORM, .name = title, .attr.batchnorm = {eps, act}, \
     .src = {NORMAL(__VA_ARGS__, channels), NORMAL(channels), NORMAL(channels)}}
#define FROZEN(title, eps, act, channels, ...) \
    {.op = OP_BATCHNORM_FROZEN, .name = title, .attr.batchnorm_frozen = {eps, act}, \
     .src = {NORMAL(__VA_ARGS__, channels), NORMAL(channels), NORMAL(channels), \
             NORMAL(channels), POSITIVE(channels)}}
#define LN(title, eps, act, channels, ...) \
    {.op = OP_LAYERNORM, .name = title, .attr.layernorm = {eps, act}, \
     .src = {NORMAL(__VA_ARGS__, channels), NORMAL(channels), NORMAL(channels)}}
#define MOMENTS(title, ...) {.op = OP_BN_MOMENTS, .name = title, .src = {NORMAL(__VA_ARGS__)}}
#define MERGE(title, maps, channels) \
    {.op = OP_BN_MERGE, .name = title, .src = {POSITIVE(maps, 2, channels)}}
#define UPDATE(title, momentum, n_values, ok, n, channels) \
    {.op = OP_BN_UPDATE, .name = title, .attr.bn_update = {momentum, n_values}, \
     .src = {NORMAL(n, channels), POSITIVE(n, channels), CONST(ok, 1)}, \
     .dst = {NORMAL(channels), POSITIVE(channels), {DT_I64, DIMS0, FILL_CONST, 41}}}

static const OpCase cases[] = {
    BN("plain", 1e-5, ACT_NONE, 7, 2, 3, 5),
    BN("relu", 1e-5, ACT_RELU, 6, 2, 3, 4),
    BN("gelu tanh", 1e-6, ACT_GELU_TANH, 16, 2, 4, 4),
    BN("gelu erf", 1e-5, ACT_GELU_ERF, 5, 1, 3, 3),
    BN("hardswish", 1e-5, ACT_HARDSWISH, 8, 2, 3, 3),
    BN("one value", 1e-5, ACT_NONE, 3, 1, 1, 1),
    BN("one channel", 1e-5, ACT_NONE, 1, 2, 5, 3),
    BN("many channels", 1e-5, ACT_GELU_TANH, 1100, 1, 2, 2),
    BN("many values", 1e-5, ACT_NONE, 19, 2, 31, 33),
    {.op = OP_BATCHNORM, .name = "far from zero", .attr.batchnorm = {1e-5, ACT_NONE},
     .src = {FLOATS(FILL_PX, 100, 2, 4, 4, 3), NORMAL(3), NORMAL(3)}},

    FROZEN("plain", 1e-5, ACT_NONE, 7, 2, 3, 5),
    FROZEN("relu", 1e-5, ACT_RELU, 6, 2, 3, 4),
    FROZEN("gelu tanh", 1e-6, ACT_GELU_TANH, 16, 1, 4, 4),
    FROZEN("gelu erf", 1e-5, ACT_GELU_ERF, 5, 1, 3, 3),
    FROZEN("hardswish", 1e-5, ACT_HARDSWISH, 8, 2, 3, 3),
    FROZEN("size 1", 1e-5, ACT_NONE, 1, 1, 1, 1),
    FROZEN("many channels", 1e-5, ACT_GELU_TANH, 1100, 1, 2, 2),
    FROZEN("many values", 1e-5, ACT_NONE, 19, 2, 31, 33),

    MOMENTS("plain", 2, 3, 5, 7),
    MOMENTS("one value", 1, 1, 1, 3),
    MOMENTS("one channel", 2, 5, 3, 1),
    MOMENTS("many channels", 1, 2, 2, 1100),
    MOMENTS("many values", 2, 31, 33, 20),
    {.op = OP_BN_MOMENTS, .name = "far from zero", .src = {FLOATS(FILL_PX, 100, 2, 4, 4, 3)}},

    MERGE("one map", 1, 5),
    MERGE("three maps", 3, 7),
    MERGE("one channel", 2, 1),
    MERGE("many maps", 64, 33),
    MERGE("many channels", 2, 1100),

    LN("rows", 1e-5, ACT_NONE, 8, 3),
    LN("map", 1e-6, ACT_NONE, 7, 2, 3, 5),
    LN("relu", 1e-6, ACT_RELU, 9, 2, 3),
    LN("gelu erf", 1e-6, ACT_GELU_ERF, 16, 2, 3, 4),
    LN("gelu tanh", 1e-6, ACT_GELU_TANH, 5, 4, 3),
    LN("hardswish", 1e-6, ACT_HARDSWISH, 12, 4, 3),
    {.op = OP_LAYERNORM, .name = "one channel", .attr.layernorm = {1e-5, ACT_NONE},
     .src = {NORMAL(4, 1), NORMAL(1), NORMAL(1)}, {{0}}, .term_magnitude = 316 /* rstd at eps */},
    {.op = OP_LAYERNORM, .name = "two channels", .attr.layernorm = {1e-5, ACT_NONE},
     .src = {NORMAL(5, 2), NORMAL(2), NORMAL(2)}, {{0}}, .term_magnitude = 1},
    LN("long rows", 1e-6, ACT_NONE, 1280, 3),
    LN("long odd rows", 1e-6, ACT_GELU_ERF, 2051, 2),
    LN("many rows", 1e-6, ACT_NONE, 32, 1, 20, 20),
    {.op = OP_LAYERNORM, .name = "one vector", .attr.layernorm = {1e-5, ACT_NONE},
     .src = {NORMAL(33), NORMAL(33), NORMAL(33)}},

    UPDATE("one micro-batch", 0.1, 64, 1, 1, 5),
    UPDATE("three micro-batches", 0.1, 12, 1, 3, 7),
    UPDATE("skipped step", 0.1, 12, 0, 2, 7),
    UPDATE("two values", 0.5, 2, 1, 1, 1),
    UPDATE("many channels", 0.1, 1000, 1, 2, 1100),
};

CASE_LIST(cases_norm, cases);
