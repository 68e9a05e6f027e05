/* Cases of the attentions and of window moves. See op_cases.h. */
#include "tests/op_cases.h"

#define ATTENTION(title, heads, scale, n_free, ...) \
    {.op = OP_ATTENTION, .name = title, .attr.attention = {heads, scale, n_free}, \
     .src = {__VA_ARGS__}}
/* The tables of relative positions follow from the map. */
#define RELPOS(title, heads, head_dim, n, h, w) \
    {.op = OP_RELPOS_ATTENTION, .name = title, .attr.relpos_attention = {heads}, \
     .src = {NORMAL(n, h, w, 3 * (heads) * (head_dim)), NORMAL(2 * (h) - 1, head_dim), \
             NORMAL(2 * (w) - 1, head_dim)}}
#define PARTITION(title, window, n, h, w, c) \
    {.op = OP_WINDOW_PARTITION, .name = title, .attr.window_partition = {window, h, w}, \
     .src = {NORMAL(n, h, w, c)}}
#define UNPARTITION(title, window, n_windows, h, w, c) \
    {.op = OP_WINDOW_UNPARTITION, .name = title, .attr.window_unpartition = {window, h, w}, \
     .src = {NORMAL(n_windows, window, window, c)}}
#define LINEAR(title, head_dim, eps, ...) \
    {.op = OP_LINEAR_ATTENTION, .name = title, .attr.linear_attention = {head_dim, eps}, \
     .src = {__VA_ARGS__}}

static const OpCase cases[] = {
    ATTENTION("self", 2, 0.5, 0, NORMAL(2, 3, 5, 8), NORMAL(2, 3, 5, 8), NORMAL(2, 3, 5, 8)),
    ATTENTION("one token", 2, 0.5, 0, NORMAL(1, 2, 1, 6), NORMAL(1, 2, 1, 6), NORMAL(1, 2, 1, 6)),
    ATTENTION("size 1", 1, 1, 0, NORMAL(1, 1, 1, 1), NORMAL(1, 1, 1, 1), NORMAL(1, 1, 1, 1)),
    ATTENTION("odd head dim", 3, 0.577, 0, NORMAL(1, 2, 4, 9), NORMAL(1, 2, 7, 9),
              NORMAL(1, 2, 7, 9)),
    ATTENTION("shared q", 2, 0.35, 0, NORMAL(2, 1, 9, 16), NORMAL(2, 3, 6, 16),
              NORMAL(2, 3, 6, 16)),
    ATTENTION("shared k and v", 2, 0.35, 0, NORMAL(2, 3, 6, 16), NORMAL(2, 1, 9, 16),
              NORMAL(2, 1, 9, 16)),
    ATTENTION("empty slots", 2, 0.5, 3, NORMAL(2, 3, 8, 8), NORMAL(2, 3, 8, 8), NORMAL(2, 3, 8, 8),
              INTS(FILL_KEY_MASK, 0, 2, 3, 5)),
    ATTENTION("empty slots, all keys labelled", 1, 0.5, 0, NORMAL(1, 2, 3, 4), NORMAL(1, 2, 6, 4),
              NORMAL(1, 2, 6, 4), INTS(FILL_KEY_MASK, 0, 1, 2, 6)),
    ATTENTION("empty slots, shared q", 2, 0.5, 2, NORMAL(2, 1, 11, 8), NORMAL(2, 3, 7, 8),
              NORMAL(2, 3, 7, 8), INTS(FILL_KEY_MASK, 0, 2, 3, 5)),
    ATTENTION("no labelled keys", 2, 0.5, 4, NORMAL(1, 2, 4, 4), NORMAL(1, 2, 4, 4),
              NORMAL(1, 2, 4, 4),
              INTS(FILL_KEY_MASK, 0, 1, 2, 0)),
    ATTENTION("large scores", 1, 1, 0, SCALED(2, 1, 1, 4, 8), SCALED(2, 1, 1, 5, 8),
              NORMAL(1, 1, 5, 8)),
    ATTENTION("many keys", 2, 0.25, 0, NORMAL(1, 2, 3, 32), NORMAL(1, 1, 1100, 32),
              NORMAL(1, 1, 1100, 32)),
    ATTENTION("many queries", 2, 0.25, 0, NORMAL(1, 1, 600, 32), NORMAL(1, 2, 17, 32),
              NORMAL(1, 2, 17, 32)),
    ATTENTION("8 heads of 16", 8, 0.25, 5, NORMAL(1, 2, 16, 128), NORMAL(1, 2, 16, 128),
              NORMAL(1, 2, 16, 128), INTS(FILL_KEY_MASK, 0, 1, 2, 11)),
    ATTENTION("8 heads of 32", 8, 0.1767, 0, NORMAL(1, 1, 13, 256), NORMAL(1, 1, 13, 256),
              NORMAL(1, 1, 13, 256)),

    RELPOS("taller than wide", 2, 4, 2, 4, 3),
    RELPOS("wider than tall", 1, 5, 1, 2, 5),
    RELPOS("one token", 2, 4, 1, 1, 1),
    {.op = OP_RELPOS_ATTENTION, .name = "one row", .attr.relpos_attention = {1},
     /* rel_h adds one number to all scores */
     .src = {NORMAL(2, 1, 6, 9), NORMAL(1, 3), NORMAL(11, 3)}, {{0}}, .term_magnitude = 1},
    RELPOS("head dim 16", 3, 16, 1, 5, 7),
    RELPOS("window of 14", 2, 20, 2, 14, 14),
    RELPOS("head dim 80", 1, 80, 1, 6, 9),
    RELPOS("several tiles", 1, 8, 1, 20, 17),
    RELPOS("several tiles, an odd last one", 2, 16, 1, 9, 15),

    PARTITION("whole windows", 4, 2, 8, 4, 3),
    PARTITION("padded", 3, 2, 7, 5, 2),
    PARTITION("window above the map", 5, 1, 2, 3, 4),
    PARTITION("size 1", 1, 1, 2, 2, 1),
    PARTITION("wide", 14, 1, 20, 30, 70),
    UNPARTITION("whole windows", 4, 4, 8, 4, 3),
    UNPARTITION("padded", 3, 12, 7, 5, 2),
    UNPARTITION("window above the map", 5, 1, 2, 3, 4),
    UNPARTITION("wide", 14, 6, 20, 30, 70),

    LINEAR("two groups", 4, 1e-15, NORMAL(2, 3, 5, 24)),
    LINEAR("one pixel", 3, 1e-15, NORMAL(2, 1, 1, 9)),
    LINEAR("one channel", 1, 1e-6, NORMAL(1, 3, 2, 6)),
    LINEAR("zero rows", 5, 1e-15, FLOATS(FILL_COLD_ROWS, 0, 1, 4, 3, 30)),
    LINEAR("head dim 16", 16, 1e-15, NORMAL(1, 6, 5, 96)),
    LINEAR("head dim 32", 32, 1e-15, NORMAL(1, 5, 5, 192)),
    LINEAR("many pixels", 8, 1e-15, NORMAL(1, 40, 40, 24)),
    LINEAR("many pixels, two images", 4, 1e-15, NORMAL(2, 24, 24, 12)),
    LINEAR("large eps", 4, 0.5, NORMAL(1, 3, 3, 12)),
};

CASE_LIST(cases_attention, cases);
