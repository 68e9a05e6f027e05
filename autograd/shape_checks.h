/* The checks that shape rules share. Each fails with a message that names the operand, what it has
 * and what it should have. Used by autograd/shape_*.c only.
 */
#ifndef RETORT_AUTOGRAD_SHAPE_CHECKS_H
#define RETORT_AUTOGRAD_SHAPE_CHECKS_H

#include "autograd/rules.h"

/* shape_want: source `src` has exactly the shape `wanted`. errors  E_SHAPE */
Status shape_want(const ShapeCall *call, int src, const char *what, Shape wanted);

/* shape_want_optional: the same if the source is present. */
Status shape_want_optional(const ShapeCall *call, int src, const char *what, Shape wanted);

/* shape_want_rank: source `src` has `rank` dims. errors  E_SHAPE */
Status shape_want_rank(const ShapeCall *call, int src, const char *what, int rank);

/* shape_want_equal: two numbers that must agree, e.g. "channels of weight". errors  E_SHAPE */
Status shape_want_equal(const ShapeCall *call, const char *what, int64_t got, int64_t wanted);

/* shape_want_positive: an attribute that must be >= 1. errors  E_SHAPE */
Status shape_want_positive(const ShapeCall *call, const char *what, int64_t got);

/* shape_want_axis: `axis` counts from 0 and lies inside source `src`. errors  E_SHAPE */
Status shape_want_axis(const ShapeCall *call, int src, int axis);

/* shape_want_activation: a value of the enum. errors  E_SHAPE */
Status shape_want_activation(const ShapeCall *call, Activation kind);

static inline bool shape_present(const ShapeCall *call, int src)
{
    return call->src[src].dtype != DT_NONE;
}

static inline Shape shape_of(const ShapeCall *call, int src) { return call->src[src].shape; }

#endif
