/* The small vocabulary all builders speak: parameters, convolution, linear, norms, activation.
 *
 * A layer names its entries "<module path>.weight" and so on, from the graph's label, so parameter
 * names are PyTorch's without a map. Asking for an entry declares it if the store does not have it
 * yet: the order in which the builders ask, run once on a scratch graph (model_declare), is the
 * order of the state dict.
 *
 * Invariant: like graph_op, layers do nothing after the graph's first error.
 */
#ifndef RETORT_MODEL_LAYERS_H
#define RETORT_MODEL_LAYERS_H

#include "model/model.h"

/* layer_shape: shape of a value; zeros for VALUE_NONE, so that builders can go on after an error.
 */
Shape layer_shape(const BuildContext *context, ValueId value);
int64_t layer_channels(const BuildContext *context, ValueId value); /* last dim */

/* layer_param / layer_conv_param / layer_buffer: the value of the f32 entry "<label>.<name>", which
 * is asked for at the same time. `shape` is PyTorch's; convolution weights (O,I,H,W) lie as
 * (O,H,W,I). */
ValueId layer_param(BuildContext *context, const char *name, Shape shape);
ValueId layer_conv_param(BuildContext *context, const char *name, Shape shape);
ValueId layer_buffer(BuildContext *context, const char *name, Shape shape);

/* layer_conv: src (N,H,W,C) -> (N,H',W',out); entries <name>.weight and, with bias, <name>.bias.
 * The weights of convolutions and linear layers are the ones a frozen store keeps in context->low.
 */
typedef struct ConvSpec {
    int64_t out, kernel, stride, pad, groups; /* px; pad is per side */
    bool bias;
} ConvSpec;
ValueId layer_conv(BuildContext *context, const char *name, ValueId src, ConvSpec spec);

/* layer_linear: src (..,in) -> (..,out); entries <name>.weight (out,in) and <name>.bias. */
ValueId layer_linear(BuildContext *context, const char *name, ValueId src, int64_t out);

/* layer_batchnorm: over N,H,W, with batch or running statistics as context->bn says. Batch
 * statistics are recorded for build_bn_updates. Not in BN_FOLDED, where the convolution in front
 * has a bias instead. */
ValueId layer_batchnorm(BuildContext *context, const char *name, ValueId src, double eps,
                        double momentum);

/* layer_layernorm: over the last axis; on maps this is SAM's LayerNorm2d. */
ValueId layer_layernorm(BuildContext *context, const char *name, ValueId src, double eps);
/* layer_ask_layernorm: asks for the entries of a norm that is applied later than PyTorch registers
 * it. */
void layer_ask_layernorm(BuildContext *context, const char *name, int64_t channels);

ValueId layer_act(BuildContext *context, ValueId src,
                  Activation kind); /* src itself for ACT_NONE */
ValueId layer_add(BuildContext *context, ValueId a, ValueId b);

#endif
