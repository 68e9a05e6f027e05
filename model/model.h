/* Configs to graphs: what a model is, and the builders of its parts.
 *
 * A model is a YAML file (configs/models/NAME.yaml) that names an image encoder made of the block
 * vocabulary (EfficientViT stages, SAM's ViT), and SAM's prompt encoder and mask decoder behind it.
 * Builders declare parameters in a Store, under the released checkpoints' names and in their order,
 * and add nodes to a Graph; no maths and no device here. Used by train/.
 *
 * source  EfficientViT-SAM and SAM; parameter names of efficientvit_sam_*.pt and sam_vit_*.pth
 */
#ifndef RETORT_MODEL_MODEL_H
#define RETORT_MODEL_MODEL_H

#include "autograd/graph.h"

typedef struct Model Model;

/* model_load: reads and validates a model config.
 * errors  E_FILE, E_FORMAT with line; E_CONFIG for an unknown key (nearest known one) or a value
 * out of range */
Status model_load(const char *path, Model **out);
void model_destroy(Model *model);

const char *model_name(const Model *model);
int64_t model_image_size(const Model *model); /* S: side of the encoder's input, px */
int64_t model_frame(const Model *model);      /* side of the prompt frame, px (1024 for SAM) */
int64_t model_grid(const Model *model);       /* side of the embedding, cells (64) */
int64_t model_embed_dim(const Model *model);  /* channels of the embedding (256) */
int64_t model_lowres(const Model *model);     /* side of the mask logits: 4 * grid (256) */

/* How the batch norms of a graph behave: with running statistics, with those of the micro-batch,
 * with those of the micro-batches of all ranks, or not at all, because the store is a frozen one
 * that has them in its convolutions (model_declare_frozen). */
typedef enum BnMode { BN_EVAL, BN_TRAIN, BN_SYNC, BN_FOLDED } BnMode;

/* Batch statistics of one norm, met while building in BN_TRAIN or BN_SYNC, and the entries they go
 * into. */
typedef struct BnRecord {
    ValueId mean, var;                      /* (C) of a micro-batch */
    int64_t n_values;                       /* that they are of */
    int running_mean, running_var, tracked; /* entries of the store */
    double momentum;
} BnRecord;

/* What all builders of one graph share; begin with graph, store and bn set. */
typedef struct BuildContext {
    Graph *graph;
    Store *store;
    BnMode bn;
    int64_t n_ranks;      /* BN_SYNC: that share statistics */
    DType low;            /* BN_FOLDED: that of the frozen store */
    BnRecord *bn_records; /* for build_bn_updates; freed by the caller */
    int n_bn_records, bn_capacity;
} BuildContext;

/* model_declare: all parameters and buffers, in state-dict order, whether or not a graph will use
 * them. After it, builders only find entries. */
Status model_declare(const Model *model, Store *store);

/* model_init: initial weights, a function of (seed, name), for a store that is allocated: weights
 * uniform within 1/sqrt(fan-in), embeddings normal with deviation 1 and the positional matrix with
 * the config's, norms 1, the last norm of a residual branch 0, positions and biases 0.
 */
Status model_init(const Model *model, Store *store, uint64_t seed);

/* ---- frozen models: for inference only ---- */

/* model_declare_frozen: the entries of a model that is never trained again. Batch norms are gone:
 * each is folded into the convolution in front of it, which gets a bias "<convolution>.bias".
 * low  dtype in which the image encoder keeps the weights of its products (what the precision
 *      policy would cast them to in every run); the rest is f32, also prompt encoder and mask
 *      decoder, which distillation copies */
Status model_declare_frozen(const Model *model, DType low, Store *frozen);

/* Gives the values of an entry of model_declare to `host`, which has memory for its dtype and
 * shape. */
typedef Status (*EntrySource)(void *context, const StoreEntry *entry, Tensor *host);

/* model_freeze: fills a frozen store that is allocated, entry by entry: no more than one entry is
 * in host memory at a time. errors  those of the source */
Status model_freeze(const Model *model, EntrySource source, void *context, Store *frozen);

/* model_initial: the source of initial weights (see model_init); its context is a ModelInit. */
typedef struct ModelInit {
    const Model *model;
    uint64_t seed;
} ModelInit;
Status model_initial(void *init, const StoreEntry *entry, Tensor *host);

/* build_image_encoder: image (N,S,S,3) normalised -> embedding (N,grid,grid,embed_dim). */
ValueId build_image_encoder(BuildContext *context, const Model *model, ValueId image);

typedef struct PromptInputs {
    ValueId coords;     /* (N,M,P,2) f32, px in the prompt frame */
    ValueId labels;     /* (N,M,P) int32: 0, 1 points; 2, 3 corners; -1 padding point; -2 empty */
    ValueId mask_input; /* (N,M,lowres,lowres) f32 logits, or VALUE_NONE */
} PromptInputs;

typedef struct DecoderOutputs {
    ValueId masks; /* (N,M,4,lowres,lowres) logits; 0 is the single mask, 1..3 the multi-mask */
    ValueId iou;   /* (N,M,4) */
} DecoderOutputs;

/* build_decoder: prompt encoder and mask decoder. embedding (N,grid,grid,D) is shared by the M
 * prompts of an image; what does not depend on the prompts is placed outside the chunk region by
 * its region alone. P >= 1. */
DecoderOutputs build_decoder(BuildContext *context, const Model *model, ValueId embedding,
                             PromptInputs prompts);

/* build_bn_updates: running statistics from the batch statistics recorded while building,
 * predicated on ok (1); call once, after the micro-batch region is closed. */
void build_bn_updates(BuildContext *context, ValueId ok);

/* model_gate: which count of a step must be positive for the parameter to take part. */
typedef enum ModelGate { GATE_ALWAYS, GATE_POINTS, GATE_BOXES } ModelGate;
ModelGate model_gate(const char *parameter_name);

#endif
