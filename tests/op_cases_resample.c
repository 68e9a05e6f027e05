/* Cases of resampling and of positional codes. See op_cases.h. */
#include "tests/op_cases.h"

#define RESIZE(name, mode, h, w, ...) {OP_RESIZE, name, {.resize = {mode, h, w}}, {__VA_ARGS__}, {{0}}}
#define BOTH(name, h, w, ...)                              \
    RESIZE("bilinear, " name, RESIZE_BILINEAR, h, w, __VA_ARGS__), \
    RESIZE("bicubic, " name, RESIZE_BICUBIC, h, w, __VA_ARGS__)
#define GRID(name, h, w, ...) {OP_PE_GRID, name, {.pe_grid = {h, w}}, {__VA_ARGS__}, {{0}}}
#define POINTS(name, frame, n, m, p, f)                                                    \
    {OP_POINT_EMBED, name, {.point_embed = {frame}},                                       \
     {FLOATS(FILL_PX, frame, n, m, p, 2), INTS(FILL_LABELS, 0, n, m, p), NORMAL(2, f), NORMAL(1, 2 * (f)), \
      NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f)), NORMAL(1, 2 * (f))}, {{0}}}
#define COUNTS(name, fill, ...) \
    {OP_PROMPT_COUNTS, name, {.prompt_counts = {0}}, {INTS(fill, 0, __VA_ARGS__)}, {CONST(3, 2)}}

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
