/* One matrix product through oneDNN, batched or not.
 * Called by matmul.c and, for convolutions, by conv.c.
 */
#ifndef RETORT_KERNELS_CPU_PRODUCT_H
#define RETORT_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/onednn.h"

/* dst (batch,m,n) = a (batch,m,k) b (batch,k,n) + [bias (n)]; trans_a: a is (batch,k,m); trans_b: b
 * is (batch,n,k); shared_b: b has no batch. a and b have dtype `in`, bias is f32. */
typedef struct ProductSpec {
    int64_t batch, m, n, k;
    bool trans_a, trans_b, shared_b, bias;
    DType in, out;
} ProductSpec;

/* product_make: a primitive whose arguments are a, b, dst and, if there is one, bias.  errors  as
 * onednn_make */
Status product_make(OnednnEngine *engine, const KernelCall *call, const ProductSpec *spec,
                    OnednnPrimitive *out);

#endif
