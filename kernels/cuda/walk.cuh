/* Broadcasting as strides: the axes of a shape, merged where all operands allow it, with the stride
 * of each operand along every axis (0 where it is stretched). Made on the host from shapes, passed
 * to a kernel by value.
 */
#ifndef RETORT_KERNELS_CUDA_WALK_CUH
#define RETORT_KERNELS_CUDA_WALK_CUH

#include "kernels/cuda/launch.h"

enum { WALK_OPERANDS = 2 };

/* Axes from the innermost out. n: product of all dims. */
typedef struct Walk {
    int rank;
    unsigned n, dim[SHAPE_MAX_RANK], stride[WALK_OPERANDS][SHAPE_MAX_RANK];
} Walk;

/* Appends an axis, or widens the outermost one so far if the strides of all operands continue it.
 */
static inline void walk_take(Walk *walk, unsigned dim, const unsigned *stride)
{
    int last = walk->rank - 1;
    bool merges = last >= 0;
    for (int o = 0; o < WALK_OPERANDS && merges; o++)
        merges = stride[o] == walk->stride[o][last] * walk->dim[last];
    walk->n *= dim;
    if (merges) {
        walk->dim[last] *= dim;
        return;
    }
    walk->dim[walk->rank] = dim;
    for (int o = 0; o < WALK_OPERANDS; o++) walk->stride[o][walk->rank] = stride[o];
    walk->rank++;
}

/* walk_make: the axes of `outer`, with the strides of shapes that numpy broadcasts to it. */
static inline Walk walk_make(Shape outer, Shape first, Shape second)
{
    Walk walk = {};
    const Shape *shape[WALK_OPERANDS] = {&first, &second};
    unsigned elems[WALK_OPERANDS] = {1, 1}, stride[WALK_OPERANDS];
    walk.n = 1;
    for (int back = 1; back <= outer.rank; back++) {
        unsigned dim = (unsigned)shape_dim_from_end(outer, back);
        for (int o = 0; o < WALK_OPERANDS; o++) {
            unsigned own = (unsigned)shape_dim_from_end(*shape[o], back);
            stride[o] = own == 1 ? 0 : elems[o];
            elems[o] *= own;
        }
        if (dim != 1) walk_take(&walk, dim, stride);
    }
    if (walk.rank == 0) walk_take(&walk, 1, elems);
    return walk;
}

/* Element `flat` of the walk in operand `o`. Unrolled: an index known when compiling reads the
 * parameter where it is, another one would make the compiler copy it to local memory. */
static __device__ __forceinline__ unsigned walk_offset(const Walk &walk, int o, unsigned flat)
{
    unsigned offset = 0;
#pragma unroll
    for (int axis = 0; axis < SHAPE_MAX_RANK; axis++) {
        if (axis == walk.rank - 1) return offset + flat * walk.stride[o][axis];
        offset += flat % walk.dim[axis] * walk.stride[o][axis];
        flat /= walk.dim[axis];
    }
    return offset;
}

#endif
