/* Walks over a shape row by row, with operands that may be broadcast along some of its axes.
 * Called by elementwise.c and reduce.c. Axes that all operands pass alike are merged first, so that
 * equal shapes are one long row and a bias is one vector per row.
 */
#ifndef RETORT_KERNELS_CPU_WALK_H
#define RETORT_KERNELS_CPU_WALK_H

#include "base/tensor.h"

enum { WALK_MAX_OPERANDS = 2 };

typedef struct Walk {
    int n_operands;
    int rank;                                          /* outer axes, merged */
    int64_t dim[SHAPE_MAX_RANK];                       /* of the outer axes */
    int64_t stride[WALK_MAX_OPERANDS][SHAPE_MAX_RANK]; /* elements; 0 where broadcast */
    int64_t n_rows, row;              /* product of dim; elements of the inner axis */
    int64_t inner[WALK_MAX_OPERANDS]; /* stride inside a row: 1, or 0 if broadcast */
} Walk;

/* A position: the row's index per axis and each operand's offset in elements. */
typedef struct WalkAt {
    int64_t index[SHAPE_MAX_RANK];
    int64_t offset[WALK_MAX_OPERANDS];
} WalkAt;

/* walk_make: a walk over `shape`; each operand's shape broadcasts to it (numpy's rule). */
Walk walk_make(Shape shape, int n_operands, const Shape *operands);

/* walk_seek: the position of row number `row`;  walk_next: moves to the next row. */
WalkAt walk_seek(const Walk *walk, int64_t row);
void walk_next(const Walk *walk, WalkAt *at);

#endif
