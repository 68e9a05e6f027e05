/* Gradient rules of matrix products, convolutions and block moves. See rules.h.
 *
 * With A = a or a^T and B = b or b^T as the flags say, dst = A B gives dA = ddst B^T and dB = A^T
 * ddst; the flags of the backward products follow from transposing both sides where a or b is
 * stored transposed. The second factor's gradient comes first: what it alone reads of the forward
 * pass is then gone when the first one's, of the same size, is made.
 */
#include "autograd/graph.h"
#include "autograd/rules.h"

/* ---- matrix products ---- */

static ValueId matmul(Graph *graph, ValueId a, bool trans_a, ValueId b, bool trans_b)
{
    return graph_op(graph, OP_MATMUL, ATTR(matmul, .trans_a = trans_a, .trans_b = trans_b),
                    SRC(a, b));
}

/* b with the batch dims of a: the first factor of a product has no shared form. */
static ValueId batched(Graph *graph, ValueId b, ValueId a)
{
    Shape shape = graph_value(graph, a)->shape, matrix = graph_value(graph, b)->shape;
    if (shape.rank == matrix.rank) return b;
    shape.dim[shape.rank - 2] = matrix.dim[0];
    shape.dim[shape.rank - 1] = matrix.dim[1];
    return graph_op(graph, OP_EXPAND, ATTR(expand, .shape = shape), SRC(b));
}

static ValueId matmul_da(const GradCall *call)
{
    Graph *graph = call->graph;
    MatmulAttr attr = call->attr->matmul;
    ValueId b = call->src[1], ddst = call->ddst[0];
    if (!attr.trans_a) return matmul(graph, ddst, false, b, !attr.trans_b);
    return matmul(graph, batched(graph, b, call->src[0]), attr.trans_b, ddst, true);
}

/* All rows of all batches as one matrix. */
static ValueId flat_rows(Graph *graph, ValueId value)
{
    Shape shape = graph_value(graph, value)->shape;
    if (shape.rank == 2) return value;
    int64_t columns = shape.dim[shape.rank - 1];
    int64_t rows = 1;
    for (int i = 0; i < shape.rank - 1; i++) rows *= shape.dim[i];
    return graph_reshape(graph, value, SHAPE(rows, columns));
}

/* A shared b sums over the batches. Where a is not transposed that sum is the inner dim of one
 * product of the flattened rows; else the product per batch is returned and the caller sums it. */
static ValueId matmul_db(const GradCall *call)
{
    Graph *graph = call->graph;
    MatmulAttr attr = call->attr->matmul;
    ValueId a = call->src[0], ddst = call->ddst[0];
    if (graph_value(graph, call->src[1])->shape.rank == 2 && !attr.trans_a) {
        a = flat_rows(graph, a);
        ddst = flat_rows(graph, ddst);
    }
    if (attr.trans_b) return matmul(graph, ddst, true, a, attr.trans_a);
    return matmul(graph, a, !attr.trans_a, ddst, false);
}

static ValueId sum_to_shape_of(Graph *graph, ValueId value, ValueId like)
{
    Shape shape = graph_value(graph, like)->shape;
    return graph_op(graph, OP_REDUCE_SUM, ATTR(reduce_sum, .shape = shape), SRC(value));
}

void grad_matmul(GradCall *call)
{
    if (call->need[1]) call->dsrc[1] = matmul_db(call);
    if (call->need[0]) call->dsrc[0] = matmul_da(call);
    if (call->need[2]) call->dsrc[2] = sum_to_shape_of(call->graph, call->ddst[0], call->src[2]);
}

/* ---- convolutions ---- */

void grad_conv2d(GradCall *call)
{
    Graph *graph = call->graph;
    ConvGradAttr attr = {.conv = call->attr->conv2d};
    if (call->need[1]) {
        attr.shape = graph_value(graph, call->src[1])->shape;
        call->dsrc[1] = graph_op(graph, OP_CONV2D_GRAD_WEIGHT, (OpAttr){.conv2d_grad_weight = attr},
                                 SRC(call->src[0], call->ddst[0]));
    }
    if (call->need[0]) {
        attr.shape = graph_value(graph, call->src[0])->shape;
        call->dsrc[0] = graph_op(graph, OP_CONV2D_GRAD_DATA, (OpAttr){.conv2d_grad_data = attr},
                                 SRC(call->ddst[0], call->src[1]));
    }
    if (call->need[2]) call->dsrc[2] = sum_to_shape_of(graph, call->ddst[0], call->src[2]);
}

/* ---- block moves ---- */

void grad_depth_to_space(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_SPACE_TO_DEPTH,
                             ATTR(space_to_depth, .block = call->attr->depth_to_space.block),
                             SRC(call->ddst[0]));
}

void grad_space_to_depth(GradCall *call)
{
    call->dsrc[0] = graph_op(call->graph, OP_DEPTH_TO_SPACE,
                             ATTR(depth_to_space, .block = call->attr->space_to_depth.block),
                             SRC(call->ddst[0]));
}
