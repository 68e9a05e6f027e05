/* The two-way transformer of SAM's mask decoder: tokens and image cells attend to each other,
 * batched over (image, prompt). Called by mask_decoder.c.
 *
 * What all prompts of an image share has M = 1 and lies outside the loop over prompts by its region
 * alone: in layer 0 the image's keys, values and queries. The first update of the image makes it
 * per prompt.
 *
 * Rules that are easy to get wrong: layer 0's self-attention has no residual and no positions; the
 * positions of the tokens are the tokens as they came in; positions go to queries and keys, never
 * to values.
 *
 * source  Kirillov et al., "Segment Anything" (2023), appendix A, figure 14
 */
#include <math.h>

#include "model/layers.h"
#include "model/parts.h"

enum { FREE_TOKENS = 1 + MASK_TOKENS }; /* tokens in front of the prompts', always keys */

typedef struct Transformer {
    BuildContext *context;
    const MaskDecoderConfig *config;
    int64_t width;
    ValueId token_pe, image_pe, labels;
} Transformer;

/* Attention of `inner` channels with its four projections; labels only where keys are tokens. */
static ValueId attention(const Transformer *t, const char *name, ValueId q, ValueId k, ValueId v,
                         int64_t inner, ValueId labels)
{
    BuildContext *context = t->context;
    int mark = graph_label_push(context->graph, "%s", name);
    q = layer_linear(context, "q_proj", q, inner);
    k = layer_linear(context, "k_proj", k, inner);
    v = layer_linear(context, "v_proj", v, inner);
    OpAttr attr = ATTR(attention, .heads = t->config->heads,
                       .scale = 1 / sqrt((double)(inner / t->config->heads)),
                       .n_free_keys = labels == VALUE_NONE ? 0 : FREE_TOKENS);
    ValueId heads = graph_op(context->graph, OP_ATTENTION, attr, SRC(q, k, v, labels));
    ValueId dst = layer_linear(context, "out_proj", heads, t->width);
    graph_label_pop(context->graph, mark);
    return dst;
}

static ValueId self_attention(const Transformer *t, ValueId tokens, bool first)
{
    if (first) return attention(t, "self_attn", tokens, tokens, tokens, t->width, t->labels);
    ValueId placed = layer_add(t->context, tokens, t->token_pe);
    ValueId update = attention(t, "self_attn", placed, placed, tokens, t->width, t->labels);
    return layer_add(t->context, tokens, update);
}

static ValueId tokens_from_image(const Transformer *t, const char *name, TwoWay sides,
                                 ValueId placed_image)
{
    ValueId placed = layer_add(t->context, sides.tokens, t->token_pe);
    ValueId update = attention(t, name, placed, placed_image, sides.image, t->config->cross_width,
                               VALUE_NONE);
    return layer_add(t->context, sides.tokens, update);
}

static ValueId image_from_tokens(const Transformer *t, const char *name, TwoWay sides,
                                 ValueId placed_image)
{
    ValueId placed = layer_add(t->context, sides.tokens, t->token_pe);
    ValueId update = attention(t, name, placed_image, placed, sides.tokens, t->config->cross_width,
                               t->labels);
    return layer_add(t->context, sides.image, update);
}

static ValueId mlp(const Transformer *t, ValueId tokens)
{
    int mark = graph_label_push(t->context->graph, "mlp");
    ValueId x = layer_linear(t->context, "lin1", tokens, t->config->mlp_dim);
    x = layer_act(t->context, x, ACT_RELU);
    x = layer_linear(t->context, "lin2", x, t->width);
    graph_label_pop(t->context->graph, mark);
    return layer_add(t->context, tokens, x);
}

static TwoWay two_way_layer(const Transformer *t, TwoWay sides, int64_t index)
{
    BuildContext *context = t->context;
    double eps = t->config->norm_eps;
    int mark = graph_label_push(context->graph, "layers.%d", (int)index);
    ValueId placed_image = layer_add(context, sides.image, t->image_pe);
    ValueId x = self_attention(t, sides.tokens, index == 0);
    sides.tokens = layer_layernorm(context, "norm1", x, eps);
    x = tokens_from_image(t, "cross_attn_token_to_image", sides, placed_image);
    sides.tokens = layer_layernorm(context, "norm2", x, eps);
    sides.tokens = layer_layernorm(context, "norm3", mlp(t, sides.tokens), eps);
    layer_ask_layernorm(context, "norm4", t->width); /* registered before what it follows */
    x = image_from_tokens(t, "cross_attn_image_to_token", sides, placed_image);
    sides.image = layer_layernorm(context, "norm4", x, eps);
    graph_module(context->graph, "norm3", sides.tokens, false);
    graph_module(context->graph, "norm4", sides.image, false);
    graph_label_pop(context->graph, mark);
    return sides;
}

TwoWay transformer_build(BuildContext *context, const Model *model, TwoWay sides, ValueId image_pe,
                         ValueId labels)
{
    Transformer t = {.context = context,
                     .config = &model->mask_decoder,
                     .width = model->embed_dim,
                     .token_pe = sides.tokens,
                     .image_pe = image_pe,
                     .labels = labels};
    int mark = graph_label_push(context->graph, "transformer");
    for (int64_t i = 0; i < t.config->layers; i++) sides = two_way_layer(&t, sides, i);
    ValueId placed_image = layer_add(context, sides.image, image_pe);
    sides.tokens = tokens_from_image(&t, "final_attn_token_to_image", sides, placed_image);
    sides.tokens = layer_layernorm(context, "norm_final_attn", sides.tokens, t.config->norm_eps);
    graph_module(context->graph, "norm_final_attn", sides.tokens, false);
    graph_label_pop(context->graph, mark);
    return sides;
}
