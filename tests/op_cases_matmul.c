/* Cases of matrix products, convolutions and block moves. See op_cases.h. */
#include "tests/op_cases.h"

#define MATMUL(title, trans_a, trans_b, ...) \
    {.op = OP_MATMUL, .name = title, .attr.matmul = {trans_a, trans_b}, \
     .src = {__VA_ARGS__}}
#define CONV(title, stride, pad, groups, ...) \
    {.op = OP_CONV2D, .name = title, .attr.conv2d = {stride, pad, groups}, \
     .src = {__VA_ARGS__}}
#define TO_SPACE(title, block, ...) \
    {.op = OP_DEPTH_TO_SPACE, .name = title, .attr.depth_to_space = {block}, \
     .src = {__VA_ARGS__}}
#define TO_DEPTH(title, block, ...) \
    {.op = OP_SPACE_TO_DEPTH, .name = title, .attr.space_to_depth = {block}, \
     .src = {__VA_ARGS__}}

static const OpCase cases[] = {
    MATMUL("plain", false, false, NORMAL(5, 7), NORMAL(7, 3)),
    MATMUL("linear with bias", false, true, NORMAL(5, 7), NORMAL(3, 7), NORMAL(3)),
    MATMUL("a transposed", true, false, NORMAL(7, 5), NORMAL(7, 3)),
    MATMUL("both transposed", true, true, NORMAL(7, 5), NORMAL(3, 7)),
    MATMUL("size 1", false, false, NORMAL(1, 1), NORMAL(1, 1), NORMAL(1)),
    MATMUL("batched", false, false, NORMAL(2, 3, 4, 5), NORMAL(2, 3, 5, 6)),
    MATMUL("batched, b transposed", false, true, NORMAL(2, 3, 4, 5), NORMAL(2, 3, 6, 5)),
    MATMUL("batched, a transposed", true, false, NORMAL(2, 3, 5, 4), NORMAL(2, 3, 5, 6)),
    MATMUL("batched, both transposed", true, true, NORMAL(6, 5, 4), NORMAL(6, 3, 5)),
    MATMUL("shared b with bias", false, false, NORMAL(2, 3, 4, 5), NORMAL(5, 6), NORMAL(6)),
    MATMUL("linear on maps", false, true, NORMAL(2, 3, 4, 5), NORMAL(7, 5), NORMAL(7)),
    MATMUL("shared b, a transposed", true, false, NORMAL(3, 5, 4), NORMAL(5, 6)),
    MATMUL("shared b, both transposed", true, true, NORMAL(2, 2, 5, 4), NORMAL(3, 5)),
    MATMUL("batched with bias", false, false, NORMAL(3, 4, 5), NORMAL(3, 5, 2), NORMAL(2)),
    MATMUL("column", false, true, NORMAL(9, 33), NORMAL(1, 33), NORMAL(1)),
    MATMUL("row", false, false, NORMAL(1, 17), NORMAL(17, 19)),
    MATMUL("long inner dim", false, true, NORMAL(3, 1100), NORMAL(5, 1100), NORMAL(5)),
    MATMUL("long rows", false, false, NORMAL(33, 18), NORMAL(18, 1050), NORMAL(1050)),

    CONV("1x1", 1, 0, 1, NORMAL(2, 5, 3, 7), NORMAL(6, 1, 1, 7)),
    CONV("1x1 with bias", 1, 0, 1, NORMAL(1, 4, 4, 8), NORMAL(16, 1, 1, 8), NORMAL(16)),
    CONV("1x1 stride 2", 2, 0, 1, NORMAL(1, 5, 6, 4), NORMAL(3, 1, 1, 4)),
    CONV("2x2 stride 2", 2, 0, 1, NORMAL(2, 6, 4, 3), NORMAL(5, 2, 2, 3), NORMAL(5)),
    CONV("3x3", 1, 1, 1, NORMAL(2, 5, 6, 3), NORMAL(4, 3, 3, 3), NORMAL(4)),
    CONV("3x3 without pad", 1, 0, 1, NORMAL(1, 5, 4, 2), NORMAL(3, 3, 3, 2)),
    CONV("3x3 stride 2", 2, 1, 1, NORMAL(2, 7, 8, 3), NORMAL(5, 3, 3, 3), NORMAL(5)),
    CONV("3x3 stride 2, last row unread", 2, 0, 1, NORMAL(1, 8, 6, 2), NORMAL(3, 3, 3, 2)),
    CONV("3x3 stride 2, 20 channels", 2, 1, 1, NORMAL(2, 8, 9, 20), NORMAL(24, 3, 3, 20)),
    CONV("5x5 stride 2, 20 channels", 2, 2, 1, NORMAL(1, 9, 8, 20), NORMAL(17, 5, 5, 20)),
    CONV("3x3 on one pixel", 1, 1, 1, NORMAL(1, 1, 1, 3), NORMAL(2, 3, 3, 3), NORMAL(2)),
    CONV("5x5", 1, 2, 1, NORMAL(1, 7, 6, 3), NORMAL(2, 5, 5, 3)),
    CONV("5x5 stride 2", 2, 2, 1, NORMAL(1, 9, 8, 2), NORMAL(3, 5, 5, 2)),
    CONV("3x1", 1, 1, 1, NORMAL(1, 5, 4, 3), NORMAL(2, 3, 1, 3)),
    CONV("patch of 16", 16, 0, 1, NORMAL(1, 32, 48, 3), NORMAL(5, 16, 16, 3), NORMAL(5)),
    CONV("depthwise 3x3", 1, 1, 7, NORMAL(2, 5, 4, 7), NORMAL(7, 3, 3, 1), NORMAL(7)),
    CONV("depthwise 3x3, 16 channels", 1, 1, 16, NORMAL(1, 6, 7, 16), NORMAL(16, 3, 3, 1)),
    CONV("depthwise 3x3 stride 2", 2, 1, 5, NORMAL(2, 6, 7, 5), NORMAL(5, 3, 3, 1)),
    CONV("depthwise 5x5", 1, 2, 6, NORMAL(1, 6, 5, 6), NORMAL(6, 5, 5, 1)),
    CONV("depthwise 5x5 stride 2", 2, 2, 9, NORMAL(1, 8, 7, 9), NORMAL(9, 5, 5, 1)),
    CONV("depthwise, two filters a channel", 1, 1, 3, NORMAL(1, 4, 5, 3), NORMAL(6, 3, 3, 1)),
    CONV("2 groups", 1, 1, 2, NORMAL(1, 5, 5, 6), NORMAL(4, 3, 3, 3), NORMAL(4)),
    CONV("groups 3h, 1x1", 1, 0, 6, NORMAL(2, 4, 3, 24), NORMAL(24, 1, 1, 4)),
    CONV("many channels", 1, 1, 1, NORMAL(1, 6, 6, 40), NORMAL(33, 3, 3, 40)),
    CONV("3x3, channels beyond a chain of sums", 1, 1, 1, NORMAL(2, 5, 7, 80),
         NORMAL(48, 3, 3, 80), NORMAL(48)),
    CONV("3x3, rows beyond a stretch", 1, 1, 1, NORMAL(1, 3, 150, 16), NORMAL(80, 3, 3, 16)),
    CONV("3x3 without pad, half vectors", 1, 0, 1, NORMAL(3, 8, 9, 24), NORMAL(40, 3, 3, 24),
         NORMAL(40)),
    CONV("3x3 with pads of 2", 1, 2, 1, NORMAL(1, 6, 9, 16), NORMAL(16, 3, 3, 16)),
    CONV("3x3, outputs beyond a share", 1, 1, 1, NORMAL(1, 8, 8, 16), NORMAL(544, 3, 3, 16),
         NORMAL(544)),
    CONV("5x5, rows beyond a stretch", 1, 2, 1, NORMAL(1, 3, 150, 16), NORMAL(80, 5, 5, 16)),
    CONV("5x5, channels beyond a copy", 1, 2, 1, NORMAL(1, 1, 64, 208), NORMAL(16, 5, 5, 208),
         NORMAL(16)),
    CONV("3x3, few results", 1, 1, 1, NORMAL(1, 5, 7, 80), NORMAL(48, 3, 3, 80), NORMAL(48)),
    CONV("3x3 stride 2, 16 channels", 2, 1, 1, NORMAL(2, 8, 9, 16), NORMAL(48, 3, 3, 16)),
    CONV("3x3 stride 2, half vectors", 2, 1, 1, NORMAL(1, 7, 8, 24), NORMAL(40, 3, 3, 24)),
    CONV("3x3 stride 2, 16 channels, last row unread", 2, 0, 1, NORMAL(1, 8, 6, 16),
         NORMAL(16, 3, 3, 16)),
    CONV("5x5 stride 2, 16 channels", 2, 2, 1, NORMAL(1, 9, 8, 16), NORMAL(16, 5, 5, 16)),
    CONV("1x1 stride 2, 16 channels", 2, 0, 1, NORMAL(1, 5, 6, 16), NORMAL(16, 1, 1, 16)),
    CONV("1x1 with pad, 16 channels", 1, 1, 1, NORMAL(1, 3, 4, 16), NORMAL(16, 1, 1, 16)),
    CONV("3x1, 16 channels", 1, 1, 1, NORMAL(1, 5, 4, 16), NORMAL(16, 3, 1, 16)),
    CONV("3x3 stride 2 on one pixel, 16 channels", 2, 1, 1, NORMAL(1, 1, 1, 16),
         NORMAL(16, 3, 3, 16)),
    CONV("3x3 on one pixel, 16 channels", 1, 1, 1, NORMAL(1, 1, 1, 16), NORMAL(16, 3, 3, 16)),
    CONV("1x1, more pixels and outputs than a block", 1, 0, 1, NORMAL(1, 7, 9, 40),
         NORMAL(544, 1, 1, 40), NORMAL(544)),
    CONV("wide map", 1, 1, 1, NORMAL(1, 3, 600, 3), NORMAL(4, 3, 3, 3)),
    CONV("wide depthwise", 1, 1, 70, NORMAL(1, 4, 33, 70), NORMAL(70, 3, 3, 1), NORMAL(70)),

    TO_SPACE("block 2", 2, NORMAL(2, 3, 4, 12)),
    TO_SPACE("block 3", 3, NORMAL(1, 2, 3, 9)),
    TO_SPACE("block 1", 1, NORMAL(1, 2, 3, 4)),
    TO_SPACE("size 1", 2, NORMAL(1, 1, 1, 4)),
    TO_SPACE("wide", 2, NORMAL(1, 3, 70, 64)),
    TO_DEPTH("block 2", 2, NORMAL(2, 4, 6, 3)),
    TO_DEPTH("block 3", 3, NORMAL(1, 6, 3, 1)),
    TO_DEPTH("block 1", 1, NORMAL(1, 2, 3, 4)),
    TO_DEPTH("wide", 2, NORMAL(1, 4, 140, 16)),
};

CASE_LIST(cases_matmul, cases);
