/* The simulator itself: right programs pass under many orders, and each kind of wrong one is found
 * and told with kernel, thread and place. The kernels are in tests/cudasim/faults. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cudasim/faults/faults.h"

enum { N = 64 };
typedef void (*Launch)(cudaStream_t stream, float *data, int n);

static void must(cudaError_t error)
{
    cr_assert_eq(error, cudaSuccess, "%s", cudaGetErrorString(error));
}

static cudaStream_t new_stream(void)
{
    cudaStream_t stream;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static cudaEvent_t new_event(void)
{
    cudaEvent_t event;
    must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

/* N floats 0, 1, .. on the device, and pinned memory of the same size. */
typedef struct Data {
    cudaStream_t stream;
    float *device, *host;
} Data;

static Data new_data(void)
{
    Data d = {.stream = new_stream()};
    must(cudaMalloc((void **)&d.device, N * sizeof(float)));
    must(cudaMallocHost((void **)&d.host, N * sizeof(float)));
    for (int i = 0; i < N; i++) d.host[i] = (float)i;
    must(cudaMemcpyAsync(d.device, d.host, N * sizeof(float), cudaMemcpyHostToDevice, d.stream));
    must(cudaStreamSynchronize(d.stream));
    return d;
}

static void fetch(const Data *d)
{
    must(cudaMemcpyAsync(d->host, d->device, N * sizeof(float), cudaMemcpyDeviceToHost, d->stream));
    must(cudaStreamSynchronize(d->stream));
}

static void free_data(Data *d)
{
    must(cudaFree(d->device));
    must(cudaFreeHost(d->host));
    must(cudaStreamDestroy(d->stream));
}

/* ---- right programs ---- */

static void check_right(Launch launch, int n, const float *wanted, int n_wanted)
{
    Data d = new_data();
    launch(d.stream, d.device, n);
    fetch(&d);
    for (int i = 0; i < n_wanted; i++)
        cr_assert_float_eq(d.host[i], wanted[i], 0, "element %d: %g, not %g", i, d.host[i],
                           wanted[i]);
    free_data(&d);
}

Test(simulator, runs_right_kernels)
{
    float doubled[N], reversed[N], in_warps[N], sum = 15.5f * 32 + 16;
    for (int i = 0; i < N; i++) {
        doubled[i] = 2 * (float)i;
        reversed[i] = (float)(N - 1 - i);
        in_warps[i] = (float)(i / 32 * 32 + 31 - i % 32);
    }
    for (int turn = 0; turn < 20; turn++) { /* each draws other orders */
        check_right(launch_scale, N, doubled, N);
        check_right(launch_reverse, N, reversed, N);
        check_right(launch_warp_reverse, N, in_warps, N);
        check_right(launch_sum_rows, N, &sum, 1);
    }
    Data d = new_data();
    launch_count(d.stream, d.device, 50);
    fetch(&d);
    int counted;
    memcpy(&counted, d.host, sizeof counted);
    cr_assert_eq(counted, 50);
}

/* copy stream -> event -> compute stream -> event -> copy stream */
static void check_ordered(Data *d, cudaStream_t compute, cudaEvent_t there, cudaEvent_t back)
{
    for (int i = 0; i < N; i++) d->host[i] = (float)i;
    must(cudaMemcpyAsync(d->device, d->host, N * sizeof(float), cudaMemcpyHostToDevice, d->stream));
    must(cudaEventRecord(there, d->stream));
    must(cudaStreamWaitEvent(compute, there, 0));
    launch_scale(compute, d->device, N);
    must(cudaEventRecord(back, compute));
    must(cudaStreamWaitEvent(d->stream, back, 0));
    fetch(d);
    for (int i = 0; i < N; i++) cr_assert_float_eq(d->host[i], 2 * (float)i, 0);
}

Test(simulator, events_order_streams)
{
    Data d = new_data();
    cudaStream_t compute = new_stream();
    cudaEvent_t there = new_event(), back = new_event();
    for (int turn = 0; turn < 50; turn++) check_ordered(&d, compute, there, back);
}

Test(simulator, graphs_replay_forked_streams)
{
    Data d = new_data();
    cudaStream_t side = new_stream();
    cudaEvent_t fork = new_event(), joined = new_event();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    must(cudaStreamBeginCapture(d.stream, cudaStreamCaptureModeThreadLocal));
    launch_scale(d.stream, d.device, N);
    must(cudaEventRecord(fork, d.stream));
    must(cudaStreamWaitEvent(side, fork, 0));
    launch_scale(side, d.device, N);
    must(cudaEventRecord(joined, side));
    must(cudaStreamWaitEvent(d.stream, joined, 0));
    launch_reverse(d.stream, d.device, N);
    must(cudaStreamEndCapture(d.stream, &graph));
    must(cudaGraphInstantiate(&executable, graph, 0));
    must(cudaGraphDestroy(graph));
    fetch(&d);
    cr_assert_float_eq(d.host[1], 1, 0, "a capture runs nothing");
    for (int turn = 0; turn < 4; turn++) must(cudaGraphLaunch(executable, d.stream));
    fetch(&d);
    for (int i = 0; i < N; i++) cr_assert_float_eq(d.host[i], 256 * (float)i, 0);
    must(cudaGraphExecDestroy(executable));
}

/* ---- wrong programs ---- */

static void check_report(cudaError_t error, const char *const *words)
{
    cr_assert_neq(error, cudaSuccess, "nothing was found");
    for (; *words; words++)
        cr_expect(strstr(cudaGetErrorString(error), *words), "no \"%s\" in: %s", *words,
                  cudaGetErrorString(error));
}

#define FINDS(name, ...)                                      \
    Test(simulator, finds_##name)                             \
    {                                                         \
        Data d = new_data();                                  \
        launch_##name(d.stream, d.device, N);                 \
        const char *words[] = {__VA_ARGS__, NULL};            \
        check_report(cudaStreamSynchronize(d.stream), words); \
    }

FINDS(past_the_end, "past_the_end", "thread (0,0,0) of block (1,0,0)", "writes 4 bytes",
      "outside of all allocations")
FINDS(host_table, "host_table", "reads 4 bytes through a host pointer")
FINDS(misaligned, "misaligned", "16 bytes", "not aligned to 16")
FINDS(blank_shared, "thread (63,0,0)", "reads shared memory, which nobody has written")
FINDS(read_before_barrier, "read_before_barrier", "shared memory") /* blank, or a race: by order */
FINDS(write_before_barrier, "shared memory", "another thread of the block, with no barrier between")
FINDS(same_element, "another thread of the block")
FINDS(between_blocks, "another block of the launch")
FINDS(divergent_barrier, "__syncthreads", "has returned")
FINDS(returned_early, "__syncthreads", "has returned")
FINDS(missing_lane, "waits in a shuffle", "thread (31,0,0), which has returned")
FINDS(lane_not_in_mask, "lane 16, which is not in mask 0000ffff")
FINDS(missing_warp_barrier, "shared memory", "another thread of the block")
FINDS(local_of_another, "a local variable of another thread")
FINDS(past_dynamic_shared, "thread (63,0,0)", "dynamic shared memory")

Test(simulator, refuses_launches)
{
    Data d = new_data();
    launch_too_much_shared(d.stream, d.device, N);
    cr_assert_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
    launch_no_blocks(d.stream, d.device, N);
    cr_assert_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
}

Test(simulator, finds_blank_memory)
{
    Data d = new_data();
    float *blank;
    must(cudaMalloc((void **)&blank, N * sizeof(float)));
    launch_scale(d.stream, blank, N);
    const char *words[] = {"scale", "nobody has written", NULL};
    check_report(cudaStreamSynchronize(d.stream), words);
}

Test(simulator, finds_freed_memory)
{
    Data d = new_data();
    must(cudaFree(d.device));
    launch_scale(d.stream, d.device, N);
    const char *words[] = {"outside of all allocations", NULL};
    check_report(cudaStreamSynchronize(d.stream), words);
}

Test(simulator, finds_a_missing_event)
{
    Data d = new_data();
    cudaStream_t compute = new_stream();
    must(cudaMemcpyAsync(d.device, d.host, N * sizeof(float), cudaMemcpyHostToDevice, d.stream));
    launch_scale(compute, d.device, N);
    cudaError_t first = cudaStreamSynchronize(d.stream), second = cudaStreamSynchronize(compute);
    const char *words[] = {"an operation of another stream, with no event between", NULL};
    check_report(first != cudaSuccess ? first : second, words);
}

Test(simulator, finds_a_stream_that_a_capture_lost)
{
    Data d = new_data();
    cudaStream_t side = new_stream();
    cudaEvent_t fork = new_event();
    cudaGraph_t graph;
    must(cudaStreamBeginCapture(d.stream, cudaStreamCaptureModeThreadLocal));
    must(cudaEventRecord(fork, d.stream));
    must(cudaStreamWaitEvent(side, fork, 0));
    launch_scale(side, d.device, N);
    cr_assert_eq(cudaStreamEndCapture(d.stream, &graph), cudaErrorStreamCaptureUnjoined);
}

Test(simulator, finds_waiting_in_a_capture)
{
    Data d = new_data();
    cudaGraph_t graph;
    must(cudaStreamBeginCapture(d.stream, cudaStreamCaptureModeThreadLocal));
    cr_assert_eq(cudaStreamSynchronize(d.stream), cudaErrorStreamCaptureUnsupported);
    cr_assert_eq(cudaStreamEndCapture(d.stream, &graph), cudaErrorStreamCaptureInvalidated);
}

Test(simulator, refuses_pageable_memory_in_asynchronous_copies)
{
    Data d = new_data();
    float pageable[N] = {0};
    cr_assert_eq(
        cudaMemcpyAsync(d.device, pageable, sizeof pageable, cudaMemcpyHostToDevice, d.stream),
        cudaErrorInvalidValue);
}

Test(simulator, stops_a_host_that_touches_device_memory, .signal = SIGSEGV)
{
    Data d = new_data();
    fprintf(stderr, "%g\n", d.device[0]);
}

/* A staging buffer that is filled again before its copy is over gives wrong data, under some order.
 */
Test(simulator, shows_reused_staging)
{
    int n_wrong = 0;
    Data d = new_data();
    float *other;
    must(cudaMalloc((void **)&other, N * sizeof(float)));
    for (int turn = 0; turn < 20; turn++) {
        for (int i = 0; i < N; i++) d.host[i] = 1;
        must(
            cudaMemcpyAsync(d.device, d.host, N * sizeof(float), cudaMemcpyHostToDevice, d.stream));
        for (int i = 0; i < N; i++) d.host[i] = 2;
        must(cudaMemcpyAsync(other, d.host, N * sizeof(float), cudaMemcpyHostToDevice, d.stream));
        must(cudaStreamSynchronize(d.stream));
        fetch(&d);
        n_wrong += d.host[0] != 1;
    }
    cr_assert_gt(n_wrong, 0);
}
