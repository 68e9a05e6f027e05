/* The vocabulary of layers.h, and the running statistics that its batch norms leave behind. Called
 * by the builders in model/.
 */
#include "model/layers.h"

#include <assert.h>
#include <stdio.h>

#include "base/memory.h"

Shape layer_shape(const BuildContext *context, ValueId value)
{
    if (value == VALUE_NONE) return (Shape){.rank = SHAPE_MAX_RANK};
    return graph_value(context->graph, value)->shape;
}

int64_t layer_channels(const BuildContext *context, ValueId value)
{
    return shape_dim_from_end(layer_shape(context, value), 1);
}

/* ---- entries ---- */

/* Index of the entry "<label>.<name>", or -1 after an error. */
static int ask_entry(BuildContext *context, const char *name, StoreKind kind, ParamLayout layout,
                     DType dtype, Shape shape)
{
    Graph *graph = context->graph;
    char path[512];
    int entry = -1;
    if (graph->status != OK) return -1;
    int length = snprintf(path, sizeof path, "%s%s%s", graph->label, graph->label[0] ? "." : "",
                          name);
    assert(length < (int)sizeof path);
    graph->status = store_declare(context->store, path, kind, layout, dtype, shape, &entry);
    return graph->status == OK ? entry : -1;
}

static ValueId ask_value(BuildContext *context, const char *name, StoreKind kind,
                         ParamLayout layout, DType dtype, Shape shape)
{
    int entry = ask_entry(context, name, kind, layout, dtype, shape);
    return entry < 0 ? VALUE_NONE : graph_store_value(context->graph, context->store, entry);
}

/* The weight of a product. */
static ValueId ask_weight(BuildContext *context, ParamLayout layout, Shape shape)
{
    DType dtype = context->bn == BN_FOLDED ? context->low : DT_F32;
    return ask_value(context, "weight", STORE_PARAMETER, layout, dtype, shape);
}

ValueId layer_param(BuildContext *context, const char *name, Shape shape)
{
    return ask_value(context, name, STORE_PARAMETER, LAYOUT_PLAIN, DT_F32, shape);
}

ValueId layer_conv_param(BuildContext *context, const char *name, Shape shape)
{
    return ask_value(context, name, STORE_PARAMETER, LAYOUT_OIHW, DT_F32, shape);
}

ValueId layer_buffer(BuildContext *context, const char *name, Shape shape)
{
    return ask_value(context, name, STORE_BUFFER, LAYOUT_PLAIN, DT_F32, shape);
}

/* ---- products ---- */

ValueId layer_conv(BuildContext *context, const char *name, ValueId src, ConvSpec spec)
{
    int mark = graph_label_push(context->graph, "%s", name);
    int64_t in = layer_channels(context, src) / spec.groups;
    Shape shape = SHAPE(spec.out, in, spec.kernel, spec.kernel);
    ValueId weight = ask_weight(context, LAYOUT_OIHW, shape);
    ValueId bias = spec.bias ? layer_param(context, "bias", SHAPE(spec.out)) : VALUE_NONE;
    OpAttr attr = ATTR(conv2d, .stride = spec.stride, .pad = spec.pad, .groups = spec.groups);
    ValueId dst = graph_op(context->graph, OP_CONV2D, attr, SRC(src, weight, bias));
    graph_label_pop(context->graph, mark);
    return dst;
}

ValueId layer_linear(BuildContext *context, const char *name, ValueId src, int64_t out)
{
    int mark = graph_label_push(context->graph, "%s", name);
    Shape shape = SHAPE(out, layer_channels(context, src));
    ValueId weight = ask_weight(context, LAYOUT_PLAIN, shape);
    ValueId bias = layer_param(context, "bias", SHAPE(out));
    ValueId dst = graph_op(context->graph, OP_MATMUL, ATTR(matmul, .trans_b = true),
                           SRC(src, weight, bias));
    graph_label_pop(context->graph, mark);
    return dst;
}

/* ---- norms and activations ---- */

static void record_statistics(BuildContext *context, BnRecord record, Shape src)
{
    if (context->graph->status != OK) return;
    record.n_values = src.dim[0] * src.dim[1] * src.dim[2];
    if (context->bn == BN_SYNC) record.n_values *= context->n_ranks;
    context->bn_records = mem_grow(context->bn_records, &context->bn_capacity,
                                   context->n_bn_records + 1, sizeof record);
    context->bn_records[context->n_bn_records++] = record;
}

/* Row `index` of (2,C) moments. */
static ValueId moment(Graph *graph, ValueId moments, int64_t index, Shape channels)
{
    OpAttr row = ATTR(slice, .axis = 0, .start = index, .length = 1);
    return graph_reshape(graph, graph_op(graph, OP_SLICE, row, SRC(moments)), channels);
}

/* Mean and variance of all ranks' src. Each gathers the moments of all and merges them: one
 * exchange, and no cancellation, as sums of squares would have it.
 * source  torch.nn.SyncBatchNorm */
static void moments_of_ranks(BuildContext *context, ValueId src, BnRecord *record)
{
    Graph *graph = context->graph;
    Shape channels = SHAPE(layer_channels(context, src));
    ValueId own = graph_op(graph, OP_BN_MOMENTS, NO_ATTR, SRC(src));
    ValueId all = graph_op(graph, OP_RANK_GATHER,
                           ATTR(rank_gather, .n_ranks = context->n_ranks), SRC(own));
    ValueId merged = graph_op(graph, OP_BN_MERGE, NO_ATTR, SRC(all));
    record->mean = moment(graph, merged, 0, channels);
    record->var = moment(graph, merged, 1, channels);
}

/* The norm as context->bn says; what it leaves for the running statistics is in `record`. */
static ValueId normalise(BuildContext *context, ValueId src, ValueId weight, ValueId bias,
                         double eps, BnRecord *record)
{
    Graph *graph = context->graph;
    if (context->bn == BN_TRAIN) {
        ValueId dst = graph_op(graph, OP_BATCHNORM, ATTR(batchnorm, .eps = eps),
                               SRC(src, weight, bias));
        record->mean = graph_dst(graph, dst, 1);
        record->var = graph_dst(graph, dst, 2);
        return dst;
    }
    if (context->bn == BN_SYNC) {
        moments_of_ranks(context, src, record);
    } else {
        record->mean = graph_store_value(graph, context->store, record->running_mean);
        record->var = graph_store_value(graph, context->store, record->running_var);
    }
    return graph_op(graph, OP_BATCHNORM_FROZEN, ATTR(batchnorm_frozen, .eps = eps),
                    SRC(src, weight, bias, record->mean, record->var));
}

ValueId layer_batchnorm(BuildContext *context, const char *name, ValueId src, double eps,
                        double momentum)
{
    Graph *graph = context->graph;
    Shape channels = SHAPE(layer_channels(context, src));
    assert(context->bn != BN_FOLDED);
    int mark = graph_label_push(graph, "%s", name);
    ValueId weight = layer_param(context, "weight", channels);
    ValueId bias = layer_param(context, "bias", channels);
    BnRecord record = {.momentum = momentum};
    record.running_mean = ask_entry(context, "running_mean", STORE_BUFFER, LAYOUT_PLAIN, DT_F32,
                                    channels);
    record.running_var = ask_entry(context, "running_var", STORE_BUFFER, LAYOUT_PLAIN, DT_F32,
                                   channels);
    record.tracked = ask_entry(context, "num_batches_tracked", STORE_BUFFER, LAYOUT_PLAIN, DT_I64,
                               SHAPE_SCALAR);
    ValueId dst = normalise(context, src, weight, bias, eps, &record);
    if (context->bn != BN_EVAL) record_statistics(context, record, layer_shape(context, src));
    graph_label_pop(graph, mark);
    return dst;
}

void layer_ask_layernorm(BuildContext *context, const char *name, int64_t channels)
{
    int mark = graph_label_push(context->graph, "%s", name);
    layer_param(context, "weight", SHAPE(channels));
    layer_param(context, "bias", SHAPE(channels));
    graph_label_pop(context->graph, mark);
}

ValueId layer_layernorm(BuildContext *context, const char *name, ValueId src, double eps)
{
    Shape channels = SHAPE(layer_channels(context, src));
    int mark = graph_label_push(context->graph, "%s", name);
    ValueId weight = layer_param(context, "weight", channels);
    ValueId bias = layer_param(context, "bias", channels);
    ValueId dst = graph_op(context->graph, OP_LAYERNORM, ATTR(layernorm, .eps = eps),
                           SRC(src, weight, bias));
    graph_label_pop(context->graph, mark);
    return dst;
}

ValueId layer_act(BuildContext *context, ValueId src, Activation kind)
{
    if (kind == ACT_NONE) return src;
    int mark = graph_label_push(context->graph, "act");
    ValueId dst = graph_op(context->graph, OP_ACT, ATTR(act, .kind = kind), SRC(src));
    graph_label_pop(context->graph, mark);
    return dst;
}

ValueId layer_add(BuildContext *context, ValueId a, ValueId b)
{
    return graph_op(context->graph, OP_ADD, NO_ATTR, SRC(a, b));
}

/* ---- running statistics ---- */

/* (n,C) statistics of the n micro-batches of a step, in their order. */
static ValueId statistics_of_step(Graph *graph, ValueId statistic)
{
    if (graph_value(graph, statistic)->region != REGION_STEP) return graph_gather(graph, statistic);
    return graph_reshape(graph, statistic, SHAPE(1, graph_value(graph, statistic)->shape.dim[0]));
}

void build_bn_updates(BuildContext *context, ValueId ok)
{
    Graph *graph = context->graph;
    for (int i = 0; i < context->n_bn_records && graph->status == OK; i++) {
        const BnRecord *record = &context->bn_records[i];
        ValueId means = statistics_of_step(graph, record->mean);
        ValueId vars = statistics_of_step(graph, record->var);
        ValueId dst[3] = {graph_store_value(graph, context->store, record->running_mean),
                          graph_store_value(graph, context->store, record->running_var),
                          graph_store_value(graph, context->store, record->tracked)};
        OpAttr attr = ATTR(bn_update, .momentum = record->momentum, .n_values = record->n_values);
        int mark = graph_label_push(graph, "%s",
                                    context->store->entries[record->running_mean].name);
        graph_mutate(graph, OP_BN_UPDATE, attr, REGION_STEP, SRC(means, vars, ok), 3, dst);
        graph_label_pop(graph, mark);
    }
}
