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

void grad_batchnorm_frozen(GradCall *call)
{
    grad_refuse(call, 3, "a running mean");
    grad_refuse(call, 4, "a running variance");
    OpAttr attr = {.batchnorm_frozen_grad = call->attr->batchnorm_frozen};
    ValueId first = graph_op(
        call->graph, OP_BATCHNORM_FROZEN_GRAD, attr,
        SRC(call->src[0], call->src[1], call->src[2], call->src[3], call->src[4], call->ddst[0]));
    grad_take(call, first, 3);
}

void grad_layernorm(GradCall *call)
{
    grad_assert_first_only(call);
    ValueId first = graph_op(
        call->graph, OP_LAYERNORM_GRAD, (OpAttr){.layernorm_grad = call->attr->layernorm},
        SRC(call->src[0], call->src[1], call->src[2], call->dst[1], call->dst[2], call->ddst[0]));
    grad_take(call, first, 3);
}
