/* SAM's image encoder: a plain ViT with pre-norms, windowed attention in most blocks, relative
 * positions in all, and a convolutional neck. Called by build.c.
 *
 * Rules that are easy to get wrong: the norm comes before the padding of windows, so padding tokens
 * are zeros that do attend (their k and v are the biases); relative positions use q before scaling.
 *
 * source  Kirillov et al., "Segment Anything" (2023); Li et al., "ViTDet" (2022)
 */
#include "model/layers.h"
#include "model/parts.h"

/* qkv (n,side,side,3*width) -> (n,side,side,width); the tables hold one row per offset. */
static ValueId attend(BuildContext *context, const VitConfig *config, ValueId src, int64_t side)
{
    Shape table = SHAPE(2 * side - 1, config->width / config->heads);
    ValueId rel_h = layer_param(context, "rel_pos_h", table);
    ValueId rel_w = layer_param(context, "rel_pos_w", table);
    ValueId qkv = layer_linear(context, "qkv", src, 3 * config->width);
    return graph_op(context->graph, OP_RELPOS_ATTENTION,
                    ATTR(relpos_attention, .heads = config->heads), SRC(qkv, rel_h, rel_w));
}

/* The projection works on single tokens, so it waits until the windows are joined, unpadded. */
static ValueId attention(BuildContext *context, const VitConfig *config, ValueId x, int64_t grid,
                         bool global)
{
    Graph *graph = context->graph;
    int mark = graph_label_push(graph, "attn");
    if (global) {
        x = attend(context, config, x, grid);
    } else {
        OpAttr split = ATTR(window_partition, .window = config->window, .height = grid,
                            .width = grid);
        OpAttr join = ATTR(window_unpartition, .window = config->window, .height = grid,
                           .width = grid);
        x = graph_op(graph, OP_WINDOW_PARTITION, split, SRC(x));
        x = attend(context, config, x, config->window);
        x = graph_op(graph, OP_WINDOW_UNPARTITION, join, SRC(x));
    }
    x = layer_linear(context, "proj", x, config->width);
    graph_label_pop(graph, mark);
    return x;
}

static ValueId mlp(BuildContext *context, const VitConfig *config, ValueId x)
{
    int mark = graph_label_push(context->graph, "mlp");
    x = layer_linear(context, "lin1", x, config->mlp_dim);
    x = layer_act(context, x, config->act);
    x = layer_linear(context, "lin2", x, config->width);
    graph_label_pop(context->graph, mark);
    return x;
}

static ValueId vit_block(BuildContext *context, const VitConfig *config, ValueId x, int64_t grid,
                         int64_t index)
{
    int mark = graph_label_push(context->graph, "blocks.%d", (int)index);
    ValueId y = layer_layernorm(context, "norm1", x, config->norm_eps);
    x = layer_add(context, x, attention(context, config, y, grid, config->global[index]));
    y = layer_layernorm(context, "norm2", x, config->norm_eps);
    x = layer_add(context, x, mlp(context, config, y));
    graph_module(context->graph, NULL, x, false); /* PyTorch's tokens are N,H,W,D here, too */
    graph_label_pop(context->graph, mark);
    return x;
}

static ValueId patch_embed(BuildContext *context, const VitConfig *config, ValueId image)
{
    ConvSpec spec = {.out = config->width,
                     .kernel = config->patch,
                     .stride = config->patch,
                     .groups = 1,
                     .bias = true};
    ValueId x = layer_conv(context, "patch_embed.proj", image, spec);
    graph_module(context->graph, "patch_embed", x, false);
    return x;
}

static ValueId neck(BuildContext *context, ValueId x, int64_t width)
{
    Graph *graph = context->graph;
    x = layer_conv(context, "neck.0", x,
                   (ConvSpec){.out = width, .kernel = 1, .stride = 1, .groups = 1});
    graph_module(graph, "neck.0", x, true);
    x = layer_layernorm(context, "neck.1", x, LAYERNORM2D_EPS);
    graph_module(graph, "neck.1", x, true);
    x = layer_conv(context, "neck.2", x,
                   (ConvSpec){.out = width, .kernel = 3, .stride = 1, .pad = 1, .groups = 1});
    graph_module(graph, "neck.2", x, true);
    x = layer_layernorm(context, "neck.3", x, LAYERNORM2D_EPS);
    graph_module(graph, "neck.3", x, true);
    return x;
}

ValueId vit_build(BuildContext *context, const Model *model, ValueId image)
{
    const VitConfig *config = &model->vit;
    ValueId positions = layer_param(context, "pos_embed",
                                    SHAPE(1, model->grid, model->grid, config->width));
    ValueId x = layer_add(context, patch_embed(context, config, image), positions);
    graph_module(context->graph, "patch_embed+pos_embed", x, false);
    for (int64_t i = 0; i < config->depth; i++) x = vit_block(context, config, x, model->grid, i);
    return neck(context, x, model->embed_dim);
}
