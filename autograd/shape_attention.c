/* Shape rules of the attentions and of window moves. See rules.h and ops.def. */
#include <inttypes.h>

#include "autograd/shape_checks.h"

static Status want_heads(const ShapeCall *call, int64_t heads, int64_t channels)
{
    TRY(shape_want_positive(call, "heads", heads));
    if (channels % heads == 0) return OK;
    return shape_fail(call, "%" PRId64 " channels do not divide into %" PRId64 " heads", channels,
                      heads);
}

/* ---- attention ---- */

/* Checks q, k, v and labels; the shapes of dst and lse. */
static Status attend(const ShapeCall *call, AttentionAttr attr, Shape *dst, Shape *lse)
{
    TRY(shape_want_rank(call, 0, "q", 4));
    TRY(shape_want_rank(call, 1, "k", 4));
    Shape q = shape_of(call, 0), k = shape_of(call, 1);
    TRY(shape_want(call, 2, "v", k));
    TRY(shape_want_equal(call, "images of k, against q", k.dim[0], q.dim[0]));
    TRY(shape_want_equal(call, "channels of k, against q", k.dim[3], q.dim[3]));
    TRY(want_heads(call, attr.heads, q.dim[3]));
    if (q.dim[1] != k.dim[1] && q.dim[1] != 1 && k.dim[1] != 1)
        return shape_fail(call,
                          "q has %" PRId64 " masks and k %" PRId64 ", wanted equal numbers or 1",
                          q.dim[1], k.dim[1]);
    if (attr.n_free_keys < 0 || attr.n_free_keys > k.dim[2])
        return shape_fail(call, "%" PRId64 " free keys of %" PRId64, attr.n_free_keys, k.dim[2]);
    int64_t masks = q.dim[1] == 1 ? k.dim[1] : q.dim[1];
    TRY(shape_want_optional(call, 3, "labels",
                            SHAPE(q.dim[0], masks, k.dim[2] - attr.n_free_keys)));
    *dst = SHAPE(q.dim[0], masks, q.dim[2], q.dim[3]);
    *lse = SHAPE(q.dim[0], masks, attr.heads, q.dim[2]);
    return OK;
}

Status shape_attention(ShapeCall *call)
{
    return attend(call, call->attr->attention, &call->dst[0].shape, &call->dst[1].shape);
}

Status shape_attention_grad(ShapeCall *call)
{
    Shape dst, lse;
    TRY(attend(call, call->attr->attention_grad, &dst, &lse));
    TRY(shape_want(call, 4, "dst", dst));
    TRY(shape_want(call, 5, "lse", lse));
    TRY(shape_want(call, 6, "ddst", dst));
    for (int i = 0; i < 3; i++) call->dst[i].shape = shape_of(call, i);
    return OK;
}

/* ---- attention with relative positions ---- */

static Status attend_relpos(const ShapeCall *call, int64_t heads, Shape *dst, Shape *lse)
{
    TRY(shape_want_rank(call, 0, "qkv", 4));
    Shape qkv = shape_of(call, 0);
    if (qkv.dim[3] % 3)
        return shape_fail(call, "qkv has %" PRId64 " channels, wanted a multiple of 3", qkv.dim[3]);
    int64_t height = qkv.dim[1], width = qkv.dim[2], channels = qkv.dim[3] / 3;
    TRY(want_heads(call, heads, channels));
    TRY(shape_want(call, 1, "rel_h", SHAPE(2 * height - 1, channels / heads)));
    TRY(shape_want(call, 2, "rel_w", SHAPE(2 * width - 1, channels / heads)));
    *dst = SHAPE(qkv.dim[0], height, width, channels);
    *lse = SHAPE(qkv.dim[0], heads, height * width);
    return OK;
}

Status shape_relpos_attention(ShapeCall *call)
{
    return attend_relpos(call, call->attr->relpos_attention.heads, &call->dst[0].shape,
                         &call->dst[1].shape);
}

Status shape_relpos_attention_grad(ShapeCall *call)
{
    Shape dst, lse;
    TRY(attend_relpos(call, call->attr->relpos_attention_grad.heads, &dst, &lse));
    TRY(shape_want(call, 3, "dst", dst));
    TRY(shape_want(call, 4, "lse", lse));
    TRY(shape_want(call, 5, "ddst", dst));
    for (int i = 0; i < 3; i++) call->dst[i].shape = shape_of(call, i);
    return OK;
}

/* ---- windows ---- */

static Status want_window_attr(const ShapeCall *call, WindowAttr attr)
{
    TRY(shape_want_positive(call, "window", attr.window));
    TRY(shape_want_positive(call, "height", attr.height));
    return shape_want_positive(call, "width", attr.width);
}

/* Windows of one image. */
static int64_t windows_of(WindowAttr attr)
{
    int64_t down = (attr.height + attr.window - 1) / attr.window;
    int64_t across = (attr.width + attr.window - 1) / attr.window;
    return down * across;
}

Status shape_window_partition(ShapeCall *call)
{
    WindowAttr attr = call->attr->window_partition;
    TRY(want_window_attr(call, attr));
    TRY(shape_want_rank(call, 0, "src", 4));
    Shape src = shape_of(call, 0);
    TRY(shape_want(call, 0, "src", SHAPE(src.dim[0], attr.height, attr.width, src.dim[3])));
    call->dst[0].shape = SHAPE(src.dim[0] * windows_of(attr), attr.window, attr.window, src.dim[3]);
    return OK;
}

Status shape_window_unpartition(ShapeCall *call)
{
    WindowAttr attr = call->attr->window_unpartition;
    TRY(want_window_attr(call, attr));
    TRY(shape_want_rank(call, 0, "src", 4));
    Shape src = shape_of(call, 0);
    TRY(shape_want(call, 0, "src", SHAPE(src.dim[0], attr.window, attr.window, src.dim[3])));
    if (src.dim[0] % windows_of(attr))
        return shape_fail(call, "%" PRId64 " windows do not divide into images of %" PRId64,
                          src.dim[0], windows_of(attr));
    call->dst[0].shape = SHAPE(src.dim[0] / windows_of(attr), attr.height, attr.width, src.dim[3]);
    return OK;
}

/* ---- linear attention ---- */

static Status attend_linear(const ShapeCall *call, LinearAttentionAttr attr, Shape *dst)
{
    TRY(shape_want_rank(call, 0, "src", 4));
    TRY(shape_want_positive(call, "head dim", attr.head_dim));
    if (!(attr.eps > 0)) return shape_fail(call, "eps is %g, wanted more than 0", attr.eps);
    Shape src = shape_of(call, 0);
    if (src.dim[3] % (3 * attr.head_dim))
        return shape_fail(call, "%" PRId64 " channels do not divide into q, k, v of %" PRId64,
                          src.dim[3], attr.head_dim);
    *dst = SHAPE(src.dim[0], src.dim[1], src.dim[2], src.dim[3] / 3);
    return OK;
}

Status shape_linear_attention(ShapeCall *call)
{
    return attend_linear(call, call->attr->linear_attention, &call->dst[0].shape);
}

Status shape_linear_attention_grad(ShapeCall *call)
{
    Shape dst;
    TRY(attend_linear(call, call->attr->linear_attention_grad, &dst));
    TRY(shape_want(call, 1, "ddst", dst));
    call->dst[0].shape = shape_of(call, 0);
    return OK;
}
