/* Cases of the elementwise and shape ops. See op_cases.h. Rows above 1,024 elements span several of
 * the blocks that vectorised backends work in; some 10,000 elements are enough for several
 * threads. */
#include "tests/op_cases.h"

#define ADD(title, ...) {.op = OP_ADD, .name = title, .attr.add = {0}, .src = {__VA_ARGS__}}
#define ACT(title, activation, ...) \
    {.op = OP_ACT, .name = title, .attr.act = {activation}, \
     .src = {__VA_ARGS__}}
#define RESHAPE(title, to, ...) \
    {.op = OP_RESHAPE, .name = title, .attr.reshape = {to}, \
     .src = {__VA_ARGS__}}
#define EXPAND(title, to, ...) \
    {.op = OP_EXPAND, .name = title, .attr.expand = {to}, \
     .src = {__VA_ARGS__}}
#define CONCAT(title, along, ...) \
    {.op = OP_CONCAT, .name = title, .attr.concat = {along}, \
     .src = {__VA_ARGS__}}
#define SLICE(title, axis, start, length, ...) \
    {.op = OP_SLICE, .name = title, .attr.slice = {axis, start, length}, \
     .src = {__VA_ARGS__}}
#define PAD(title, axis, before, after, ...) \
    {.op = OP_PAD, .name = title, .attr.pad = {axis, before, after}, \
     .src = {__VA_ARGS__}}
#define SUM(title, to, ...) \
    {.op = OP_REDUCE_SUM, .name = title, .attr.reduce_sum = {to}, \
     .src = {__VA_ARGS__}}
#define GATHER(title, ...) \
    {.op = OP_RANK_GATHER, .name = title, .attr.rank_gather = {1}, .src = {__VA_ARGS__}}
#define FILLED(title, number, ...) \
    {.op = OP_FILL, .name = title, .attr.fill = {number}, \
     .src = {{0}}, \
     .dst = {__VA_ARGS__}}
#define IN_PLACE(OP, title, ...) {.op = OP, .name = title, .src = {{0}}, .dst = {__VA_ARGS__}}
#define CAST(title, to, ...) {.op = OP_CAST, .name = title, .attr.cast = {to}, .src = {__VA_ARGS__}}
#define INTO(OP, title, ...) \
    {.op = OP, .name = title, .attr.copy = {0}, \
     .src = {NORMAL(__VA_ARGS__)}, \
     .dst = {NORMAL(__VA_ARGS__)}}
#define OF(...) DIMS(__VA_ARGS__) /* commas inside another macro's argument */

static const OpCase cases[] = {
    ADD("equal", NORMAL(2, 3, 5, 8), NORMAL(2, 3, 5, 8)),
    ADD("size 1", NORMAL(1), NORMAL(1)),
    ADD("row", NORMAL(2, 3, 5, 7), NORMAL(7)),
    ADD("row on the left", NORMAL(7), NORMAL(2, 3, 5, 7)),
    ADD("shared by masks", NORMAL(2, 3, 5, 8), NORMAL(2, 1, 5, 8)),
    ADD("both stretch", NORMAL(2, 1, 5, 1), NORMAL(3, 1, 4)),
    ADD("column", NORMAL(4, 9), NORMAL(4, 1)),
    ADD("scalar", NORMAL(3, 7), {DT_F32, DIMS0, FILL_NORMAL, 0}),
    ADD("long rows", NORMAL(9, 2500), NORMAL(2500)),
    ADD("long flat", NORMAL(20011), NORMAL(20011)),

    ACT("relu", ACT_RELU, NORMAL(3, 5, 7)),
    ACT("gelu tanh", ACT_GELU_TANH, SCALED(2, 3, 5, 7)),
    ACT("gelu erf", ACT_GELU_ERF, SCALED(2, 3, 5, 7)),
    ACT("hardswish", ACT_HARDSWISH, SCALED(3, 3, 5, 7)),
    ACT("none", ACT_NONE, NORMAL(3, 5)),
    ACT("size 1", ACT_GELU_ERF, NORMAL(1)),
    ACT("zeros", ACT_RELU, CONST(0, 9)),
    ACT("far out", ACT_GELU_TANH, SCALED(30, 67)),
    ACT("far out erf", ACT_GELU_ERF, SCALED(30, 67)),
    ACT("long", ACT_GELU_TANH, SCALED(2, 9, 2051)),
    ACT("long hardswish", ACT_HARDSWISH, SCALED(3, 20011)),

    RESHAPE("flatten", OF(6, 4), NORMAL(2, 3, 4)),
    RESHAPE("scalar to vector", OF(1), {DT_F32, DIMS0, FILL_NORMAL, 0}),

    EXPAND("new and stretched axes", OF(2, 4, 5, 3), NORMAL(4, 1, 3)),
    EXPAND("size 1", OF(7), NORMAL(1)),
    EXPAND("as it is", OF(3, 5), NORMAL(3, 5)),
    EXPAND("last axis", OF(13, 1030), NORMAL(13, 1)),
    EXPAND("rows", OF(9, 3, 1030), NORMAL(1030)),

    CONCAT("two", 1, NORMAL(2, 3, 5), NORMAL(2, 4, 5)),
    CONCAT("last axis, five", 2, NORMAL(2, 3, 1), NORMAL(2, 3, 5), NORMAL(2, 3, 2), NORMAL(2, 3, 7),
           NORMAL(2, 3, 3)),
    CONCAT("one", 0, NORMAL(3, 4)),
    CONCAT("eight", 0, NORMAL(1, 3), NORMAL(2, 3), NORMAL(1, 3), NORMAL(1, 3), NORMAL(3, 3),
           NORMAL(1, 3),
           NORMAL(1, 3), NORMAL(1, 3)),
    CONCAT("long rows", 1, NORMAL(9, 1500), NORMAL(9, 1201)),
    CONCAT("labels", 2, INTS(FILL_LABELS, 0, 2, 3, 4), INTS(FILL_LABELS, 0, 2, 3, 1)),

    SLICE("first axis", 0, 1, 2, NORMAL(4, 3, 5)),
    SLICE("middle axis, to the end", 1, 2, 3, NORMAL(2, 5, 3)),
    SLICE("last axis", 2, 1, 1, NORMAL(2, 3, 4)),
    SLICE("all", 1, 0, 6, NORMAL(2, 6)),
    SLICE("long rows", 1, 700, 1333, NORMAL(9, 2100)),

    PAD("both sides", 1, 2, 1, NORMAL(2, 3, 4)),
    PAD("nothing", 0, 0, 0, NORMAL(2, 3)),
    PAD("behind, last axis", 2, 0, 3, NORMAL(2, 3, 5)),
    PAD("in front", 0, 2, 0, NORMAL(3, 4)),
    PAD("long rows", 1, 3, 500, NORMAL(9, 1100)),

    SUM("rows of several parts", OF(2, 1), NORMAL(2, 9001)),
    SUM("to a row", OF(7), NORMAL(3, 5, 7)),
    SUM("inner and outer axes", OF(1, 3, 1, 5), NORMAL(2, 3, 4, 5)),
    SUM("to one", OF(1), NORMAL(3000)),
    SUM("to a scalar", DIMS0, NORMAL(3, 11)),
    SUM("nothing to sum", OF(3, 5), NORMAL(3, 5)),
    SUM("last axis", OF(5, 1), NORMAL(5, 1300)),
    SUM("many rows", OF(9), NORMAL(1500, 9)),
    SUM("size 1", OF(1), NORMAL(1)),
    SUM("long rows", OF(1, 2051), NORMAL(9, 2051)),
    SUM("shared by masks", OF(2, 1, 5, 8), NORMAL(2, 3, 5, 8)),

    FILLED("zero", 0, NORMAL(3, 5)),
    FILLED("value", 1.5, NORMAL(20011)),
    FILLED("size 1", 1, NORMAL(1)),
    GATHER("of one rank", NORMAL(2, 1031)),
    GATHER("of one rank, size 1", NORMAL(1)),
    IN_PLACE(OP_ALL_REDUCE, "of one rank", NORMAL(3, 1031)),
    IN_PLACE(OP_ALL_REDUCE, "of one rank, size 1", NORMAL(1)),
    IN_PLACE(OP_ALL_REDUCE_WAIT, "of one rank", NORMAL(1031)),
    IN_PLACE(OP_ALL_REDUCE_WAIT, "of one rank, size 1", NORMAL(1)),

    INTO(OP_ACCUM, "map", 2, 3, 5),
    INTO(OP_ACCUM, "size 1", 1),
    INTO(OP_ACCUM, "long", 11, 1777),

    INTO(OP_COPY, "map", 2, 3, 5),
    INTO(OP_COPY, "size 1", 1),
    {.op = OP_COPY, .name = "labels", .attr.copy = {0},
     .src = {INTS(FILL_LABELS, 0, 3, 5)},
     .dst = {INTS(FILL_KEYS, 0, 3, 5)}},
    INTO(OP_COPY, "long", 11, 1777),

    CAST("to float32", DT_F32, NORMAL(3, 37)),
    CAST("to bfloat16", DT_BF16, SCALED(100, 3, 37)),
    CAST("to float16", DT_F16, SCALED(100, 3, 37)),
    CAST("size 1", DT_BF16, NORMAL(1)),
    CAST("long", DT_BF16, NORMAL(13, 1555)),
};

CASE_LIST(cases_elementwise, cases);
