/* Gradient rules of the losses. See rules.h. */
#include "autograd/grad_common.h"

/* The loss is symmetric in src and target. */
void grad_mse(GradCall *call)
{
    OpAttr attr = {.mse_grad = call->attr->mse};
    ValueId src = call->src[0], target = call->src[1], keep = call->src[2], dloss = call->ddst[0];
    if (call->need[0])
        call->dsrc[0] = graph_op(call->graph, OP_MSE_GRAD, attr, SRC(src, target, keep, dloss));
    if (call->need[1])
        call->dsrc[1] = graph_op(call->graph, OP_MSE_GRAD, attr, SRC(target, src, keep, dloss));
}

void grad_focal_dice(GradCall *call)
{
    grad_assert_first_only(call);
    OpAttr attr = {.focal_dice_grad = call->attr->focal_dice};
    call->dsrc[0] = graph_op(
        call->graph, OP_FOCAL_DICE_GRAD, attr,
        SRC(call->src[0], call->src[1], call->src[2], call->src[3], call->dst[1], call->ddst[0]));
}

/* Where to look is no function of the logits here: PointRend passes no gradient through its points.
 */
void grad_bce_dice_points(GradCall *call)
{
    grad_assert_first_only(call);
    OpAttr attr = {.bce_dice_points_grad = call->attr->bce_dice_points};
    call->dsrc[0] = graph_op(call->graph, OP_BCE_DICE_POINTS_GRAD, attr,
                             SRC(call->src[0], call->src[1], call->src[2], call->src[3],
                                 call->src[4], call->dst[1], call->ddst[0]));
}

void grad_min_candidate(GradCall *call)
{
    grad_assert_first_only(call);
    grad_refuse(call, 2, "the weights of masks");
    OpAttr attr = {.min_candidate_grad = call->attr->min_candidate};
    call->dsrc[0] = graph_op(call->graph, OP_MIN_CANDIDATE_GRAD, attr,
                             SRC(call->dst[1], call->src[2], call->dst[2], call->ddst[0]));
}

void grad_iou_mse(GradCall *call)
{
    grad_refuse(call, 1, "the IoU that is to be predicted");
    grad_refuse(call, 3, "the weights of masks");
    OpAttr attr = {.iou_mse_grad = call->attr->iou_mse};
    call->dsrc[0] = graph_op(
        call->graph, OP_IOU_MSE_GRAD, attr,
        SRC(call->src[0], call->src[1], call->src[2], call->src[3], call->ddst[0]));
}
