/* Shape rules of matrix products, convolutions and block moves. See rules.h and ops.def. */
#include <inttypes.h>

#include "autograd/shape_checks.h"

/* ---- matrix products ---- */

static Status want_matrix(const ShapeCall *call, int src, const char *what)
{
    if (shape_of(call, src).rank >= 2) return OK;
    return shape_fail(call, "%s has rank %d, wanted 2 or more", what, shape_of(call, src).rank);
}

/* b is one matrix for all, or has the batch dims of a. */
static Status want_batch_dims(const ShapeCall *call, Shape a, Shape b)
{
    if (b.rank == 2) return OK;
    if (b.rank != a.rank)
        return shape_fail(call, "b has rank %d, wanted 2 or that of a, %d", b.rank, a.rank);
    for (int i = 0; i < a.rank - 2; i++) {
        if (a.dim[i] == b.dim[i]) continue;
        return shape_fail(call, "batch dim %d is %" PRId64 " in a and %" PRId64 " in b", i,
                          a.dim[i], b.dim[i]);
    }
    return OK;
}

Status shape_matmul(ShapeCall *call)
{
    MatmulAttr attr = call->attr->matmul;
    TRY(want_matrix(call, 0, "a"));
    TRY(want_matrix(call, 1, "b"));
    Shape a = shape_of(call, 0), b = shape_of(call, 1);
    TRY(want_batch_dims(call, a, b));
    int64_t m = shape_dim_from_end(a, attr.trans_a ? 1 : 2),
            k = shape_dim_from_end(a, attr.trans_a ? 2 : 1);
    int64_t n = shape_dim_from_end(b, attr.trans_b ? 2 : 1);
    TRY(shape_want_equal(call, "inner dim of b, against a",
                         shape_dim_from_end(b, attr.trans_b ? 1 : 2), k));
    TRY(shape_want_optional(call, 2, "bias", SHAPE(n)));
    Shape dst = a;
    dst.dim[a.rank - 2] = m;
    dst.dim[a.rank - 1] = n;
    call->dst[0].shape = dst;
    return OK;
}

/* ---- convolutions ---- */

/* The shape of the result of convolving src (N,H,W,C) with w (K,R,S,C/G). */
static Status convolve(const ShapeCall *call, ConvAttr conv, Shape src, Shape w, Shape *dst)
{
    if (src.rank != 4 || w.rank != 4)
        return shape_fail(call, "map and weight have ranks %d and %d, wanted 4 and 4", src.rank,
                          w.rank);
    TRY(shape_want_positive(call, "stride", conv.stride));
    TRY(shape_want_positive(call, "groups", conv.groups));
    if (conv.pad < 0) return shape_fail(call, "pad is %" PRId64 ", wanted 0 or more", conv.pad);
    int64_t channels = src.dim[3], filters = w.dim[0];
    if (channels % conv.groups || filters % conv.groups)
        return shape_fail(
            call, "%" PRId64 " channels to %" PRId64 " do not divide into %" PRId64 " groups",
            channels, filters, conv.groups);
    TRY(shape_want_equal(call, "channels per group of weight", w.dim[3], channels / conv.groups));
    *dst = SHAPE(src.dim[0], 0, 0, filters);
    for (int axis = 1; axis <= 2; axis++) {
        int64_t room = src.dim[axis] + 2 * conv.pad - w.dim[axis];
        if (room < 0 || w.dim[axis] < 1)
            return shape_fail(call, "kernel of %" PRId64 " px on %" PRId64 " px with pad %" PRId64,
                              w.dim[axis], src.dim[axis], conv.pad);
        dst->dim[axis] = room / conv.stride + 1;
    }
    return OK;
}

Status shape_conv2d(ShapeCall *call)
{
    TRY(convolve(call, call->attr->conv2d, shape_of(call, 0), shape_of(call, 1),
                 &call->dst[0].shape));
    return shape_want_optional(call, 2, "bias", SHAPE(call->dst[0].shape.dim[3]));
}

Status shape_conv2d_grad_data(ShapeCall *call)
{
    ConvGradAttr attr = call->attr->conv2d_grad_data;
    Shape wanted;
    TRY(convolve(call, attr.conv, attr.shape, shape_of(call, 1), &wanted));
    TRY(shape_want(call, 0, "ddst", wanted));
    call->dst[0].shape = attr.shape;
    return OK;
}

Status shape_conv2d_grad_weight(ShapeCall *call)
{
    ConvGradAttr attr = call->attr->conv2d_grad_weight;
    Shape wanted;
    TRY(convolve(call, attr.conv, shape_of(call, 0), attr.shape, &wanted));
    TRY(shape_want(call, 1, "ddst", wanted));
    call->dst[0].shape = attr.shape;
    return OK;
}

/* ---- block moves ---- */

Status shape_depth_to_space(ShapeCall *call)
{
    int64_t r = call->attr->depth_to_space.block;
    TRY(shape_want_positive(call, "block", r));
    TRY(shape_want_rank(call, 0, "src", 4));
    Shape src = shape_of(call, 0);
    if (src.dim[3] % (r * r))
        return shape_fail(call, "%" PRId64 " channels do not divide into blocks of %" PRId64,
                          src.dim[3], r * r);
    call->dst[0].shape = SHAPE(src.dim[0], src.dim[1] * r, src.dim[2] * r, src.dim[3] / (r * r));
    return OK;
}

Status shape_space_to_depth(ShapeCall *call)
{
    int64_t r = call->attr->space_to_depth.block;
    TRY(shape_want_positive(call, "block", r));
    TRY(shape_want_rank(call, 0, "src", 4));
    Shape src = shape_of(call, 0);
    if (src.dim[1] % r || src.dim[2] % r)
        return shape_fail(call,
                          "%" PRId64 " x %" PRId64 " px do not divide into blocks of %" PRId64,
                          src.dim[1], src.dim[2], r);
    call->dst[0].shape = SHAPE(src.dim[0], src.dim[1] / r, src.dim[2] / r, src.dim[3] * r * r);
    return OK;
}
