/* Shape rules of the normalisations. See rules.h and ops.def. */
#include <inttypes.h>

#include "autograd/shape_checks.h"

static Status want_norm_attr(const ShapeCall *call, NormAttr attr)
{
    if (!(attr.eps > 0)) return shape_fail(call, "eps is %g, wanted more than 0", attr.eps);
    return shape_want_activation(call, attr.act);
}

/* A map and per-channel vectors in sources 1 .. n_vectors. */
static Status want_map_and_vectors(const ShapeCall *call, int n_vectors)
{
    static const char *const names[] = {"src", "weight", "bias", "mean", "var"};
    TRY(shape_want_rank(call, 0, "src", 4));
    for (int i = 1; i <= n_vectors; i++)
        TRY(shape_want(call, i, names[i], SHAPE(shape_of(call, 0).dim[3])));
    return OK;
}

/* dsrc, dweight and dbias take the shapes of sources 0, 1 and 2. */
static void gradients_of_first_three(ShapeCall *call)
{
    for (int i = 0; i < 3; i++) call->dst[i].shape = shape_of(call, i);
}

/* ---- batch norm ---- */

Status shape_batchnorm(ShapeCall *call)
{
    TRY(want_norm_attr(call, call->attr->batchnorm));
    TRY(want_map_and_vectors(call, 2));
    call->dst[0].shape = shape_of(call, 0);
    call->dst[1].shape = call->dst[2].shape = shape_of(call, 1);
    return OK;
}

Status shape_batchnorm_grad(ShapeCall *call)
{
    TRY(want_norm_attr(call, call->attr->batchnorm_grad));
    TRY(want_map_and_vectors(call, 4));
    TRY(shape_want(call, 5, "ddst", shape_of(call, 0)));
    gradients_of_first_three(call);
    return OK;
}

Status shape_batchnorm_frozen(ShapeCall *call)
{
    TRY(want_norm_attr(call, call->attr->batchnorm_frozen));
    TRY(want_map_and_vectors(call, 4));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_batchnorm_frozen_grad(ShapeCall *call)
{
    TRY(want_norm_attr(call, call->attr->batchnorm_frozen_grad));
    TRY(want_map_and_vectors(call, 4));
    TRY(shape_want(call, 5, "ddst", shape_of(call, 0)));
    gradients_of_first_three(call);
    return OK;
}

Status shape_batchnorm_moments_grad(ShapeCall *call)
{
    static const char *const names[] = {"weight", "var", "dweight", "dbias"};
    TRY(want_norm_attr(call, call->attr->batchnorm_moments_grad));
    TRY(shape_want_rank(call, 0, names[0], 1));
    for (int i = 1; i < 4; i++) TRY(shape_want(call, i, names[i], shape_of(call, 0)));
    call->dst[0].shape = call->dst[1].shape = shape_of(call, 0);
    return OK;
}

/* ---- its statistics ---- */

Status shape_bn_moments(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "src", 4));
    call->dst[0].shape = SHAPE(2, shape_of(call, 0).dim[3]);
    return OK;
}

Status shape_bn_moments_grad(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "src", 4));
    TRY(shape_want(call, 1, "moments", SHAPE(2, shape_of(call, 0).dim[3])));
    TRY(shape_want(call, 2, "dmoments", shape_of(call, 1)));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_bn_merge(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "moments", 3));
    TRY(shape_want_positive(call, "maps", shape_of(call, 0).dim[0]));
    TRY(shape_want_equal(call, "rows of moments", shape_of(call, 0).dim[1], 2));
    call->dst[0].shape = SHAPE(2, shape_of(call, 0).dim[2]);
    return OK;
}

Status shape_bn_merge_grad(ShapeCall *call)
{
    TRY(shape_bn_merge(call));
    TRY(shape_want(call, 1, "dst", call->dst[0].shape));
    TRY(shape_want(call, 2, "ddst", call->dst[0].shape));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_bn_update(ShapeCall *call)
{
    BnUpdateAttr attr = call->attr->bn_update;
    if (attr.n_values < 2) /* the unbiased variance of one value does not exist */
        return shape_fail(call, "statistics of %" PRId64 " values, wanted 2 or more",
                          attr.n_values);
    if (!(attr.momentum >= 0 && attr.momentum <= 1))
        return shape_fail(call, "momentum is %g, wanted 0 to 1", attr.momentum);
    TRY(shape_want_rank(call, 0, "means", 2));
    TRY(shape_want(call, 1, "vars", shape_of(call, 0)));
    return shape_want(call, 2, "ok", SHAPE(1));
}

/* ---- layer norm ---- */

/* src (..,C) and vectors of C in sources 1 and 2; *rows: the shape of the statistics. */
static Status want_rows(const ShapeCall *call, NormAttr attr, Shape *rows)
{
    TRY(want_norm_attr(call, attr));
    Shape src = shape_of(call, 0);
    if (src.rank < 1) return shape_fail(call, "src is a scalar, wanted an axis to normalise over");
    TRY(shape_want(call, 1, "weight", SHAPE(src.dim[src.rank - 1])));
    TRY(shape_want(call, 2, "bias", SHAPE(src.dim[src.rank - 1])));
    *rows = src;
    rows->dim[--rows->rank] = 0;
    return OK;
}

Status shape_layernorm(ShapeCall *call)
{
    Shape rows;
    TRY(want_rows(call, call->attr->layernorm, &rows));
    call->dst[0].shape = shape_of(call, 0);
    call->dst[1].shape = call->dst[2].shape = rows;
    return OK;
}

Status shape_layernorm_grad(ShapeCall *call)
{
    Shape rows;
    TRY(want_rows(call, call->attr->layernorm_grad, &rows));
    TRY(shape_want(call, 3, "mean", rows));
    TRY(shape_want(call, 4, "rstd", rows));
    TRY(shape_want(call, 5, "ddst", shape_of(call, 0)));
    gradients_of_first_three(call);
    return OK;
}
