/* Gradient rules of the elementwise and shape ops. See rules.h for the contract: rules add nodes,
 * the caller sums over broadcast axes. */
#include "autograd/graph.h"
#include "autograd/rules.h"

void grad_add(GradCall *call) { call->dsrc[0] = call->dsrc[1] = call->ddst[0]; }

void grad_act(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_ACT_GRAD, ATTR(act_grad, .kind = call->attr->act.kind),
                             SRC(call->src[0], call->ddst[0]));
}

void grad_reshape(GradCall *call)
{
    Shape shape = graph_value(call->graph, call->src[0])->shape;
    call->dsrc[0] = graph_reshape(call->graph, call->ddst[0], shape);
}

void grad_expand(GradCall *call)
{
    call->dsrc[0] = call->ddst[0]; /* the copies are a broadcast, which the caller sums */
}

void grad_concat(GradCall *call)
{
    int axis = call->attr->concat.axis;
    int64_t start = 0;
    for (int i = 0; i < call->n_src; i++) {
        int64_t length = graph_value(call->graph, call->src[i])->shape.dim[axis];
        if (call->need[i])
            call->dsrc[i] = graph_op(call->graph, OP_SLICE,
                                     ATTR(slice, .axis = axis, .start = start, .length = length),
                                     SRC(call->ddst[0]));
        start += length;
    }
}

void grad_slice(GradCall *call)
{
    SliceAttr slice = call->attr->slice;
    int64_t size = graph_value(call->graph, call->src[0])->shape.dim[slice.axis];
    OpAttr pad = ATTR(pad, .axis = slice.axis, .before = slice.start,
                      .after = size - slice.start - slice.length);
    call->dsrc[0] = graph_op(call->graph, OP_PAD, pad, SRC(call->ddst[0]));
}

void grad_pad(GradCall *call)
{
    PadAttr pad = call->attr->pad;
    int64_t size = graph_value(call->graph, call->src[0])->shape.dim[pad.axis];
    call->dsrc[0] = graph_op(call->graph, OP_SLICE,
                             ATTR(slice, .axis = pad.axis, .start = pad.before, .length = size),
                             SRC(call->ddst[0]));
}

void grad_accum(GradCall *call)
{
    call->dsrc[0] = call->ddst[0]; /* every iteration's term enters the sum once */
}

/* Each rank's row is read by all: the losses of all are summed over. */
void grad_rank_gather(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_RANK_SCATTER,
                             (OpAttr){.rank_scatter = call->attr->rank_gather}, SRC(call->ddst[0]));
}
