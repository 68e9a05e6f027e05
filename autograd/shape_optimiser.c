/* Shape rules of the optimiser's ops. The states they change are destinations that exist already:
 * their shapes are compared by the caller. See rules.h and ops.def. */
#include "autograd/shape_checks.h"

static Status want_scalars(const ShapeCall *call, int first, int n, const char *const *names)
{
    for (int i = 0; i < n; i++) TRY(shape_want_optional(call, first + i, names[i], SHAPE(1)));
    return OK;
}

Status shape_sumsq(ShapeCall *call)
{
    (void)call; /* any shape */
    return OK;
}

Status shape_clip(ShapeCall *call)
{
    static const char *const names[] = {"sumsq", "loss", "loss_scale"};
    if (!(call->attr->clip.max_norm >= 0))
        return shape_fail(call, "max_norm is %g, wanted 0 or more", call->attr->clip.max_norm);
    TRY(want_scalars(call, 0, 3, names));
    for (int i = 0; i < 3; i++) call->dst[i].shape = SHAPE(1);
    return OK;
}

Status shape_adamw(ShapeCall *call)
{
    static const char *const names[] = {"lr", "ok", "scale", "gate"};
    AdamwAttr attr = call->attr->adamw;
    if (!(attr.beta1 >= 0 && attr.beta1 < 1 && attr.beta2 >= 0 && attr.beta2 < 1))
        return shape_fail(call, "betas are %g and %g, wanted 0 or more and below 1", attr.beta1,
                          attr.beta2);
    if (!(attr.eps > 0)) return shape_fail(call, "eps is %g, wanted more than 0", attr.eps);
    if (!(attr.weight_decay >= 0 && attr.lr_scale >= 0 && attr.clip_value >= 0))
        return shape_fail(call, "weight_decay %g, lr_scale %g and clip_value %g, wanted 0 or more",
                          attr.weight_decay, attr.lr_scale, attr.clip_value);
    return want_scalars(call, 1, 4, names);
}

Status shape_ema(ShapeCall *call)
{
    static const char *const names[] = {"ok"};
    double decay = call->attr->ema.decay;
    if (!(decay >= 0 && decay <= 1)) return shape_fail(call, "decay is %g, wanted 0 to 1", decay);
    return want_scalars(call, 1, 1, names);
}
