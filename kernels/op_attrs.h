/* Typed attributes of the ops, validated once by the op's shape rule when a node is made.
 * Fixed for the life of a graph; what changes from step to step is a device scalar among the sources.
 */
#ifndef RETORT_KERNELS_OP_ATTRS_H
#define RETORT_KERNELS_OP_ATTRS_H

#include "base/tensor.h"

typedef enum Activation {
    ACT_NONE,
    ACT_RELU,
    ACT_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): EfficientViT-SAM's encoder */
    ACT_GELU_ERF,  /* 0.5 x (1 + erf(x / sqrt 2)): SAM and every prompt encoder and mask decoder */
    ACT_HARDSWISH, /* x min(max(x + 3, 0), 6) / 6: EfficientViT B */
} Activation;

typedef enum ResizeMode {
    RESIZE_BILINEAR, /* align_corners=False, source clamped below at 0, no antialiasing */
    RESIZE_BICUBIC,  /* align_corners=False, a = -0.75, source not clamped, taps clamped */
} ResizeMode;

typedef struct NoAttr { char unused; } NoAttr;
typedef struct ActAttr { Activation kind; } ActAttr;
typedef struct ShapeAttr { Shape shape; } ShapeAttr;                 /* of the destination */
typedef struct AxisAttr { int axis; } AxisAttr;
typedef struct SliceAttr { int axis; int64_t start, length; } SliceAttr;
typedef struct PadAttr { int axis; int64_t before, after; } PadAttr; /* elements of zero */
typedef struct MatmulAttr { bool trans_a, trans_b; } MatmulAttr;
typedef struct ConvAttr { int64_t stride, pad, groups; } ConvAttr;   /* px, per side, square */
typedef struct ConvGradAttr { ConvAttr conv; Shape shape; } ConvGradAttr; /* shape of dsrc or dw */
typedef struct BlockAttr { int64_t block; } BlockAttr;               /* px */
typedef struct NormAttr { double eps; Activation act; } NormAttr;
typedef struct BnUpdateAttr { double momentum; int64_t n_values; } BnUpdateAttr; /* N*H*W of one statistic */
typedef struct RanksAttr { int64_t n_ranks; } RanksAttr;
typedef struct AttentionAttr { int64_t heads; double scale; int64_t n_free_keys; } AttentionAttr;
typedef struct HeadsAttr { int64_t heads; } HeadsAttr;
typedef struct WindowAttr { int64_t window, height, width; } WindowAttr; /* tokens; height, width unpadded */
typedef struct LinearAttentionAttr { int64_t head_dim; double eps; } LinearAttentionAttr;
typedef struct ResizeAttr { ResizeMode mode; int64_t height, width; } ResizeAttr; /* px of the destination */
typedef struct PointEmbedAttr { double frame; } PointEmbedAttr;      /* side of the prompt frame, px */
typedef struct GridAttr { int64_t height, width; } GridAttr;
typedef struct FocalDiceAttr { double alpha, gamma; int64_t size; } FocalDiceAttr; /* size: S, px */
typedef struct PointLossAttr { int64_t size; } PointLossAttr;        /* S, px */
typedef struct PointSampleAttr { int64_t size, n_points; double oversample, importance; } PointSampleAttr;
typedef struct CandidateAttr { double mask_weight, dice_weight; } CandidateAttr;
typedef struct ScaleAttr { double scale; } ScaleAttr;
typedef struct SizeAttr { int64_t size; } SizeAttr;                  /* S, px */
typedef struct ClickAttr { int64_t size, round; double frame; } ClickAttr; /* S; which draw; prompt frame, px */
typedef struct ValueAttr { double value; } ValueAttr;
typedef struct CastAttr { DType dtype; } CastAttr;
typedef struct ClipAttr { double max_norm; } ClipAttr;               /* 0: no clipping by norm */
typedef struct AdamwAttr {
    double beta1, beta2, eps, weight_decay, lr_scale, clip_value;     /* clip_value 0: no clamping */
} AdamwAttr;
typedef struct EmaAttr { double decay; } EmaAttr;

#endif
