/* Joins the parts of a model, and declares its entries. Called by train/. */
#include "model/layers.h"
#include "model/parts.h"

#include <stdlib.h>

ValueId build_image_encoder(BuildContext *context, const Model *model, ValueId image)
{
    int mark = graph_label_push(context->graph, "image_encoder");
    ValueId embedding = model->encoder == ENCODER_VIT ? vit_build(context, model, image)
                                                      : efficientvit_build(context, model, image);
    graph_module(context->graph, NULL, embedding, true);
    graph_label_pop(context->graph, mark);
    return embedding;
}

DecoderOutputs build_decoder(BuildContext *context, const Model *model, ValueId embedding,
                             PromptInputs prompts)
{
    DType low = context->low;
    context->low = DT_F32; /* frozen or not, see model_declare_frozen */
    PromptCode code = prompt_encoder_build(context, model, prompts);
    DecoderOutputs outputs = mask_decoder_build(context, model, embedding, code, prompts.labels);
    context->low = low;
    return outputs;
}

/* Every part once, for one image with one prompt of each kind. */
static void build_everything(BuildContext *context, const Model *model)
{
    Graph *graph = context->graph;
    int64_t side = model->image_size, lowres = model_lowres(model);
    ValueId image = graph_input(graph, "image", DT_F32, SHAPE(1, side, side, 3));
    ValueId embedding = build_image_encoder(context, model, image);
    context->low = DT_F32;
    PromptInputs prompts;
    prompts.coords = graph_input(graph, "coords", DT_F32, SHAPE(1, 1, 1, 2));
    prompts.labels = graph_input(graph, "labels", DT_I32, SHAPE(1, 1, 1));
    prompts.mask_input = graph_input(graph, "mask", DT_F32, SHAPE(1, 1, lowres, lowres));
    PromptCode code = prompt_encoder_build(context, model, prompts);
    mask_decoder_ask(context, model, embedding, code); /* it comes first, see there */
    mask_decoder_build(context, model, embedding, code, prompts.labels);
}

/* A run of the builders on a scratch graph: layers declare what they ask for, so there is no second
 * list of entries that could differ from the first. */
static Status declare(const Model *model, BnMode bn, DType low, Store *store)
{
    BuildContext context = {.graph = graph_create(), .store = store, .bn = bn, .low = low};
    build_everything(&context, model);
    Status status = context.graph->status;
    graph_destroy(context.graph);
    free(context.bn_records);
    return status;
}

Status model_declare(const Model *model, Store *store)
{
    return declare(model, BN_EVAL, DT_F32, store);
}

Status model_declare_frozen(const Model *model, DType low, Store *frozen)
{
    return declare(model, BN_FOLDED, low, frozen);
}
