/* MATMUL through cuBLASLt, the bias in its epilogue.
 *
 * With a shared b all batches of a are rows of one product; a transposed a, or a b with batches,
 * needs the batched form.
 */
#include "base/memory.h"
#include "kernels/cuda/checks.h"
#include "kernels/cuda/cublaslt.h"

#include <stdlib.h>

static const Tensor *bias_of(const KernelCall *call)
{
    return call->n_src > 2 && cuda_present(&call->src[2]) ? &call->src[2] : NULL;
}

static void matmul_run(const KernelCall *call)
{
    lt_run(call, call->state, call->src[0].data, call->src[1].data, bias_of(call),
           call->dst[0].data, call->scratch);
}

static void nothing_run(const KernelCall *call) { (void)call; }

static void matmul_release(void *product)
{
    lt_free(product);
    free(product);
}

static LtSpec matmul_spec(const KernelCall *call)
{
    const MatmulAttr *attr = &call->attr->matmul;
    Shape a = call->src[0].shape, b = call->src[1].shape, dst = call->dst[0].shape;
    LtSpec spec = {
        .in = call->src[0].dtype,
        .out = call->dst[0].dtype,
        .m = shape_dim_from_end(dst, 2),
        .n = shape_dim_from_end(dst, 1),
        .k = shape_dim_from_end(a, attr->trans_a ? 2 : 1),
        .trans_a = attr->trans_a,
        .trans_b = attr->trans_b,
        .bias = bias_of(call) != NULL,
    };
    spec.batches = shape_elems(dst) / (spec.m * spec.n);
    if (b.rank == 2 && !spec.trans_a) {
        spec.m *= spec.batches;
        spec.batches = 1;
    }
    spec.a = (LtMatrix){spec.trans_a ? spec.m : spec.k, spec.m * spec.k};
    spec.b = (LtMatrix){spec.trans_b ? spec.k : spec.n, b.rank == 2 ? 0 : spec.k * spec.n};
    spec.dst = (LtMatrix){spec.n, spec.m * spec.n};
    return spec;
}

Status cuda_matmul(Backend *backend, KernelCall *call)
{
    call->run = nothing_run;
    TRY(cuda_check_low(call));
    if (shape_elems(call->dst[0].shape) == 0) return OK;
    LtSpec spec = matmul_spec(call);
    spec.tf32 = backend->tf32;
    LtProduct *product = mem_alloc(sizeof *product);
    call->state = product;
    call->release = matmul_release;
    call->run = matmul_run;
    TRY(lt_make(call, &spec, product));
    call->scratch_bytes += product->workspace_bytes;
    return OK;
}
