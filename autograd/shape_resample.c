/* Shape rules of resampling and of positional codes. See rules.h and ops.def. */
#include "autograd/shape_checks.h"

/* ---- resampling ---- */

/* src (N,H,W,C) to a map of the attribute's size; the transposed map has the same rule. */
static Status resample(const ShapeCall *call, ResizeAttr attr, Shape *dst)
{
    TRY(shape_want_rank(call, 0, "src", 4));
    if (attr.mode != RESIZE_BILINEAR && attr.mode != RESIZE_BICUBIC)
        return shape_fail(call, "mode %d is unknown", (int)attr.mode);
    TRY(shape_want_positive(call, "height", attr.height));
    TRY(shape_want_positive(call, "width", attr.width));
    Shape src = shape_of(call, 0);
    TRY(shape_want_positive(call, "height of the source", src.dim[1]));
    TRY(shape_want_positive(call, "width of the source", src.dim[2]));
    *dst = SHAPE(src.dim[0], attr.height, attr.width, src.dim[3]);
    return OK;
}

Status shape_resize(ShapeCall *call)
{
    return resample(call, call->attr->resize, &call->dst[0].shape);
}

Status shape_resize_grad(ShapeCall *call)
{
    return resample(call, call->attr->resize_grad, &call->dst[0].shape);
}

/* ---- positions ---- */

/* The frequencies G (2,F). */
static Status want_frequencies(const ShapeCall *call, int src)
{
    TRY(shape_want_rank(call, src, "frequencies", 2));
    return shape_want_equal(call, "rows of the frequencies", shape_of(call, src).dim[0], 2);
}

Status shape_pe_grid(ShapeCall *call)
{
    GridAttr attr = call->attr->pe_grid;
    TRY(shape_want_positive(call, "height", attr.height));
    TRY(shape_want_positive(call, "width", attr.width));
    TRY(want_frequencies(call, 0));
    call->dst[0].shape = SHAPE(attr.height, attr.width, 2 * shape_of(call, 0).dim[1]);
    return OK;
}

Status shape_point_embed(ShapeCall *call)
{
    static const char *const embeddings[] = {"e0", "e1", "e2", "e3", "not_a_point"};
    if (!(call->attr->point_embed.frame > 0))
        return shape_fail(call, "frame of %g px, wanted more than 0",
                          call->attr->point_embed.frame);
    TRY(shape_want_rank(call, 1, "labels", 3));
    Shape labels = shape_of(call, 1);
    TRY(shape_want(call, 0, "coords", SHAPE(labels.dim[0], labels.dim[1], labels.dim[2], 2)));
    TRY(want_frequencies(call, 2));
    int64_t width = 2 * shape_of(call, 2).dim[1];
    for (int i = 0; i < 5; i++) TRY(shape_want(call, 3 + i, embeddings[i], SHAPE(1, width)));
    call->dst[0].shape = SHAPE(labels.dim[0], labels.dim[1], labels.dim[2], width);
    return OK;
}

Status shape_point_embed_grad(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "labels", 3));
    TRY(shape_want_rank(call, 1, "ddst", 4));
    Shape labels = shape_of(call, 0);
    int64_t width = shape_of(call, 1).dim[3];
    TRY(shape_want(call, 1, "ddst", SHAPE(labels.dim[0], labels.dim[1], labels.dim[2], width)));
    for (int i = 0; i < 5; i++) call->dst[i].shape = SHAPE(1, width);
    return OK;
}

Status shape_prompt_counts(ShapeCall *call) { return shape_want_rank(call, 0, "labels", 3); }
