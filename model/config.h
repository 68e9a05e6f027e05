/* What a model config says, checked and in one struct. Used inside model/ only.
 *
 * A config describes an image encoder in the block vocabulary of EfficientViT or as SAM's ViT, and
 * the widths of SAM's prompt encoder and mask decoder. Sides are in px of the encoder's input
 * unless a name says otherwise. model_load fills it and checks every relation that a builder relies
 * on.
 */
#ifndef RETORT_MODEL_CONFIG_H
#define RETORT_MODEL_CONFIG_H

#include "model/model.h"

enum {
    CONFIG_MAX_STAGES = 8,
    CONFIG_MAX_DEPTH = 64, /* blocks of a ViT */
    MASK_TOKENS = 4,       /* one for the single mask, three for the multi-mask output */
};

#define LAYERNORM2D_EPS 1e-6 /* of every norm over the channels of a pixel, in all models */

/* The block vocabulary; `act` is the encoder's activation, (bn) a batch norm. */
typedef enum BlockKind {
    BLOCK_CONV,    /* 3x3 (bn) act */
    BLOCK_RES,     /* 3x3 (bn) act, 3x3 (bn) */
    BLOCK_DS,      /* depthwise 3x3 (bn) act, 1x1 (bn) */
    BLOCK_FMB,     /* 3x3 to in*expand (bn) act, 1x1 (bn) */
    BLOCK_MB,      /* 1x1 to in*expand (bn) act, depthwise 3x3 (bn) act, 1x1 (bn) */
    BLOCK_MB_BIAS, /* as BLOCK_MB with biases for the first two norms */
    BLOCK_EVIT,    /* residual LiteMLA, then residual BLOCK_MB_BIAS */
} BlockKind;

/* One opening block of stride 2 without a shortcut, then `depth` residual blocks. */
typedef struct StageConfig {
    char name[32]; /* module path below backbone */
    int64_t width;
    BlockKind open;
    int64_t open_expand;
    BlockKind block;
    int64_t depth;
    int64_t expand;
} StageConfig;

typedef struct NeckConfig {
    int n_inputs;
    int64_t inputs[CONFIG_MAX_STAGES]; /* indexes of stages, the deepest first */
    BlockKind block;
    int64_t depth;
    int64_t expand;
} NeckConfig;

typedef struct EfficientVitConfig {
    Activation act;
    double norm_eps, norm_momentum;
    int64_t head_dim;           /* channels of a LiteMLA head */
    int64_t aggregation_kernel; /* px of LiteMLA's second scale */
    int n_stages;
    StageConfig stages[CONFIG_MAX_STAGES];
    NeckConfig neck;
} EfficientVitConfig;

typedef struct VitConfig {
    Activation act;
    double norm_eps;
    int64_t patch; /* px */
    int64_t width, depth, heads, mlp_dim;
    int64_t window;                /* tokens */
    bool global[CONFIG_MAX_DEPTH]; /* blocks that attend to the whole grid */
} VitConfig;

typedef struct PromptEncoderConfig {
    Activation act;
    int64_t mask_channels; /* of mask_downscaling in front of its last convolution */
    double position_scale; /* deviation of the frequencies of positions, periods per half side */
} PromptEncoderConfig;

typedef struct MaskDecoderConfig {
    Activation act;
    double norm_eps; /* of the two-way transformer's LayerNorms */
    int64_t layers, heads, mlp_dim, iou_hidden;
    int64_t cross_width; /* inner width of the attentions between tokens and image */
} MaskDecoderConfig;

typedef enum EncoderKind { ENCODER_EFFICIENTVIT, ENCODER_VIT } EncoderKind;

struct Model {
    char *name;
    int64_t image_size, frame;
    int64_t grid, embed_dim; /* cells per side and channels of the embedding */
    EncoderKind encoder;
    EfficientVitConfig efficientvit;
    VitConfig vit;
    PromptEncoderConfig prompt_encoder;
    MaskDecoderConfig mask_decoder;
};

#endif
