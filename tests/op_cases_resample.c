/* Cases of resampling and of positional codes. See op_cases.h. */
#include "tests/op_cases.h"

#define RESIZE(title, mode, h, w, ...) \
    {.op = OP_RESIZE, .name = title, .attr.resize = {mode, h, w}, \
     .src = {__VA_ARGS__}}
#define BOTH(title, h, w, ...) \
    RESIZE("bilinear, " title, RESIZE_BILINEAR, h, w, __VA_ARGS__), RESIZE("bicubic, " title, \
     RESIZE_BICUBIC, h, w, __VA_ARGS__)
#define GRID(title, h, w, ...) \
    {.op = OP_PE_GRID, .name = title, .attr.pe_grid = {h, w}, \
     .src = {__VA_ARGS__}}
#define POINTS(title, frame, n, m, p, f) \
    {.op = OP_POINT_EMBED, .name = title, .attr.point_embed = {frame}, \
     .src = {FLOATS(FILL_PX, frame, n, m, p, 2), INTS(FILL_LABELS, 0, n, m, p), NORMAL(2, f), \
          NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f)), \
          NORMAL(1, 2 * (f))}}
#define COUNTS(title, fill, ...) \
    {.op = OP_PROMPT_COUNTS, .name = title, .attr.prompt_counts = {0}, \
     .src = {INTS(fill, 0, __VA_ARGS__)}, \
     .dst = {CONST(3, 2)}}

static const OpCase cases[] = {
    BOTH("up 4x", 12, 8, NORMAL(2, 3, 2, 5)),
    BOTH("up 2x", 6, 10, NORMAL(1, 3, 5, 3)),
    BOTH("1x", 4, 5, NORMAL(1, 4, 5, 2)),
    BOTH("down", 3, 2, NORMAL(1, 8, 7, 3)),
    BOTH("odd", 7, 9, NORMAL(2, 5, 4, 7)),
    BOTH("up one axis, down the other", 9, 3, NORMAL(1, 4, 8, 2)),
    BOTH("from one pixel", 4, 3, NORMAL(1, 1, 1, 3)),
    BOTH("to one pixel", 1, 1, NORMAL(1, 5, 4, 3)),
    BOTH("wide", 16, 16, NORMAL(1, 8, 8, 260)),
    BOTH("one channel", 40, 44, NORMAL(1, 10, 11, 1)),

    GRID("square", 4, 4, NORMAL(2, 8)),
    GRID("odd", 3, 5, NORMAL(2, 7)),
    GRID("size 1", 1, 1, NORMAL(2, 1)),
    GRID("large angles", 8, 6, SCALED(20, 2, 64)),

    POINTS("ordinary", 1024, 2, 5, 4, 8),
    POINTS("size 1", 64, 1, 1, 1, 1),
    POINTS("odd", 512, 3, 7, 3, 5),
    POINTS("128 frequencies", 1024, 2, 9, 11, 128),

    COUNTS("mixed", FILL_LABELS, 4, 3, 2),
    COUNTS("boxes only", FILL_NO_POINTS, 3, 2, 2),
    COUNTS("size 1", FILL_LABELS, 1, 1, 1),
    COUNTS("many", FILL_LABELS, 9, 64, 11),
};

CASE_LIST(cases_resample, cases);
