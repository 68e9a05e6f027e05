/* Gradient rules of resampling and of positional codes. See rules.h. */
#include "autograd/grad_common.h"

void grad_resize(GradCall *call)
{
    Shape src = graph_value(call->graph, call->src[0])->shape;
    OpAttr attr = ATTR(resize_grad, .mode = call->attr->resize.mode, .height = src.dim[1],
                       .width = src.dim[2]);
    call->dsrc[0] = graph_op(call->graph, OP_RESIZE_GRAD, attr, SRC(call->ddst[0]));
}

void grad_point_embed(GradCall *call)
{
    grad_refuse(call, 0, "prompt coordinates");
    grad_refuse(call, 2, "the positional frequencies, a buffer");
    ValueId first = graph_op(call->graph, OP_POINT_EMBED_GRAD, NO_ATTR,
                             SRC(call->src[1], call->ddst[0]));
    for (int i = 0; i < 5; i++) call->dsrc[3 + i] = graph_dst(call->graph, first, i);
}
