/* Cases of the losses. See op_cases.h. Masks come in five forms by index: empty, full, a disc with
 * a soft fringe, a thin line, a half plane. */
#include "tests/op_cases.h"

#define MSE(title, scale, ...) \
    {.op = OP_MSE, .name = title, .attr.mse = {scale}, \
     .src = {__VA_ARGS__}}
/* Logits, words and rows of `n` images of `m` masks, and the output mode. */
#define MASKS(mode, n, m, c, h, w, size) \
    SCALED(2, n, m, c, h, w), INTS(FILL_WORDS, 0, n, (m) * (size) * ((size) + 3)), \
     INTS(FILL_ROWS, 0, n, m, (size) + 1), INTS(FILL_CONST, mode, 1)
#define FOCAL(title, alpha, gamma, mode, n, m, c, h, w, size) \
    {.op = OP_FOCAL_DICE, .name = title, .attr.focal_dice = {alpha, gamma, size}, \
     .src = {MASKS(mode, n, m, c, h, w, size)}}
#define POINTS(title, fill, mode, n, m, c, h, w, size, p) \
    {.op = OP_BCE_DICE_POINTS, .name = title, .attr.bce_dice_points = {size}, \
     .src = {MASKS(mode, n, m, c, h, w, size), FLOATS(fill, 0.05, n, m, c, p, 2)}}
#define SAMPLE(title, size, p, oversample, importance, n, m, c, h, w) \
    {.op = OP_POINT_SAMPLE, .name = title, .attr.point_sample = {size, p, oversample, \
     importance}, \
     .src = {SCALED(2, n, m, c, h, w), INTS(FILL_KEYS, 0, n, m, 2)}}
#define MIN(title, mode, ...) \
    {.op = OP_MIN_CANDIDATE, .name = title, .attr.min_candidate = {20, 1}, \
     .src = {__VA_ARGS__}}

#define IOU(title, mode, n, m, c, h, w, size) \
    {.op = OP_MASK_IOU, .name = title, .attr.mask_iou = {size}, \
     .src = {MASKS(mode, n, m, c, h, w, size)}}
#define IOU_HEAD(title, scale, mode, n, m, c) \
    {.op = OP_IOU_MSE, .name = title, .attr.iou_mse = {scale}, \
     .src = {NORMAL(n, m, c), FLOATS(FILL_RANGE, 0, n, m, c), INTS(FILL_CONST, mode, 1), \
             FLOATS(FILL_WEIGHTS, 0, n, m)}}
#define PICK(title, n, m, c, h, w) \
    {.op = OP_PICK_CANDIDATE, .name = title, .attr.pick_candidate = {0}, \
     .src = {NORMAL(n, m, c, h, w), INTS(FILL_BELOW, c, n, m)}}
/* `logits`: an operand (n,m,h,w). */
#define CLICK(title, size, round, frame, n, m, ...) \
    {.op = OP_ERROR_CLICK, .name = title, .attr.error_click = {size, round, frame}, \
     .src = {__VA_ARGS__, INTS(FILL_WORDS, 0, n, (m) * (size) * ((size) + 3)), \
             INTS(FILL_ROWS, 0, n, m, (size) + 1), FLOATS(FILL_WEIGHTS, 0, n, m), \
             INTS(FILL_KEYS, 0, n, m, 2)}}

static const OpCase cases[] = {
    MSE("whole", 1, NORMAL(2, 3, 4, 5), NORMAL(2, 3, 4, 5)),
    MSE("kept cells", 1, NORMAL(3, 4, 5, 2), NORMAL(3, 4, 5, 2), INTS(FILL_KEEP, 0, 3, 2)),
    MSE("scaled", 0.25, NORMAL(2, 3, 3, 1), NORMAL(2, 3, 3, 1), INTS(FILL_KEEP, 0, 2, 2)),
    MSE("size 1", 1, NORMAL(1, 1, 1, 1), NORMAL(1, 1, 1, 1)),
    MSE("long rows", 1, NORMAL(2, 9, 10, 130), NORMAL(2, 9, 10, 130), INTS(FILL_KEEP, 0, 2, 2)),

    FOCAL("three candidates", 0.25, 2, 1, 2, 3, 4, 4, 4, 16),
    FOCAL("candidate 0", 0.25, 2, 0, 2, 3, 4, 4, 4, 16),
    FOCAL("one candidate", 0.25, 2, 0, 1, 5, 1, 4, 4, 8),
    FOCAL("all forms of masks", 0.25, 2, 1, 1, 10, 2, 3, 3, 12),
    FOCAL("odd size", 0.25, 2, 1, 1, 3, 2, 5, 5, 13),
    FOCAL("not up-sampled", 0.25, 2, 1, 1, 3, 2, 7, 7, 7),
    FOCAL("uneven map", 0.25, 2, 1, 1, 3, 2, 3, 5, 15),
    FOCAL("gamma 0", 0.5, 0, 1, 1, 3, 2, 4, 4, 8),
    FOCAL("gamma 1.5", 0.3, 1.5, 1, 1, 3, 2, 4, 4, 8),
    FOCAL("size 1", 0.25, 2, 0, 1, 1, 1, 1, 1, 1),
    FOCAL("long rows", 0.25, 2, 1, 1, 3, 2, 16, 16, 64),

    SAMPLE("three candidates", 16, 20, 3, 0.75, 2, 2, 4, 4, 4),
    SAMPLE("uniform only", 16, 9, 1, 0, 1, 3, 1, 4, 4),
    SAMPLE("importance only", 13, 7, 4, 1, 1, 2, 2, 5, 5),
    SAMPLE("one point", 8, 1, 1, 0.5, 1, 1, 1, 2, 2),
    SAMPLE("many points", 64, 300, 3, 0.75, 1, 2, 3, 16, 16),

    POINTS("three candidates", FILL_RANGE, 1, 2, 3, 4, 4, 4, 16, 20),
    POINTS("candidate 0", FILL_RANGE, 0, 2, 3, 4, 4, 4, 16, 20),
    POINTS("one candidate", FILL_RANGE, 0, 1, 5, 1, 4, 4, 8, 9),
    POINTS("all forms of masks", FILL_RANGE, 1, 1, 10, 2, 3, 3, 12, 15),
    POINTS("on the border", FILL_BORDER, 1, 1, 5, 2, 4, 4, 8, 16),
    POINTS("odd size", FILL_RANGE, 1, 1, 3, 2, 5, 5, 13, 11),
    POINTS("one point", FILL_RANGE, 0, 1, 1, 1, 2, 2, 4, 1),
    POINTS("many points", FILL_RANGE, 1, 1, 3, 2, 16, 16, 64, 1100),

    MIN("three candidates", 1, NORMAL(2, 5, 4, 2), INTS(FILL_CONST, 1, 1),
        FLOATS(FILL_WEIGHTS, 0, 2, 5)),
    MIN("candidate 0", 0, NORMAL(2, 5, 4, 2), INTS(FILL_CONST, 0, 1),
        FLOATS(FILL_WEIGHTS, 0, 2, 5)),
    MIN("one candidate", 0, NORMAL(2, 3, 1, 2), INTS(FILL_CONST, 0, 1),
        FLOATS(FILL_WEIGHTS, 0, 2, 3)),
    MIN("ties", 1, FLOATS(FILL_TIES, 0, 3, 7, 4, 2), INTS(FILL_CONST, 1, 1),
        FLOATS(FILL_WEIGHTS, 0, 3, 7)),
    MIN("size 1", 0, NORMAL(1, 1, 1, 2), INTS(FILL_CONST, 0, 1), CONST(1, 1, 1)),
    MIN("many masks", 1, NORMAL(3, 64, 4, 2), INTS(FILL_CONST, 1, 1),
        FLOATS(FILL_WEIGHTS, 0, 3, 64)),

    IOU("three candidates", 1, 2, 3, 4, 4, 4, 16),
    IOU("candidate 0", 0, 2, 3, 4, 4, 4, 16),
    IOU("all forms of masks", 1, 1, 10, 2, 3, 3, 12),
    IOU("odd size", 1, 1, 3, 2, 3, 5, 13),
    IOU("size 1", 0, 1, 1, 1, 1, 1, 1),
    IOU("long rows", 1, 1, 3, 2, 16, 16, 64),

    IOU_HEAD("three candidates", 1, 1, 2, 5, 4),
    IOU_HEAD("candidate 0", 1, 0, 2, 5, 4),
    IOU_HEAD("scaled", 0.25, 1, 1, 7, 3),
    IOU_HEAD("size 1", 1, 0, 1, 1, 1),
    IOU_HEAD("many masks", 1, 1, 3, 64, 4),

    PICK("four candidates", 2, 3, 4, 5, 7),
    PICK("size 1", 1, 1, 1, 1, 1),
    PICK("large maps", 1, 5, 4, 64, 64),

    CLICK("all forms of masks", 12, 1, 12, 1, 10, SCALED(2, 1, 10, 3, 3)),
    CLICK("two images, larger frame", 16, 2, 64, 2, 4, SCALED(2, 2, 4, 4, 4)),
    CLICK("odd size", 13, 1, 26, 1, 6, SCALED(2, 1, 6, 3, 5)),
    CLICK("nothing but claims", 8, 1, 8, 1, 6, CONST(1, 1, 6, 2, 2)),
    CLICK("nothing but misses", 8, 3, 8, 1, 6, CONST(-1, 1, 6, 2, 2)),
    CLICK("size 1", 1, 1, 1, 1, 3, SCALED(1, 1, 3, 1, 1)),
    CLICK("long rows", 64, 1, 1024, 1, 5, SCALED(2, 1, 5, 16, 16)),
};

CASE_LIST(cases_losses, cases);
