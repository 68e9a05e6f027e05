/* How the tests of the reference call one kernel and compare. Included by test_ref*.c. */
#ifndef RETORT_TESTS_REF_CALL_H
#define RETORT_TESTS_REF_CALL_H

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/ref/ref.h"

#define F64(data, ...) ((Tensor){DT_F64, SHAPE(__VA_ARGS__), data})
#define F32(data, ...) ((Tensor){DT_F32, SHAPE(__VA_ARGS__), data})
#define I32(data, ...) ((Tensor){DT_I32, SHAPE(__VA_ARGS__), data})
#define NONE ((Tensor){.dtype = DT_NONE})
#define COUNT(array) ((int64_t)(sizeof(array) / sizeof *(array)))

/* Binds, gives scratch of the size asked for, runs. */
static inline void run_op(OpId op, OpAttr attr, int n_src, const Tensor *src, int n_dst,
                          const Tensor *dst)
{
    Backend *backend;
    cr_assert_eq(ref_open(0, &backend), OK);
    KernelCall call = {
        .op = op, .label = "test", .attr = &attr, .n_src = n_src, .n_dst = n_dst, .n_threads = 1};
    memcpy(call.src, src, (size_t)n_src * sizeof *src);
    memcpy(call.dst, dst, (size_t)n_dst * sizeof *dst);
    cr_assert_eq(backend->bind(backend, &call), OK, "%s", status_message());
    cr_assert_eq(backend->alloc(backend, call.scratch_bytes, &call.scratch), OK);
    call.run(&call);
    backend->free(backend, call.scratch, call.scratch_bytes);
    backend->close(backend);
}

#define RUN(OP, attr, src, dst) run_op(OP, attr, (int)COUNT(src), src, (int)COUNT(dst), dst)

static inline void expect_near(const double *got, const double *wanted, int64_t n, double tolerance)
{
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabs(got[i] - wanted[i]) <= tolerance, "element %lld: got %.15g, wanted %.15g",
                  (long long)i, got[i], wanted[i]);
}

static inline void fill_random(double *data, int64_t n, uint64_t stream)
{
    RngKey key = {.seed = 7, .purpose = RNG_TEST, .sample = stream};
    for (int64_t i = 0; i < n; i++) data[i] = rng_normal(key, (uint64_t)i);
}

#endif
