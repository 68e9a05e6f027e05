/* EfficientViT as an image encoder: stages of the block vocabulary, the neck that joins the last
 * stages, and the final norm. Serves the L, XL and B families and whatever a config invents from
 * the same blocks. Called by build.c.
 *
 * Rules that are easy to get wrong: the block that opens a stage has no shortcut; nothing follows a
 * residual addition; the neck's inputs have no activation.
 *
 * source  Cai et al., "EfficientViT" (ICCV 2023) and Zhang et al., "EfficientViT-SAM" (2024)
 */
#include "model/layers.h"
#include "model/parts.h"

#define LITE_MLA_EPS 1e-15 /* of the attention's denominator */

typedef struct Encoder {
    BuildContext *context;
    const EfficientVitConfig *config;
} Encoder;

/* A convolution with padding k/2, and what follows it: a norm, a bias, or none (LiteMLA). */
typedef struct ConvLayer {
    int64_t out, kernel, stride;
    bool depthwise, norm, bias;
    Activation act;
} ConvLayer;

static ValueId conv_layer(const Encoder *e, const char *name, ValueId src, ConvLayer layer)
{
    int mark = graph_label_push(e->context->graph, "%s", name);
    bool folded = layer.norm && e->context->bn == BN_FOLDED; /* the norm has become a bias */
    ConvSpec spec = {.out = layer.out,
                     .kernel = layer.kernel,
                     .stride = layer.stride,
                     .pad = layer.kernel / 2,
                     .groups = layer.depthwise ? layer.out : 1,
                     .bias = layer.bias || folded};
    ValueId x = layer_conv(e->context, "conv", src, spec);
    if (layer.norm && !folded)
        x = layer_batchnorm(e->context, "norm", x, e->config->norm_eps, e->config->norm_momentum);
    x = layer_act(e->context, x, layer.act);
    graph_label_pop(e->context->graph, mark);
    return x;
}

/* ---- blocks ---- */

/* 1x1 to in*expand, depthwise 3x3, 1x1; the first two end in norms, or in biases. */
static ValueId inverted_bottleneck(const Encoder *e, ValueId x, int64_t width, int64_t stride,
                                   int64_t expand, bool norm)
{
    int64_t mid = layer_channels(e->context, x) * expand;
    Activation act = e->config->act;
    x = conv_layer(e, "inverted_conv", x,
                   (ConvLayer){mid, 1, 1, .norm = norm, .bias = !norm, .act = act});
    x = conv_layer(
        e, "depth_conv", x,
        (ConvLayer){mid, 3, stride, .depthwise = true, .norm = norm, .bias = !norm, .act = act});
    return conv_layer(e, "point_conv", x, (ConvLayer){width, 1, 1, .norm = true});
}

/* The body of a block, without shortcut. */
static ValueId block(const Encoder *e, BlockKind kind, ValueId x, int64_t width, int64_t stride,
                     int64_t expand)
{
    int64_t in = layer_channels(e->context, x);
    Activation act = e->config->act;
    switch (kind) {
    case BLOCK_RES:
        x = conv_layer(e, "conv1", x, (ConvLayer){in, 3, stride, .norm = true, .act = act});
        return conv_layer(e, "conv2", x, (ConvLayer){width, 3, 1, .norm = true});
    case BLOCK_DS:
        x = conv_layer(e, "depth_conv", x,
                       (ConvLayer){in, 3, stride, .depthwise = true, .norm = true, .act = act});
        return conv_layer(e, "point_conv", x, (ConvLayer){width, 1, 1, .norm = true});
    case BLOCK_FMB:
        x = conv_layer(e, "spatial_conv", x,
                       (ConvLayer){in * expand, 3, stride, .norm = true, .act = act});
        return conv_layer(e, "point_conv", x, (ConvLayer){width, 1, 1, .norm = true});
    case BLOCK_MB: return inverted_bottleneck(e, x, width, stride, expand, true);
    case BLOCK_MB_BIAS: return inverted_bottleneck(e, x, width, stride, expand, false);
    case BLOCK_CONV: /* a plain layer and a pair of residuals: opening() and residual() know them */
    case BLOCK_EVIT: break;
    }
    graph_fail(e->context->graph, E_CONFIG, "%s: this block has no body", e->context->graph->label);
    return VALUE_NONE;
}

/* Multi-scale linear attention: q|k|v of each head, and once more of their local averages; a group
 * of heads for each scale, joined by a projection. */
static ValueId lite_mla(const Encoder *e, ValueId src)
{
    Graph *graph = e->context->graph;
    int64_t width = layer_channels(e->context, src), kernel = e->config->aggregation_kernel;
    int64_t n_groups = 3 * width / e->config->head_dim; /* one of q, k, v of one head each */
    ValueId qkv = conv_layer(e, "qkv", src,
                             (ConvLayer){.out = 3 * width, .kernel = 1, .stride = 1});
    ConvSpec gather = {3 * width, kernel, .stride = 1, .pad = kernel / 2, .groups = 3 * width};
    ConvSpec mix = {3 * width, 1, .stride = 1, .groups = n_groups};
    ValueId local = layer_conv(e->context, "aggreg.0.0", qkv, gather);
    local = layer_conv(e->context, "aggreg.0.1", local, mix);
    ValueId scales = graph_op(graph, OP_CONCAT, ATTR(concat, .axis = 3), SRC(qkv, local));
    OpAttr attr = ATTR(linear_attention, .head_dim = e->config->head_dim, .eps = LITE_MLA_EPS);
    ValueId heads = graph_op(graph, OP_LINEAR_ATTENTION, attr, SRC(scales));
    return conv_layer(e, "proj", heads, (ConvLayer){width, 1, 1, .norm = true});
}

/* src + block(src); the block's layers are named below `path`. */
static ValueId residual(const Encoder *e, const char *path, BlockKind kind, ValueId src,
                        int64_t expand)
{
    Graph *graph = e->context->graph;
    int mark = graph_label_push(graph, "%s", path);
    ValueId body = kind == BLOCK_EVIT
                       ? lite_mla(e, src)
                       : block(e, kind, src, layer_channels(e->context, src), 1, expand);
    graph_label_pop(graph, mark);
    return layer_add(e->context, src, body);
}

/* One entry of an op_list with its shortcut. */
static ValueId repeated_block(const Encoder *e, int64_t index, BlockKind kind, ValueId x,
                              int64_t expand)
{
    int mark = graph_label_push(e->context->graph, "op_list.%d", (int)index);
    if (kind == BLOCK_EVIT) {
        x = residual(e, "context_module.main", BLOCK_EVIT, x, expand);
        x = residual(e, "local_module.main", BLOCK_MB_BIAS, x, expand);
    } else {
        x = residual(e, "main", kind, x, expand);
    }
    graph_module(e->context->graph, NULL, x, true);
    graph_label_pop(e->context->graph, mark);
    return x;
}

/* ---- backbone ---- */

static ValueId opening(const Encoder *e, const StageConfig *config, ValueId x)
{
    Graph *graph = e->context->graph;
    if (config->open == BLOCK_CONV) { /* a plain layer, without .main */
        ConvLayer stem = {config->width, 3, 2, .norm = true, .act = e->config->act};
        x = conv_layer(e, "op_list.0", x, stem);
    } else {
        int mark = graph_label_push(graph, "op_list.0.main");
        x = block(e, config->open, x, config->width, 2, config->open_expand);
        graph_label_pop(graph, mark);
    }
    graph_module(graph, "op_list.0", x, true);
    return x;
}

static ValueId stage(const Encoder *e, const StageConfig *config, ValueId x)
{
    Graph *graph = e->context->graph;
    int mark = graph_label_push(graph, "%s", config->name);
    x = opening(e, config, x);
    for (int64_t i = 1; i <= config->depth; i++)
        x = repeated_block(e, i, config->block, x, config->expand);
    graph_module(graph, NULL, x, true);
    graph_label_pop(graph, mark);
    return x;
}

static void backbone(const Encoder *e, ValueId image, ValueId *stages)
{
    int mark = graph_label_push(e->context->graph, "backbone");
    for (int i = 0; i < e->config->n_stages; i++)
        stages[i] = stage(e, &e->config->stages[i], i == 0 ? image : stages[i - 1]);
    graph_label_pop(e->context->graph, mark);
}

/* ---- neck ---- */

static ValueId neck_input(const Encoder *e, int index, ValueId src, int64_t grid, int64_t width)
{
    Graph *graph = e->context->graph;
    int mark = graph_label_push(graph, "input_ops.%d", index);
    ValueId x = conv_layer(e, "op_list.0", src, (ConvLayer){width, 1, 1, .norm = true});
    if (layer_shape(e->context, x).dim[1] != grid) { /* at equal size bicubic changes no bit */
        OpAttr attr = ATTR(resize, .mode = RESIZE_BICUBIC, .height = grid, .width = grid);
        x = graph_op(graph, OP_RESIZE, attr, SRC(x));
    }
    graph_module(graph, NULL, x, true);
    graph_label_pop(graph, mark);
    return x;
}

static ValueId neck_middle(const Encoder *e, ValueId x)
{
    const NeckConfig *config = &e->config->neck;
    int mark = graph_label_push(e->context->graph, "middle");
    for (int64_t i = 0; i < config->depth; i++)
        x = repeated_block(e, i, config->block, x, config->expand);
    graph_module(e->context->graph, NULL, x, true);
    graph_label_pop(e->context->graph, mark);
    return x;
}

static ValueId neck(const Encoder *e, const ValueId *stages, int64_t grid, int64_t width)
{
    const NeckConfig *config = &e->config->neck;
    ValueId inputs[CONFIG_MAX_STAGES] = {0};
    int mark = graph_label_push(e->context->graph, "neck");
    for (int i = 0; i < config->n_inputs; i++)
        inputs[i] = neck_input(e, i, stages[config->inputs[i]], grid, width);
    ValueId x = inputs[config->n_inputs - 1];
    for (int i = config->n_inputs - 2; i >= 0; i--) x = layer_add(e->context, inputs[i], x);
    x = neck_middle(e, x);
    int output_mark = graph_label_push(e->context->graph, "output_ops.0");
    x = conv_layer(e, "op_list.0", x, (ConvLayer){width, 1, 1, .bias = true});
    graph_module(e->context->graph, NULL, x, true);
    graph_label_pop(e->context->graph, output_mark);
    graph_label_pop(e->context->graph, mark);
    return x;
}

ValueId efficientvit_build(BuildContext *context, const Model *model, ValueId image)
{
    Encoder encoder = {.context = context, .config = &model->efficientvit};
    ValueId stages[CONFIG_MAX_STAGES];
    backbone(&encoder, image, stages);
    ValueId x = neck(&encoder, stages, model->grid, model->embed_dim);
    x = layer_layernorm(context, "norm", x, LAYERNORM2D_EPS);
    graph_module(context->graph, "norm", x, true);
    return x;
}
