/* SAM's prompt encoder: points and box corners to tokens, a mask prompt to a dense map, and the
 * positional code of the grid. Called by build.c.
 *
 * source  Kirillov et al., "Segment Anything" (2023), appendix A
 */
#include <string.h>

#include "model/layers.h"
#include "model/parts.h"

/* -> (N,M,P,D); the caller has put padding points and box corners among the labels. */
static ValueId point_tokens(BuildContext *context, const Model *model, ValueId gaussian,
                            PromptInputs prompts)
{
    static const char *const names[] = {"point_embeddings.0.weight", "point_embeddings.1.weight",
                                        "point_embeddings.2.weight", "point_embeddings.3.weight",
                                        "not_a_point_embed.weight"};
    ValueId src[8] = {prompts.coords, prompts.labels, gaussian};
    for (int i = 0; i < 5; i++)
        src[3 + i] = layer_param(context, names[i], SHAPE(1, model->embed_dim));
    OpAttr attr = ATTR(point_embed, .frame = (double)model->frame);
    return graph_op(context->graph, OP_POINT_EMBED, attr, 8, src);
}

/* -> (grid*grid,D), once per step: it depends on the Gaussian matrix alone. */
static ValueId image_positions(BuildContext *context, const Model *model, ValueId gaussian)
{
    int64_t grid = model->grid, width = model->embed_dim;
    int mark = graph_label_push(context->graph, "pe_layer");
    ValueId code = graph_op(context->graph, OP_PE_GRID,
                            ATTR(pe_grid, .height = grid, .width = grid), SRC(gaussian));
    ValueId map = graph_reshape(context->graph, code, SHAPE(1, grid, grid, width));
    graph_module(context->graph, NULL, map, true);
    ValueId tokens = graph_reshape(context->graph, code, SHAPE(grid * grid, width));
    graph_label_pop(context->graph, mark);
    return tokens;
}

/* One halving of the mask: 2x2 convolution of stride 2, norm, activation. */
static ValueId halve(BuildContext *context, const PromptEncoderConfig *config, ValueId x,
                     const char *conv, const char *norm, int64_t channels)
{
    ConvSpec spec = {.out = channels, .kernel = 2, .stride = 2, .groups = 1, .bias = true};
    x = layer_conv(context, conv, x, spec);
    x = layer_layernorm(context, norm, x, LAYERNORM2D_EPS);
    return layer_act(context, x, config->act);
}

/* mask logits (N,M,lowres,lowres) -> (N,M,grid*grid,D) */
static ValueId mask_downscaling(BuildContext *context, const Model *model, ValueId mask)
{
    const PromptEncoderConfig *config = &model->prompt_encoder;
    int64_t lowres = model_lowres(model), width = model->embed_dim;
    Shape shape = layer_shape(context, mask);
    int mark = graph_label_push(context->graph, "mask_downscaling");
    ValueId x = graph_reshape(context->graph, mask,
                              SHAPE(shape.dim[0] * shape.dim[1], lowres, lowres, 1));
    x = halve(context, config, x, "0", "1", config->mask_channels / 4);
    x = halve(context, config, x, "3", "4", config->mask_channels);
    x = layer_conv(context, "6", x,
                   (ConvSpec){.out = width, .kernel = 1, .stride = 1, .groups = 1, .bias = true});
    graph_module(context->graph, NULL, x, true);
    x = graph_reshape(context->graph, x,
                      SHAPE(shape.dim[0], shape.dim[1], model->grid * model->grid, width));
    graph_label_pop(context->graph, mark);
    return x;
}

PromptCode prompt_encoder_build(BuildContext *context, const Model *model, PromptInputs prompts)
{
    int mark = graph_label_push(context->graph, "prompt_encoder");
    PromptCode code;
    ValueId gaussian = layer_buffer(context, "pe_layer.positional_encoding_gaussian_matrix",
                                    SHAPE(2, model->embed_dim / 2));
    code.image_pe = image_positions(context, model, gaussian);
    code.sparse = point_tokens(context, model, gaussian, prompts);
    graph_module(context->graph, "sparse", code.sparse, false);
    bool masked = prompts.mask_input != VALUE_NONE;
    ValueId dense = masked ? mask_downscaling(context, model, prompts.mask_input) : VALUE_NONE;
    ValueId no_mask = layer_param(context, "no_mask_embed.weight", SHAPE(1, model->embed_dim));
    code.dense = masked ? dense : no_mask;
    graph_label_pop(context->graph, mark);
    return code;
}

ModelGate model_gate(const char *parameter_name)
{
    static const struct {
        const char *prefix;
        ModelGate gate;
    } rules[] = {
        {"prompt_encoder.point_embeddings.0.", GATE_POINTS},
        {"prompt_encoder.point_embeddings.1.", GATE_POINTS},
        {"prompt_encoder.not_a_point_embed.", GATE_POINTS},
        {"prompt_encoder.point_embeddings.2.", GATE_BOXES},
        {"prompt_encoder.point_embeddings.3.", GATE_BOXES},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (strncmp(parameter_name, rules[i].prefix, strlen(rules[i].prefix)) == 0)
            return rules[i].gate;
    return GATE_ALWAYS;
}
