/* The builders of a model's parts, joined by build.c. Used inside model/ only. Maps are N,H,W,C. */
#ifndef RETORT_MODEL_PARTS_H
#define RETORT_MODEL_PARTS_H

#include "model/config.h"

/* Image encoders: image (N,S,S,3) -> embedding (N,grid,grid,embed_dim). Labels start at
 * image_encoder. */
ValueId efficientvit_build(BuildContext *context, const Model *model, ValueId image);
ValueId vit_build(BuildContext *context, const Model *model, ValueId image);

/* What the prompt encoder hands to the mask decoder. */
typedef struct PromptCode {
    ValueId sparse;   /* (N,M,P,D) tokens */
    ValueId dense;    /* added to the embedding: (N,M,grid*grid,D) of a mask prompt, or (1,D) */
    ValueId image_pe; /* (grid*grid,D) positional code of the cells */
} PromptCode;
PromptCode prompt_encoder_build(BuildContext *context, const Model *model, PromptInputs prompts);

/* Both sides of the two-way transformer. M of `image` may be 1 on the way in: not yet per prompt.
 */
typedef struct TwoWay {
    ValueId tokens; /* (N,M,T,D) */
    ValueId image;  /* (N,M,grid*grid,D) */
} TwoWay;
/* labels (N,M,T-5): tokens behind the first five whose label is -2 are no keys; VALUE_NONE: all
 * are. */
TwoWay transformer_build(BuildContext *context, const Model *model, TwoWay sides, ValueId image_pe,
                         ValueId labels);

/* mask_decoder_ask: asks for the transformer's entries ahead of mask_decoder_build, as PyTorch
 * registers it before the tokens it works on. */
void mask_decoder_ask(BuildContext *context, const Model *model, ValueId embedding,
                      PromptCode prompts);
DecoderOutputs mask_decoder_build(BuildContext *context, const Model *model, ValueId embedding,
                                  PromptCode prompts, ValueId labels);

#endif
