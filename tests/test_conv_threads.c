/* The weight pass of f32 convolutions gives the same bits for any number of threads: its sums are
 * divided by shape alone (kernels/cpu/conv_weight.c). */
#include <criterion/criterion.h>

#include <string.h>

#include "kernels/backend.h"
#include "tests/kat.h"

enum { N = 2, SIDE = 20, CHANNELS = 32, N_SRC = N * SIDE * SIDE * CHANNELS };

static void weight_pass(int n_threads, int64_t kernel, float *src, float *ddst, float *dw)
{
    Backend *backend;
    cr_assert_eq(backend_open("cpu", n_threads, &backend), OK, "%s", status_message());
    OpAttr attr = {.conv2d_grad_weight.conv = {.stride = 1, .pad = kernel / 2, .groups = 1}};
    Shape map = {.rank = 4, .dim = {N, SIDE, SIDE, CHANNELS}};
    Shape weights = {.rank = 4, .dim = {CHANNELS, kernel, kernel, CHANNELS}};
    KernelCall call = {.op = OP_CONV2D_GRAD_WEIGHT,
                       .label = "conv",
                       .attr = &attr,
                       .n_src = 2,
                       .n_dst = 1,
                       .n_threads = n_threads};
    call.src[0] = (Tensor){.dtype = DT_F32, .shape = map, .data = src};
    call.src[1] = (Tensor){.dtype = DT_F32, .shape = map, .data = ddst};
    call.dst[0] = (Tensor){.dtype = DT_F32, .shape = weights, .data = dw};
    cr_assert_eq(backend->bind(backend, &call), OK, "%s", status_message());
    cr_assert_eq(backend->alloc(backend, call.scratch_bytes, &call.scratch), OK);
    call.run(&call);
    backend->free(backend, call.scratch, call.scratch_bytes);
    if (call.release) call.release(call.state);
    backend_close(backend);
}

Test(conv_threads, weight_pass)
{
    static float src[N_SRC], ddst[N_SRC], one[25 * CHANNELS * CHANNELS],
        many[25 * CHANNELS * CHANNELS];
    kat_fill("src", 1, src, N_SRC);
    kat_fill("ddst", 1, ddst, N_SRC);
    for (int64_t kernel = 1; kernel <= 5; kernel += 2) {
        weight_pass(1, kernel, src, ddst, one);
        for (int n_threads = 2; n_threads <= 5; n_threads++) {
            weight_pass(n_threads, kernel, src, ddst, many);
            size_t bytes = (size_t)(kernel * kernel) * CHANNELS * CHANNELS * sizeof(float);
            cr_expect(memcmp(one, many, bytes) == 0, "%dx%d, %d threads", (int)kernel, (int)kernel,
                      n_threads);
        }
    }
}
