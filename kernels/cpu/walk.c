/* Broadcast walks. See walk.h. */
#include "kernels/cpu/walk.h"

#include <assert.h>
#include <string.h>

typedef struct Axis {
    int64_t dim;
    int64_t stride[WALK_MAX_OPERANDS];
} Axis;

/* Two neighbours are one axis if every operand steps through both as through one. */
static bool mergeable(const Axis *outer, const Axis *inner, int n_operands)
{
    for (int k = 0; k < n_operands; k++)
        if (outer->stride[k] != inner->stride[k] * inner->dim) return false;
    return true;
}

/* The axes of `shape` from the innermost outwards, without those of size 1, merged. Returns their
 * number. */
static int collect_axes(Shape shape, int n_operands, const Shape *operands, Axis *axes)
{
    int64_t step[WALK_MAX_OPERANDS] = {1, 1};
    int n = 0;
    for (int back = 1; back <= shape.rank; back++) {
        Axis axis = {.dim = shape_dim_from_end(shape, back)};
        for (int k = 0; k < n_operands; k++) {
            int64_t dim = shape_dim_from_end(operands[k], back);
            assert(dim == axis.dim || dim == 1);
            axis.stride[k] = dim == axis.dim ? step[k] : 0;
            step[k] *= dim;
        }
        if (axis.dim == 1) continue;
        if (n && mergeable(&axis, &axes[n - 1], n_operands))
            axes[n - 1].dim *= axis.dim;
        else
            axes[n++] = axis;
    }
    return n;
}

Walk walk_make(Shape shape, int n_operands, const Shape *operands)
{
    Axis axes[SHAPE_MAX_RANK];
    int n = collect_axes(shape, n_operands, operands, axes);
    Walk walk = {.n_operands = n_operands, .n_rows = 1, .row = 1};
    for (int k = 0; k < n_operands; k++) walk.inner[k] = 1;
    if (n == 0) return walk;
    walk.row = axes[0].dim;
    memcpy(walk.inner, axes[0].stride, sizeof walk.inner);
    walk.rank = n - 1;
    for (int i = 0; i < walk.rank; i++) {
        const Axis *axis = &axes[n - 1 - i];
        walk.dim[i] = axis->dim;
        walk.n_rows *= axis->dim;
        for (int k = 0; k < n_operands; k++) walk.stride[k][i] = axis->stride[k];
    }
    return walk;
}

WalkAt walk_seek(const Walk *walk, int64_t row)
{
    WalkAt at = {0};
    for (int i = walk->rank - 1; i >= 0; i--) {
        at.index[i] = row % walk->dim[i];
        row /= walk->dim[i];
        for (int k = 0; k < walk->n_operands; k++) at.offset[k] += at.index[i] * walk->stride[k][i];
    }
    return at;
}

void walk_next(const Walk *walk, WalkAt *at)
{
    for (int i = walk->rank - 1; i >= 0; i--) {
        bool carry = ++at->index[i] == walk->dim[i];
        for (int k = 0; k < walk->n_operands; k++)
            at->offset[k] += carry ? walk->stride[k][i] * (1 - walk->dim[i]) : walk->stride[k][i];
        if (!carry) return;
        at->index[i] = 0;
    }
}
