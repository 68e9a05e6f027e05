/* MATMUL through oneDNN.
 *
 * Called through cpu.c's table. With a shared b all batches of a are rows of one product; only a
 * transposed a, or a b with batches, needs the batched form. f16 operands are converted (see
 * stage.h).
 */
#include "base/memory.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/stage.h"

#include <assert.h>
#include <stdlib.h>

typedef struct MatmulState {
    OnednnPrimitive product;
    Stage a, b, dst;
    size_t scratchpad_offset;
} MatmulState;

static void matmul_run(const KernelCall *call)
{
    const MatmulState *state = call->state;
    const void *data[] = {
        stage_in(call, &state->a, &call->src[0]),
        stage_in(call, &state->b, &call->src[1]),
        stage_target(call, &state->dst, &call->dst[0]),
        call->src[2].data,
    };
    onednn_run(&state->product, data, (char *)call->scratch + state->scratchpad_offset);
    stage_out(call, &state->dst, &call->dst[0]);
}

static void matmul_release(void *pointer)
{
    MatmulState *state = pointer;
    onednn_free(&state->product);
    free(state);
}

static ProductSpec matmul_spec(const KernelCall *call)
{
    const MatmulAttr *attr = &call->attr->matmul;
    Shape a = call->src[0].shape, b = call->src[1].shape, dst = call->dst[0].shape;
    ProductSpec spec = {
        .m = shape_dim_from_end(dst, 2),
        .n = shape_dim_from_end(dst, 1),
        .k = shape_dim_from_end(a, attr->trans_a ? 2 : 1),
        .trans_a = attr->trans_a,
        .trans_b = attr->trans_b,
        .shared_b = b.rank == 2,
        .bias = call->n_src > 2 && cpu_present(&call->src[2]),
    };
    spec.batch = shape_elems(dst) / (spec.m * spec.n);
    if (spec.shared_b && !spec.trans_a) {
        spec.m *= spec.batch;
        spec.batch = 1;
    }
    assert(spec.shared_b || shape_elems(b) == spec.batch * spec.k * spec.n);
    return spec;
}

Status cpu_matmul(Backend *backend, KernelCall *call)
{
    const Tensor *a = &call->src[0], *b = &call->src[1], *dst = &call->dst[0];
    ProductSpec spec = matmul_spec(call);
    bool bf16 = a->dtype == DT_BF16 && b->dtype == DT_BF16 && onednn_has_bf16();
    spec.in = bf16 ? DT_BF16 : DT_F32;
    spec.out = spec.in == DT_BF16 && dst->dtype == DT_BF16 ? DT_BF16 : DT_F32;
    MatmulState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = matmul_release;
    call->run = matmul_run;
    state->a = stage_plan(call, a, spec.in);
    state->b = stage_plan(call, b, spec.in);
    state->dst = stage_plan(call, dst, spec.out);
    TRY(product_make(backend->context, call, &spec, &state->product));
    state->scratchpad_offset = stage_book(call, state->product.scratchpad_bytes);
    return OK;
}
