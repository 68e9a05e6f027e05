/* Shape rules of the losses. See rules.h and ops.def. */
#include "autograd/shape_checks.h"

/* ---- distillation ---- */

static Status want_maps(const ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "src", 4));
    TRY(shape_want(call, 1, "target", shape_of(call, 0)));
    return shape_want_optional(call, 2, "keep", SHAPE(shape_of(call, 0).dim[0], 2));
}

Status shape_mse(ShapeCall *call)
{
    TRY(want_maps(call));
    call->dst[0].shape = SHAPE(1);
    return OK;
}

Status shape_mse_grad(ShapeCall *call)
{
    TRY(want_maps(call));
    TRY(shape_want(call, 3, "dloss", SHAPE(1)));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

/* ---- mask losses ---- */

/* Logits (N,M,C,h,w) in source 0. */
static Status want_logits(const ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "logits", 5));
    for (int i = 2; i < 5; i++)
        TRY(shape_want_positive(call, "candidates, height, width", shape_of(call, 0).dim[i]));
    return OK;
}

/* Logits, words, rows and mode, in sources 0 to 3. */
static Status want_masks(const ShapeCall *call, int64_t size_px)
{
    TRY(want_logits(call));
    TRY(shape_want_positive(call, "size", size_px));
    Shape logits = shape_of(call, 0);
    TRY(shape_want_rank(call, 1, "words", 2));
    TRY(shape_want_equal(call, "images of words, against logits", shape_of(call, 1).dim[0],
                         logits.dim[0]));
    TRY(shape_want(call, 2, "rows", SHAPE(logits.dim[0], logits.dim[1], size_px + 1)));
    return shape_want(call, 3, "mode", SHAPE(1));
}

static Shape terms_of(Shape logits)
{
    return SHAPE(logits.dim[0], logits.dim[1], logits.dim[2], 2);
}

/* Points (N,M,C,P,2). */
static Status want_points(const ShapeCall *call, int src)
{
    TRY(shape_want_rank(call, src, "points", 5));
    Shape logits = shape_of(call, 0);
    int64_t n_points = shape_of(call, src).dim[3];
    TRY(shape_want_positive(call, "points", n_points));
    return shape_want(call, src, "points",
                      SHAPE(logits.dim[0], logits.dim[1], logits.dim[2], n_points, 2));
}

static Status want_focal(const ShapeCall *call, FocalDiceAttr attr)
{
    if (!(attr.alpha >= 0 && attr.alpha <= 1))
        return shape_fail(call, "alpha is %g, wanted 0 to 1", attr.alpha);
    if (!(attr.gamma >= 0)) return shape_fail(call, "gamma is %g, wanted 0 or more", attr.gamma);
    return want_masks(call, attr.size);
}

Status shape_focal_dice(ShapeCall *call)
{
    TRY(want_focal(call, call->attr->focal_dice));
    call->dst[0].shape = call->dst[1].shape = terms_of(shape_of(call, 0));
    return OK;
}

Status shape_focal_dice_grad(ShapeCall *call)
{
    TRY(want_focal(call, call->attr->focal_dice_grad));
    TRY(shape_want(call, 4, "sums", terms_of(shape_of(call, 0))));
    TRY(shape_want(call, 5, "dterms", terms_of(shape_of(call, 0))));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_point_sample(ShapeCall *call)
{
    PointSampleAttr attr = call->attr->point_sample;
    TRY(shape_want_positive(call, "size", attr.size));
    TRY(shape_want_positive(call, "points", attr.n_points));
    if (!(attr.oversample >= 1))
        return shape_fail(call, "oversample is %g, wanted 1 or more", attr.oversample);
    if (!(attr.importance >= 0 && attr.importance <= 1))
        return shape_fail(call, "importance is %g, wanted 0 to 1", attr.importance);
    TRY(want_logits(call));
    Shape logits = shape_of(call, 0);
    TRY(shape_want(call, 1, "key", SHAPE(logits.dim[0], logits.dim[1], 2)));
    call->dst[0].shape = SHAPE(logits.dim[0], logits.dim[1], logits.dim[2], attr.n_points, 2);
    return OK;
}

Status shape_bce_dice_points(ShapeCall *call)
{
    TRY(want_masks(call, call->attr->bce_dice_points.size));
    TRY(want_points(call, 4));
    call->dst[0].shape = call->dst[1].shape = terms_of(shape_of(call, 0));
    return OK;
}

Status shape_bce_dice_points_grad(ShapeCall *call)
{
    TRY(want_masks(call, call->attr->bce_dice_points_grad.size));
    TRY(want_points(call, 4));
    TRY(shape_want(call, 5, "sums", terms_of(shape_of(call, 0))));
    TRY(shape_want(call, 6, "dterms", terms_of(shape_of(call, 0))));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

/* ---- choice of the best candidate ---- */

Status shape_min_candidate(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "terms", 4));
    Shape terms = shape_of(call, 0), masks = SHAPE(terms.dim[0], terms.dim[1]);
    TRY(shape_want_equal(call, "last dim of terms", terms.dim[3], 2));
    TRY(shape_want(call, 1, "mode", SHAPE(1)));
    TRY(shape_want(call, 2, "weight", masks));
    call->dst[0].shape = SHAPE(1);
    call->dst[1].shape = SHAPE(terms.dim[0], terms.dim[1], terms.dim[2]);
    call->dst[2].shape = masks;
    return OK;
}

Status shape_min_candidate_grad(ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "candidates", 3));
    Shape candidates = shape_of(call, 0), masks = SHAPE(candidates.dim[0], candidates.dim[1]);
    TRY(shape_want(call, 1, "weight", masks));
    TRY(shape_want(call, 2, "best", masks));
    TRY(shape_want(call, 3, "dloss", SHAPE(1)));
    call->dst[0].shape = SHAPE(candidates.dim[0], candidates.dim[1], candidates.dim[2], 2);
    return OK;
}

/* ---- the IoU head and clicks ---- */

Status shape_mask_iou(ShapeCall *call)
{
    TRY(want_masks(call, call->attr->mask_iou.size));
    Shape logits = shape_of(call, 0);
    call->dst[0].shape = SHAPE(logits.dim[0], logits.dim[1], logits.dim[2]);
    return OK;
}

/* Predicted and true IoU, mode and weight, in sources 0 to 3. */
static Status want_ious(const ShapeCall *call)
{
    TRY(shape_want_rank(call, 0, "pred", 3));
    Shape pred = shape_of(call, 0);
    TRY(shape_want_positive(call, "candidates", pred.dim[2]));
    TRY(shape_want(call, 1, "iou", pred));
    TRY(shape_want(call, 2, "mode", SHAPE(1)));
    return shape_want(call, 3, "weight", SHAPE(pred.dim[0], pred.dim[1]));
}

Status shape_iou_mse(ShapeCall *call)
{
    TRY(want_ious(call));
    call->dst[0].shape = SHAPE(1);
    return OK;
}

Status shape_iou_mse_grad(ShapeCall *call)
{
    TRY(want_ious(call));
    TRY(shape_want(call, 4, "dloss", SHAPE(1)));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}

Status shape_pick_candidate(ShapeCall *call)
{
    TRY(want_logits(call));
    Shape src = shape_of(call, 0);
    TRY(shape_want(call, 1, "best", SHAPE(src.dim[0], src.dim[1])));
    call->dst[0].shape = SHAPE(src.dim[0], src.dim[1], src.dim[3], src.dim[4]);
    return OK;
}

Status shape_error_click(ShapeCall *call)
{
    ClickAttr attr = call->attr->error_click;
    TRY(shape_want_positive(call, "size", attr.size));
    TRY(shape_want_positive(call, "round", attr.round));
    if (!(attr.frame > 0))
        return shape_fail(call, "frame is %g px, wanted more than 0", attr.frame);
    TRY(shape_want_rank(call, 0, "logits", 4));
    Shape logits = shape_of(call, 0);
    int64_t n = logits.dim[0], m = logits.dim[1];
    for (int i = 2; i < 4; i++) TRY(shape_want_positive(call, "height, width", logits.dim[i]));
    TRY(shape_want_rank(call, 1, "words", 2));
    TRY(shape_want_equal(call, "images of words, against logits", shape_of(call, 1).dim[0], n));
    TRY(shape_want(call, 2, "rows", SHAPE(n, m, attr.size + 1)));
    TRY(shape_want(call, 3, "weight", SHAPE(n, m)));
    TRY(shape_want(call, 4, "key", SHAPE(n, m, 2)));
    call->dst[0].shape = SHAPE(n, m, 1, 2);
    call->dst[1].shape = SHAPE(n, m, 1);
    return OK;
}
