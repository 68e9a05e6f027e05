/* Gradient rules of the attentions and of window moves. See rules.h.
 *
 * The backward ops recompute probabilities from the kept log-sum-exp, as in Dao et al.,
 * "FlashAttention" (NeurIPS 2022), so that no matrix of scores is kept.
 */
#include "autograd/grad_common.h"

void grad_attention(GradCall *call)
{
    grad_assert_first_only(call);
    ValueId first = graph_op(call->graph, OP_ATTENTION_GRAD,
                             (OpAttr){.attention_grad = call->attr->attention},
                             SRC(call->src[0], call->src[1], call->src[2], call->src[3],
                                 call->dst[0], call->dst[1], call->ddst[0]));
    grad_take(call, first, 3);
}

void grad_relpos_attention(GradCall *call)
{
    grad_assert_first_only(call);
    OpAttr attr = {.relpos_attention_grad = call->attr->relpos_attention};
    ValueId first = graph_op(
        call->graph, OP_RELPOS_ATTENTION_GRAD, attr,
        SRC(call->src[0], call->src[1], call->src[2], call->dst[0], call->dst[1], call->ddst[0]));
    grad_take(call, first, 3);
}

/* Padding is cut off on the way back, and cut-off padding gets zeros: each map is the other's
 * transpose. */
void grad_window_partition(GradCall *call)
{
    OpAttr attr = {.window_unpartition = call->attr->window_partition};
    call->dsrc[0] = graph_op(call->graph, OP_WINDOW_UNPARTITION, attr, SRC(call->ddst[0]));
}

void grad_window_unpartition(GradCall *call)
{
    OpAttr attr = {.window_partition = call->attr->window_unpartition};
    call->dsrc[0] = graph_op(call->graph, OP_WINDOW_PARTITION, attr, SRC(call->ddst[0]));
}

void grad_linear_attention(GradCall *call)
{
    OpAttr attr = {.linear_attention_grad = call->attr->linear_attention};
    call->dsrc[0] = graph_op(call->graph, OP_LINEAR_ATTENTION_GRAD, attr,
                             SRC(call->src[0], call->ddst[0]));
}
