/* One pass of a dense convolution as oneDNN runs it: the primitive, and the way of the weights
 * between the plain layout and the one that oneDNN chose. Made and run by conv_dense.c (passes as
 * they are) and conv_phases.c (passes taken apart).
 */
#ifndef RETORT_KERNELS_CPU_CONV_DENSE_H
#define RETORT_KERNELS_CPU_CONV_DENSE_H

#include "kernels/cpu/conv.h"

typedef struct DenseConv {
    OnednnPrimitive conv, reorder; /* reorder.primitive NULL: the plain layout was chosen */
    bool weights_are_result;
    size_t weights_offset, conv_pad_offset, reorder_pad_offset; /* in the call's scratch */
} DenseConv;

/* dense_make: the pass `shape->pass` of a convolution; maps come in dtype `in`, its result is in
 * `out` (weights as a result: f32). Books scratch in the call. errors  as onednn_make */
Status dense_make(OnednnEngine *engine, KernelCall *call, const ConvShape *shape, DType in,
                  DType out, DenseConv *dense);

/* dense_run: operands in the order of the call's sources; all plain. `bias` NULL if there is none.
 */
void dense_run(const KernelCall *call, const DenseConv *dense, const void *first,
               const void *second, void *result, const void *bias);

void dense_free(DenseConv *dense);

#endif
