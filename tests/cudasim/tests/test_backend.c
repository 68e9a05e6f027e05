/* The CUDA backend around its kernels: memory, the order of copies and kernels, recorded runs, and
 * what a failure says. On the simulator, or with TEST_BACKEND=cuda on a GPU. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum { N = 1000 };

static Backend *open_backend(void)
{
    Backend *backend;
    const char *name = getenv("TEST_BACKEND");
    cr_assert_eq(backend_open(name ? name : "cudasim", 1, &backend), OK, "%s", status_message());
    return backend;
}

static bool on_simulator(void) { return !getenv("TEST_BACKEND"); }

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

/* acc += src, both of N floats, bound; src holds ones, acc zeros. */
typedef struct Sum {
    Backend *backend;
    OpAttr attr;
    KernelCall call;
    float *src, *acc;
} Sum;

static void set_all(Sum *sum, float *device, float value)
{
    float host[N];
    for (int i = 0; i < N; i++) host[i] = value;
    must(sum->backend->upload(sum->backend, device, host, sizeof host));
    for (int i = 0; i < N; i++) host[i] = -1; /* the copy must not need it any more */
}

static Sum *sum_open(void)
{
    static Sum sum;
    void *memory;
    sum = (Sum){.backend = open_backend()};
    sum.call = (KernelCall){
        .op = OP_ACCUM, .label = "sum", .attr = &sum.attr, .n_src = 1, .n_dst = 1};
    sum.call.src[0] = sum.call.dst[0] = (Tensor){DT_F32, SHAPE(N), NULL};
    must(sum.backend->bind(sum.backend, &sum.call));
    must(sum.backend->alloc(sum.backend, 2 * N * sizeof(float), &memory));
    sum.src = memory;
    sum.acc = sum.src + N;
    sum.call.src[0].data = sum.src;
    sum.call.dst[0].data = sum.acc;
    set_all(&sum, sum.src, 1);
    return &sum;
}

static void expect_sum(Sum *sum, float wanted)
{
    float host[N];
    must(sum->backend->download(sum->backend, host, sum->acc, sizeof host));
    for (int i = 0; i < N; i++)
        cr_assert_float_eq(host[i], wanted, 0, "element %d: %g", i, host[i]);
}

static void sum_close(Sum *sum)
{
    if (sum->call.release) sum->call.release(sum->call.state);
    sum->backend->free(sum->backend, sum->src, 2 * N * sizeof(float));
    backend_close(sum->backend);
}

/* More than the staging holds, from memory that is not pinned. */
Test(backend, memory_is_zero_and_copies_both_ways)
{
    enum { BYTES = (20 << 20) + 12 };
    Backend *backend = open_backend();
    char *there = malloc(BYTES), *back = malloc(BYTES);
    void *memory;
    must(backend->alloc(backend, BYTES, &memory));
    cr_assert_eq((uintptr_t)memory % 256, 0);
    must(backend->download(backend, back, memory, BYTES));
    for (int i = 0; i < BYTES; i++) cr_assert_eq(back[i], 0);
    for (int i = 0; i < BYTES; i++) there[i] = (char)(i * 2654435761u >> 24);
    must(backend->upload(backend, memory, there, BYTES));
    must(backend->download(backend, back, memory, BYTES));
    cr_assert(memcmp(there, back, BYTES) == 0);
    backend->free(backend, memory, BYTES);
    backend_close(backend);
    free(there);
    free(back);
}

/* Nobody waits in between: the streams' events alone keep the order. */
Test(backend, copies_and_kernels_keep_the_order_of_the_host)
{
    Sum *sum = sum_open();
    float wanted = 0;
    for (int turn = 1; turn <= 20; turn++) {
        set_all(sum, sum->src, (float)turn);
        sum->call.run(&sum->call);
        wanted += (float)turn;
        if (turn % 5 == 0) expect_sum(sum, wanted);
    }
    sum_close(sum);
}

Test(backend, recorded_runs_are_replayed)
{
    Sum *sum = sum_open();
    void *recording;
    must(sum->backend->record_begin(sum->backend));
    sum->call.run(&sum->call);
    sum->call.run(&sum->call);
    must(sum->backend->record_end(sum->backend, &recording));
    expect_sum(sum, 0);
    for (int turn = 0; turn < 3; turn++) must(sum->backend->replay(sum->backend, recording));
    must(sum->backend->wait(sum->backend));
    expect_sum(sum, 6);
    sum->backend->recording_free(recording);
    sum_close(sum);
}

Test(backend, dtypes_are_refused_by_name)
{
    Sum *sum = sum_open();
    KernelCall call = sum->call;
    call.dst[0].dtype = DT_BF16;
    cr_assert_eq(sum->backend->bind(sum->backend, &call), E_UNSUPPORTED);
    cr_expect(strstr(status_message(), "sum: accum on cuda: destination 0 has dtype bfloat16"),
              "%s", status_message());
    sum_close(sum);
}

Test(backend, too_much_memory_is_told_with_what_there_is)
{
    Backend *backend = open_backend();
    void *memory;
    cr_assert_eq(backend->alloc(backend, (size_t)1 << 42, &memory), E_MEMORY);
    cr_expect(strstr(status_message(), "cannot allocate 4194304.0 MiB"), "%s", status_message());
    must(backend->alloc(backend, 64, &memory)); /* and the backend goes on */
    backend->free(backend, memory, 64);
    backend_close(backend);
}

/* A GPU that has failed stays so; the simulator says what it saw. */
Test(backend, a_failure_names_the_kernel_and_the_operand)
{
    if (!on_simulator()) cr_skip_test("a real GPU would be out of order for the tests that follow");
    Sum *sum = sum_open();
    sum->call.src[0].shape = SHAPE(N - 1);
    sum->call.run(&sum->call);
    cr_assert_eq(sum->backend->wait(sum->backend), E_DEVICE);
    cr_expect(strstr(status_message(), "accum"), "%s", status_message());
    cr_expect(strstr(status_message(), "source 0"), "%s", status_message());
}
