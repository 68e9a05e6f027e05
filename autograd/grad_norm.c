/* Gradient rules of the normalisations. See rules.h.
 *
 * One backward op gives dsrc, dweight and dbias: they share their sums. It repeats the
 * normalisation from src, so that the normalised map and the input of a fused activation need not
 * be kept.
 */
#include "autograd/grad_common.h"

void grad_batchnorm(GradCall *call)
{
    grad_assert_first_only(call);
    ValueId first = graph_op(
        call->graph, OP_BATCHNORM_GRAD, (OpAttr){.batchnorm_grad = call->attr->batchnorm},
        SRC(call->src[0], call->src[1], call->src[2], call->dst[1], call->dst[2], call->ddst[0]));
    grad_take(call, first, 3);
}

/* Running statistics are not asked for; those of the ranks are, and follow from the other sums. */
void grad_batchnorm_frozen(GradCall *call)
{
    OpAttr attr = {.batchnorm_frozen_grad = call->attr->batchnorm_frozen};
    ValueId first = graph_op(
        call->graph, OP_BATCHNORM_FROZEN_GRAD, attr,
        SRC(call->src[0], call->src[1], call->src[2], call->src[3], call->src[4], call->ddst[0]));
    grad_take(call, first, 3);
    if (!call->need[3] && !call->need[4]) return;
    attr = (OpAttr){.batchnorm_moments_grad = call->attr->batchnorm_frozen};
    call->dsrc[3] = graph_op(call->graph, OP_BATCHNORM_MOMENTS_GRAD, attr,
                             SRC(call->src[1], call->src[4], call->dsrc[1], call->dsrc[2]));
    call->dsrc[4] = graph_dst(call->graph, call->dsrc[3], 1);
}

void grad_bn_moments(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_BN_MOMENTS_GRAD, NO_ATTR,
                             SRC(call->src[0], call->dst[0], call->ddst[0]));
}

void grad_bn_merge(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_BN_MERGE_GRAD, NO_ATTR,
                             SRC(call->src[0], call->dst[0], call->ddst[0]));
}

void grad_layernorm(GradCall *call)
{
    grad_assert_first_only(call);
    ValueId first = graph_op(
        call->graph, OP_LAYERNORM_GRAD, (OpAttr){.layernorm_grad = call->attr->layernorm},
        SRC(call->src[0], call->src[1], call->src[2], call->dst[1], call->dst[2], call->ddst[0]));
    grad_take(call, first, 3);
}
