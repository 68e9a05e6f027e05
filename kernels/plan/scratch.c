/* Scratch of the CUDA backend's own kernels. See scratch.h. */
#include "kernels/plan/scratch.h"

#include <math.h>

#include "kernels/plan/conv_way.h"
#include "kernels/plan/parts.h"

static int64_t channels_of(const KernelCall *call)
{
    return shape_dim_from_end(call->src[0].shape, 1);
}

/* K sums per channel over all rows of source 0. */
static size_t channel_sums(const KernelCall *call, int k, size_t element_bytes)
{
    int64_t channels = channels_of(call);
    ColumnPlan plan = column_plan(1, shape_elems(call->src[0].shape) / channels, channels);
    return column_partials(&plan, k) * element_bytes;
}

/* ---- convolutions and products ---- */

/* 16-bit results with a bias are made in f32 first, lest they be rounded twice. */
static size_t dense_bytes(const KernelCall *call)
{
    bool in_scratch = conv_bias(call) && call->dst[0].dtype != DT_F32;
    return in_scratch ? (size_t)shape_elems(call->dst[0].shape) * sizeof(float) : 0;
}

/* The epilogue of a product takes a bias of the result's dtype: it is rounded into the scratch. */
static size_t rounded_bias(const KernelCall *call, const Tensor *bias)
{
    bool rounds = bias && call->dst[0].dtype != DT_F32;
    return rounds ? (size_t)shape_elems(bias->shape) * dtype_size(call->dst[0].dtype) : 0;
}

static size_t depthwise_bytes(const KernelCall *call)
{
    ConvDims d = conv_dims(call);
    size_t weight = (size_t)(d.c * d.r * d.s) * sizeof(float);
    return call->op == OP_CONV2D_GRAD_WEIGHT ? weight * (size_t)depthwise_parts(d.n, d.out_h)
                                             : weight;
}

static size_t conv_bytes(const KernelCall *call)
{
    switch (conv_way(call)) {
    case CONV_DEPTHWISE: return depthwise_bytes(call);
    case CONV_POINTWISE: return rounded_bias(call, conv_bias(call));
    default: return dense_bytes(call);
    }
}

static size_t matmul_bytes(const KernelCall *call)
{
    bool has = call->n_src > 2 && call->src[2].dtype != DT_NONE;
    return rounded_bias(call, has ? &call->src[2] : NULL);
}

/* ---- attention ---- */

/* States of all heads, and the parts they are summed from. */
static size_t linear_bytes(Shape src, int64_t head_dim)
{
    int64_t groups = src.dim[3] / (3 * head_dim);
    size_t states = (size_t)(src.dim[0] * groups * STATE_ELEMS(head_dim)) * sizeof(float);
    return states * (1 + (size_t)cuda_blocks(src.dim[1] * src.dim[2], STATE_PART_TOKENS));
}

/* A number per query of each head of each prompt. */
static size_t attention_grad_bytes(const KernelCall *call)
{
    Shape q = call->src[0].shape, k = call->src[1].shape;
    int64_t prompts = q.dim[1] > k.dim[1] ? q.dim[1] : k.dim[1];
    return (size_t)(q.dim[0] * prompts * call->attr->attention_grad.heads * q.dim[2]) *
           sizeof(float);
}

/* The position terms, H + W of each query. */
static size_t relpos_terms(Shape qkv, int64_t heads)
{
    return (size_t)(qkv.dim[0] * heads * qkv.dim[1] * qkv.dim[2] * (qkv.dim[1] + qkv.dim[2])) *
           sizeof(float);
}

/* The terms, their gradient, a number per query, and the parts of one table's gradient. */
static size_t relpos_grad_bytes(Shape qkv, int64_t heads)
{
    int64_t longest = qkv.dim[1] > qkv.dim[2] ? qkv.dim[1] : qkv.dim[2];
    int64_t head_dim = qkv.dim[3] / (3 * heads), pairs = qkv.dim[0] * heads;
    int64_t rest = pairs * qkv.dim[1] * qkv.dim[2] + pairs * (2 * longest - 1) * head_dim;
    return 2 * relpos_terms(qkv, heads) + (size_t)rest * sizeof(float);
}

/* ---- sums and losses ---- */

/* Where the innermost axis stays, columns are summed; where it goes, single results. Neighbouring
 * axes that stay are one row of columns. */
static size_t reduce_bytes(Shape src, Shape dst)
{
    int64_t columns = 1, kept = 1, reduced = 1;
    bool by_column = false, first = true;
    for (int back = 1; back <= src.rank; back++) {
        int64_t dim = shape_dim_from_end(src, back);
        bool stays = shape_dim_from_end(dst, back) == dim;
        if (dim == 1) continue;
        if (first) by_column = stays;
        first = false;
        *(!stays ? &reduced : by_column && reduced == 1 ? &columns : &kept) *= dim;
    }
    ColumnPlan plan = column_plan(kept, reduced, columns);
    return by_column ? column_partials(&plan, 1) * sizeof(float)
                     : (size_t)kept * sum_parts(kept, reduced) * sizeof(double);
}

static size_t mse_bytes(Shape src)
{
    int64_t per_image = src.dim[1] * src.dim[2] * src.dim[3];
    return (size_t)src.dim[0] * sum_parts(src.dim[0], per_image) * sizeof(double);
}

static size_t point_embed_grad_bytes(const KernelCall *call)
{
    ColumnPlan plan = column_plan(1, shape_elems(call->src[0].shape),
                                  shape_dim_from_end(call->src[1].shape, 1));
    return column_partials(&plan, op_n_dst(call->op)) * sizeof(float);
}

/* Maps of logits (N,M,C,h,w). */
static size_t cells_of(const KernelCall *call)
{
    const int64_t *dim = call->src[0].shape.dim;
    return (size_t)(dim[0] * dim[1] * dim[2]);
}

static size_t focal_bytes(const KernelCall *call)
{
    unsigned bands = cuda_blocks(call->attr->focal_dice.size, FOCAL_BAND);
    return cells_of(call) * bands * FOCAL_SUMS * sizeof(float);
}

static size_t sample_bytes(const KernelCall *call)
{
    const PointSampleAttr *a = &call->attr->point_sample;
    return cells_of(call) * (size_t)floor(a->oversample * (double)a->n_points) * sizeof(double);
}

/* Two counts per row of a map (N,M,..) of S rows. */
static size_t count_bytes(size_t cells, int64_t size_px)
{
    return cells * (size_t)size_px * 2 * sizeof(int32_t);
}

static size_t resize_grad_bytes(const KernelCall *call)
{
    const int64_t *dsrc = call->dst[0].shape.dim, *ddst = call->src[0].shape.dim;
    return (size_t)(dsrc[0] * ddst[1] * dsrc[2] * dsrc[3]) * sizeof(float);
}

/* ---- all ---- */

enum { ADAMW_BYTES = 20 }; /* the numbers that all elements of an update share */

size_t scratch_bytes(const KernelCall *call)
{
    Shape src = call->src[0].shape;
    const OpAttr *attr = call->attr;
    switch (call->op) {
    case OP_CONV2D:
    case OP_CONV2D_GRAD_DATA:
    case OP_CONV2D_GRAD_WEIGHT: return conv_bytes(call);
    case OP_MATMUL: return matmul_bytes(call);
    case OP_LINEAR_ATTENTION: return linear_bytes(src, attr->linear_attention.head_dim);
    case OP_LINEAR_ATTENTION_GRAD: return linear_bytes(src, attr->linear_attention_grad.head_dim);
    case OP_ATTENTION_GRAD: return attention_grad_bytes(call);
    case OP_RELPOS_ATTENTION: return relpos_terms(src, attr->relpos_attention.heads);
    case OP_RELPOS_ATTENTION_GRAD: return relpos_grad_bytes(src, attr->relpos_attention_grad.heads);
    case OP_RANK_SCATTER: return tensor_bytes(&call->src[0]);
    case OP_BN_MOMENTS:
    case OP_BATCHNORM: return channel_sums(call, 2, sizeof(double));
    case OP_BATCHNORM_GRAD:
    case OP_BATCHNORM_FROZEN_GRAD:
    case OP_LAYERNORM_GRAD: return channel_sums(call, 2, sizeof(float));
    case OP_REDUCE_SUM: return reduce_bytes(src, call->dst[0].shape);
    case OP_SUMSQ: return sum_parts(1, shape_elems(src)) * sizeof(double);
    case OP_MSE: return mse_bytes(src);
    case OP_POINT_EMBED_GRAD: return point_embed_grad_bytes(call);
    case OP_FOCAL_DICE: return focal_bytes(call);
    case OP_POINT_SAMPLE: return sample_bytes(call);
    case OP_BCE_DICE_POINTS_GRAD:
        return cells_of(call) * (size_t)call->src[4].shape.dim[3] * sizeof(float);
    case OP_MASK_IOU: return count_bytes(cells_of(call), attr->mask_iou.size);
    case OP_ERROR_CLICK:
        return count_bytes((size_t)(src.dim[0] * src.dim[1]), attr->error_click.size);
    case OP_RESIZE_GRAD: return resize_grad_bytes(call);
    case OP_ADAMW: return ADAMW_BYTES;
    default: return 0;
    }
}

/* ---- the libraries ---- */

static size_t operand_bytes(const KernelCall *call)
{
    size_t bytes = 0;
    for (int i = 0; i < call->n_src; i++)
        if (call->src[i].dtype != DT_NONE) bytes += tensor_bytes(&call->src[i]);
    for (int i = 0; i < call->n_dst; i++) bytes += tensor_bytes(&call->dst[i]);
    return bytes;
}

static size_t library_limit(const KernelCall *call)
{
    switch (call->op) {
    case OP_MATMUL: return PRODUCT_WORKSPACE_BYTES;
    case OP_CONV2D:
    case OP_CONV2D_GRAD_DATA:
    case OP_CONV2D_GRAD_WEIGHT: break;
    default: return 0;
    }
    switch (conv_way(call)) {
    case CONV_DEPTHWISE: return 0;
    case CONV_POINTWISE: return PRODUCT_WORKSPACE_BYTES;
    default: return DENSE_WORKSPACE_BYTES;
    }
}

size_t scratch_library_bytes(const KernelCall *call)
{
    size_t limit = library_limit(call), wanted = limit > 0 ? operand_bytes(call) : 0;
    return wanted < limit ? wanted : limit;
}
