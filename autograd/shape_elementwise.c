/* Shape rules of the elementwise and shape ops. See rules.h for the contract and ops.def for the
 * shapes. */
#include <inttypes.h>

#include "autograd/shape_checks.h"

enum { SHAPE_TEXT_BYTES = 128 };

/* "a and b do not fit", for pairs that are compared by a rule other than equality. */
static Status fail_pair(const ShapeCall *call, const char *how, Shape a, Shape b)
{
    char a_text[SHAPE_TEXT_BYTES], b_text[SHAPE_TEXT_BYTES];
    return shape_fail(call, "shape (%s) %s (%s)", shape_format(a, a_text, sizeof a_text), how,
                      shape_format(b, b_text, sizeof b_text));
}

static Status want_valid_shape(const ShapeCall *call, Shape shape)
{
    if (shape.rank < 0 || shape.rank > SHAPE_MAX_RANK)
        return shape_fail(call, "rank %d, wanted 0 to %d", shape.rank, SHAPE_MAX_RANK);
    for (int i = 0; i < shape.rank; i++)
        if (shape.dim[i] < 0) return shape_fail(call, "dim %d is %" PRId64, i, shape.dim[i]);
    return OK;
}

Status shape_add(ShapeCall *call)
{
    if (!shape_broadcast(shape_of(call, 0), shape_of(call, 1), &call->dst[0].shape))
        return fail_pair(call, "does not broadcast with", shape_of(call, 0), shape_of(call, 1));
    return OK;
}

Status shape_act(ShapeCall *call)
{
    TRY(shape_want_activation(call, call->attr->act.kind));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_act_grad(ShapeCall *call)
{
    TRY(shape_want_activation(call, call->attr->act_grad.kind));
    TRY(shape_want(call, 1, "ddst", shape_of(call, 0)));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_reshape(ShapeCall *call)
{
    Shape wanted = call->attr->reshape.shape;
    TRY(want_valid_shape(call, wanted));
    if (shape_elems(wanted) != shape_elems(shape_of(call, 0)))
        return fail_pair(call, "has another number of elements than", shape_of(call, 0), wanted);
    call->dst[0].shape = wanted;
    return OK;
}

Status shape_expand(ShapeCall *call)
{
    Shape wanted = call->attr->expand.shape, joint;
    TRY(want_valid_shape(call, wanted));
    if (!shape_broadcast(shape_of(call, 0), wanted, &joint) || !shape_equal(joint, wanted))
        return fail_pair(call, "does not expand to", shape_of(call, 0), wanted);
    call->dst[0].shape = wanted;
    return OK;
}

/* Floats of different width are converted by the kernel; numbers of different meaning are not. */
static Status want_joinable(const ShapeCall *call, int part)
{
    DType first = call->src[0].dtype, own = call->src[part].dtype;
    if (own == first || (dtype_is_float(own) && dtype_is_float(first))) return OK;
    return shape_fail(call, "source %d is %s, but source 0 is %s", part, dtype_name(own),
                      dtype_name(first));
}

Status shape_concat(ShapeCall *call)
{
    int axis = call->attr->concat.axis;
    TRY(shape_want_axis(call, 0, axis));
    Shape joint = shape_of(call, 0);
    for (int i = 1; i < call->n_src; i++) {
        TRY(shape_want_axis(call, i, axis));
        Shape wanted = shape_of(call, 0);
        wanted.dim[axis] = shape_of(call, i).dim[axis];
        TRY(shape_want(call, i, "part", wanted));
        TRY(want_joinable(call, i));
        joint.dim[axis] += wanted.dim[axis];
    }
    call->dst[0].shape = joint;
    return OK;
}

Status shape_slice(ShapeCall *call)
{
    SliceAttr slice = call->attr->slice;
    TRY(shape_want_axis(call, 0, slice.axis));
    Shape shape = shape_of(call, 0);
    int64_t size = shape.dim[slice.axis];
    if (slice.start < 0 || slice.length < 1 || slice.start > size - slice.length)
        return shape_fail(call,
                          "elements %" PRId64 " to %" PRId64 " of axis %d, which has %" PRId64,
                          slice.start, slice.start + slice.length - 1, slice.axis, size);
    shape.dim[slice.axis] = slice.length;
    call->dst[0].shape = shape;
    return OK;
}

Status shape_pad(ShapeCall *call)
{
    PadAttr pad = call->attr->pad;
    TRY(shape_want_axis(call, 0, pad.axis));
    if (pad.before < 0 || pad.after < 0)
        return shape_fail(call, "padding %" PRId64 " and %" PRId64 ", wanted 0 or more", pad.before,
                          pad.after);
    Shape shape = shape_of(call, 0);
    shape.dim[pad.axis] += pad.before + pad.after;
    call->dst[0].shape = shape;
    return OK;
}

Status shape_reduce_sum(ShapeCall *call)
{
    Shape src = shape_of(call, 0), wanted = call->attr->reduce_sum.shape, joint;
    TRY(want_valid_shape(call, wanted));
    if (!shape_broadcast(src, wanted, &joint) || !shape_equal(joint, src))
        return fail_pair(call, "does not reduce to", src, wanted);
    call->dst[0].shape = wanted;
    return OK;
}

Status shape_fill(ShapeCall *call)
{
    (void)call; /* the destination exists already */
    return OK;
}

Status shape_all_reduce(ShapeCall *call)
{
    (void)call; /* the destination exists already */
    return OK;
}

Status shape_all_reduce_wait(ShapeCall *call)
{
    (void)call;
    return OK;
}

Status shape_rank_gather(ShapeCall *call)
{
    Shape src = shape_of(call, 0), *dst = &call->dst[0].shape;
    int64_t n_ranks = call->attr->rank_gather.n_ranks;
    TRY(shape_want_positive(call, "ranks", n_ranks));
    if (src.rank == SHAPE_MAX_RANK)
        return shape_fail(call, "src has %d axes, wanted one less", src.rank);
    *dst = (Shape){.rank = src.rank + 1, .dim = {n_ranks}};
    for (int i = 0; i < src.rank; i++) dst->dim[i + 1] = src.dim[i];
    return OK;
}

Status shape_rank_scatter(ShapeCall *call)
{
    Shape src = shape_of(call, 0), *dst = &call->dst[0].shape;
    TRY(shape_want_axis(call, 0, 0));
    TRY(shape_want_equal(call, "ranks", src.dim[0], call->attr->rank_scatter.n_ranks));
    *dst = (Shape){.rank = src.rank - 1};
    for (int i = 0; i < dst->rank; i++) dst->dim[i] = src.dim[i + 1];
    return OK;
}

Status shape_accum(ShapeCall *call)
{
    (void)call; /* the caller compares the accumulator, which is no source */
    return OK;
}

Status shape_copy(ShapeCall *call)
{
    (void)call; /* the caller compares the destination, which exists already */
    return OK;
}

Status shape_cast(ShapeCall *call)
{
    DType dtype = call->attr->cast.dtype;
    if (!dtype_is_float(dtype))
        return shape_fail(call, "to %s, wanted a float dtype", dtype_name(dtype));
    call->dst[0] = (Tensor){.dtype = dtype, .shape = shape_of(call, 0)};
    return OK;
}
