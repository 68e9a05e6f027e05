/* The parts of the CPU convolutions: conv.c reads the shape and picks a way.
 *
 *   depthwise  one channel per group: own kernels over NHWC rows
 *   grouped    1x1 in groups (LiteMLA: 16 or 32 channels each): own small products
 *   forward, data, weight
 *              the three passes in f32: own products of tiles, in short sums; 3x3 at stride 1 with
 *              fewer products, by Winograd
 *   product    1x1, stride 1, one group, where no tiles are used: a matrix product over all pixels
 *   dense      everything else, bf16 above all: oneDNN's convolution
 */
#ifndef RETORT_KERNELS_CPU_CONV_H
#define RETORT_KERNELS_CPU_CONV_H

#include "kernels/cpu/onednn.h"
#include "kernels/cpu/stage.h"

typedef enum ConvPass { CONV_FORWARD, CONV_DATA, CONV_WEIGHT } ConvPass;

/* Sizes of the forward convolution whichever the pass: src (n,h,w,c), weights (k,r,s,c/groups),
 * dst (n,out_h,out_w,k). */
typedef struct ConvShape {
    ConvPass pass;
    int64_t n, h, w, c, k, r, s, out_h, out_w;
    int64_t stride, pad_h, pad_w, groups; /* pads at the top and left */
    bool bias;
} ConvShape;

ConvShape conv_shape(const KernelCall *call);
/* conv_flat_shape: the same, but a 1x1 convolution as one row of all pixels. */
ConvShape conv_flat_shape(const KernelCall *call);

/* Whether each output sees one pixel, the one at its own place. */
static inline bool conv_is_pointwise(const ConvShape *s)
{
    return s->r == 1 && s->s == 1 && s->stride == 1 && s->pad_h == 0 && s->pad_w == 0;
}

Status conv_product_bind(OnednnEngine *engine, KernelCall *call);
Status conv_dense_bind(OnednnEngine *engine, KernelCall *call);
/* conv_PASS_usable: whether the tiles can, and should, run the pass for maps of dtype `in`. */
bool conv_forward_usable(const ConvShape *shape, DType in);
Status conv_forward_bind(KernelCall *call);
bool conv_data_usable(const ConvShape *shape, DType in);
Status conv_data_bind(KernelCall *call);
bool conv_weight_usable(const ConvShape *shape, DType in);
Status conv_weight_bind(KernelCall *call);
Status conv_depthwise_bind(KernelCall *call);
Status conv_grouped_bind(KernelCall *call);

/* conv_dtypes: the dtypes in which the call's two sources and its result are computed: bf16 if both
 * sources are and the machine has bf16 arithmetic, else f32. */
void conv_dtypes(const KernelCall *call, DType *in, DType *out);

#endif
