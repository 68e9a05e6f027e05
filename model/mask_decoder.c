/* SAM's mask decoder behind the two-way transformer: up-scaling of the image, one hypernetwork per
 * mask token, their product, and the IoU head. All four candidates are always computed. Called by
 * build.c.
 *
 * A transposed convolution whose stride is its kernel is a matrix product that leaves the four new
 * pixels of a cell side by side. Norms, activations, the second one and the product with the
 * hypernetworks do not care where pixels lie, so they stay there until the end, and only the masks
 * are put in order: a tenth of the traffic of moving the 64- and 32-channel maps.
 *
 * source  Kirillov et al., "Segment Anything" (2023), appendix A, figure 14
 */
#include "model/layers.h"
#include "model/parts.h"

typedef struct Decoder {
    BuildContext *context;
    Graph *graph;
    const Model *model;
    int64_t n_images, n_masks, grid, width;
} Decoder;

static Decoder decoder_of(BuildContext *context, const Model *model, ValueId sparse)
{
    Shape shape = layer_shape(context, sparse);
    return (Decoder){.context = context,
                     .graph = context->graph,
                     .model = model,
                     .n_images = shape.dim[0],
                     .n_masks = shape.dim[1],
                     .grid = model->grid,
                     .width = model->embed_dim};
}

/* Embedding plus dense prompt: (N,1 or M,grid*grid,D). */
static ValueId source_of(const Decoder *d, ValueId embedding, ValueId dense)
{
    int64_t n_images = layer_shape(d->context, embedding).dim[0];
    ValueId cells = graph_reshape(d->graph, embedding,
                                  SHAPE(n_images, 1, d->grid * d->grid, d->width));
    return layer_add(d->context, cells, dense);
}

/* [iou_token, mask tokens, sparse]: (N,M,5+P,D) */
static ValueId tokens_of(const Decoder *d, ValueId sparse)
{
    ValueId iou = layer_param(d->context, "iou_token.weight", SHAPE(1, d->width));
    ValueId masks = layer_param(d->context, "mask_tokens.weight", SHAPE(MASK_TOKENS, d->width));
    ValueId own = graph_op(d->graph, OP_CONCAT, ATTR(concat, .axis = 0), SRC(iou, masks));
    Shape shape = SHAPE(d->n_images, d->n_masks, 1 + MASK_TOKENS, d->width);
    own = graph_op(d->graph, OP_EXPAND, ATTR(expand, .shape = shape), SRC(own));
    return graph_op(d->graph, OP_CONCAT, ATTR(concat, .axis = 2), SRC(own, sparse));
}

/* ---- up-scaling ---- */

/* (N,M,cells,C) -> (N,M,4*cells,out); cell c becomes 4*c + 2*row + column. */
static ValueId upscale(const Decoder *d, const char *name, ValueId x, int64_t out)
{
    Shape shape = layer_shape(d->context, x);
    int mark = graph_label_push(d->graph, "%s", name);
    ValueId weight = layer_conv_param(d->context, "weight", SHAPE(shape.dim[3], out, 2, 2));
    ValueId bias = layer_param(d->context, "bias", SHAPE(out));
    weight = graph_reshape(d->graph, weight, SHAPE(shape.dim[3], 4 * out));
    bias = graph_op(d->graph, OP_EXPAND, ATTR(expand, .shape = SHAPE(4, out)), SRC(bias));
    bias = graph_reshape(d->graph, bias, SHAPE(4 * out));
    x = graph_op(d->graph, OP_MATMUL, NO_ATTR, SRC(x, weight, bias));
    x = graph_reshape(d->graph, x, SHAPE(shape.dim[0], shape.dim[1], 4 * shape.dim[2], out));
    graph_label_pop(d->graph, mark);
    return x;
}

/* Twice up-scaled pixels of n maps, still lying cell by cell -> (n,4*grid,4*grid,channels). */
static ValueId in_rows(const Decoder *d, ValueId x, int64_t n, int64_t channels)
{
    x = graph_reshape(d->graph, x, SHAPE(n, d->grid, d->grid, 16 * channels));
    x = graph_op(d->graph, OP_DEPTH_TO_SPACE, ATTR(depth_to_space, .block = 2), SRC(x));
    return graph_op(d->graph, OP_DEPTH_TO_SPACE, ATTR(depth_to_space, .block = 2), SRC(x));
}

/* -> (N,M,16*grid*grid,D/8) */
static ValueId upscaled_image(const Decoder *d, ValueId image)
{
    Activation act = d->model->mask_decoder.act;
    int mark = graph_label_push(d->graph, "output_upscaling");
    ValueId x = upscale(d, "0", image, d->width / 4);
    x = layer_layernorm(d->context, "1", x, LAYERNORM2D_EPS);
    x = layer_act(d->context, x, act);
    x = upscale(d, "3", x, d->width / 8);
    x = layer_act(d->context, x, act);
    /* PyTorch's order, for whoever looks at it; in training nobody does, and it is pruned. */
    graph_module(d->graph, NULL, in_rows(d, x, d->n_images * d->n_masks, d->width / 8), true);
    graph_label_pop(d->graph, mark);
    return x;
}

/* ---- heads ---- */

/* Three linear layers with ReLU in between, on token `index`: (N,M,1,out). */
static ValueId token_head(const Decoder *d, ValueId tokens, int64_t index, int64_t hidden,
                          int64_t out)
{
    BuildContext *context = d->context;
    OpAttr pick = ATTR(slice, .axis = 2, .start = index, .length = 1);
    ValueId x = graph_op(d->graph, OP_SLICE, pick, SRC(tokens));
    x = layer_act(context, layer_linear(context, "layers.0", x, hidden), ACT_RELU);
    x = layer_act(context, layer_linear(context, "layers.1", x, hidden), ACT_RELU);
    x = layer_linear(context, "layers.2", x, out);
    graph_module(d->graph, NULL, x, false);
    return x;
}

/* -> (N,M,4,D/8) */
static ValueId hypernetworks(const Decoder *d, ValueId tokens)
{
    ValueId outputs[MASK_TOKENS];
    for (int i = 0; i < MASK_TOKENS; i++) {
        int mark = graph_label_push(d->graph, "output_hypernetworks_mlps.%d", i);
        outputs[i] = token_head(d, tokens, 1 + i, d->width, d->width / 8);
        graph_label_pop(d->graph, mark);
    }
    return graph_op(d->graph, OP_CONCAT, ATTR(concat, .axis = 2), MASK_TOKENS, outputs);
}

static ValueId iou_head(const Decoder *d, ValueId tokens)
{
    int mark = graph_label_push(d->graph, "iou_prediction_head");
    ValueId x = token_head(d, tokens, 0, d->model->mask_decoder.iou_hidden, MASK_TOKENS);
    x = graph_reshape(d->graph, x, SHAPE(d->n_images, d->n_masks, MASK_TOKENS));
    graph_label_pop(d->graph, mark);
    return x;
}

/* ---- the whole ---- */

void mask_decoder_ask(BuildContext *context, const Model *model, ValueId embedding,
                      PromptCode prompts)
{
    Decoder d = decoder_of(context, model, prompts.sparse);
    int mark = graph_label_push(d.graph, "mask_decoder");
    TwoWay sides = {.tokens = prompts.sparse, .image = source_of(&d, embedding, prompts.dense)};
    transformer_build(context, model, sides, prompts.image_pe, VALUE_NONE);
    graph_label_pop(d.graph, mark);
}

DecoderOutputs mask_decoder_build(BuildContext *context, const Model *model, ValueId embedding,
                                  PromptCode prompts, ValueId labels)
{
    Decoder d = decoder_of(context, model, prompts.sparse);
    int mark = graph_label_push(d.graph, "mask_decoder");
    TwoWay sides = {.tokens = tokens_of(&d, prompts.sparse),
                    .image = source_of(&d, embedding, prompts.dense)};
    sides = transformer_build(context, model, sides, prompts.image_pe, labels);
    ValueId pixels = upscaled_image(&d, sides.image);
    ValueId filters = hypernetworks(&d, sides.tokens);
    ValueId masks = graph_op(d.graph, OP_MATMUL, ATTR(matmul, .trans_b = true),
                             SRC(filters, pixels));
    masks = in_rows(&d, masks, d.n_images * d.n_masks * MASK_TOKENS, 1);
    DecoderOutputs outputs;
    int64_t lowres = model_lowres(model);
    outputs.masks = graph_reshape(d.graph, masks,
                                  SHAPE(d.n_images, d.n_masks, MASK_TOKENS, lowres, lowres));
    outputs.iou = iou_head(&d, sides.tokens);
    graph_label_pop(d.graph, mark);
    return outputs;
}
