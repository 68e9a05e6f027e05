/* The CUDA backend: opens the device, dispatches binds, owns device memory, streams and pinned
 * staging, and records runs as CUDA graphs. See cuda.h.
 *
 * Called by kernels/plugin.c (retort_plugin_open), by the executor through Backend, and by the
 * kernel files (cuda_ready, cuda_stream, ...). Must hold: every library call is checked; dtypes are
 * checked here once, against the types string of ops.def, so that kernels need not.
 */
#include "kernels/cuda/cuda.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "kernels/comm/launch.h"
#include "kernels/cuda/nccl.h"
#include "kernels/plan/scratch.h"
#include "kernels/plugin.h"

enum { STAGING_BYTES = 8 << 20 };

typedef Status (*BindFn)(Backend *backend, KernelCall *call);

static const BindFn binds[OP_COUNT] = {
#define DIFF(ID, name, Attr, types, needs, flags, ulps) [OP_##ID] = cuda_##name,
#define PLAIN(ID, name, Attr, types, flags, ulps) [OP_##ID] = cuda_##name,
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN
};

Status cuda_fail(const char *what, const char *why)
{
    return status_fail(E_DEVICE, "cuda: %s: %s", what, why);
}

/* A view is another shape for the same memory; the engine resolves it and never binds one. */
Status cuda_reshape(Backend *backend, KernelCall *call)
{
    (void)backend, (void)call;
    assert(!"views have no kernel");
    return OK;
}

/* ---- failures of run functions ---- */

static Cuda *cuda_of(const KernelCall *call) { return call->context; }

bool cuda_ready(const KernelCall *call) { return cuda_of(call)->failure == OK; }

cudaStream_t cuda_stream(const KernelCall *call) { return cuda_of(call)->compute; }

void cuda_note(const KernelCall *call, const char *what, const char *why)
{
    Cuda *cuda = cuda_of(call);
    if (cuda->failure != OK) return;
    cuda->failure = E_DEVICE;
    snprintf(cuda->message, sizeof cuda->message, "%s: %s on cuda: %s: %s", call->label,
             op_info(call->op)->name, what, why);
}

void cuda_launched(const KernelCall *call, const char *kernel)
{
    cudaError_t error = cudaPeekAtLastError();
    if (error != cudaSuccess) cuda_note(call, kernel, cudaGetErrorString(error));
}

/* ---- bind ---- */

static Status bind(Backend *backend, KernelCall *call)
{
    assert(call->op > OP_NONE && call->op < OP_COUNT);
    call->context = backend->context;
    call->scratch_bytes = scratch_bytes(call);
    TRY(call_check_dtypes(call, "cuda"));
    TRY(call_check_counts(call, "cuda"));
    return binds[call->op](backend, call);
}

/* ---- memory ---- */

/* Where `later` must not pass what `earlier` holds so far. */
static Status order(cudaStream_t earlier, cudaEvent_t event, cudaStream_t later)
{
    CUDA_TRY(cudaEventRecord(event, earlier));
    CUDA_TRY(cudaStreamWaitEvent(later, event, 0));
    return OK;
}

static Status alloc_device(Backend *backend, size_t bytes, void **out)
{
    Cuda *cuda = backend->context;
    size_t available = 0, total = 0;
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* this failure is told here; later checks must not meet it */
        CUDA_TRY(cudaMemGetInfo(&available, &total));
        return status_fail(
            E_MEMORY,
            "cuda: cannot allocate %.1f MiB, %.1f of %.1f MiB are free; use a smaller "
            "batch, chunk or image",
            (double)bytes / (1 << 20), (double)available / (1 << 20), (double)total / (1 << 20));
    }
    CUDA_TRY(error);
    *out = memory;
    CUDA_TRY(cudaMemsetAsync(memory, 0, bytes ? bytes : 1, cuda->compute));
    CUDA_TRY(cudaStreamSynchronize(cuda->compute));
    return OK;
}

static void free_device(Backend *backend, void *memory, size_t bytes)
{
    (void)backend, (void)bytes;
    (void)cudaFree(memory); /* fails only on a device that has failed before, which was told then */
}

/* Through pinned memory, a part at a time: the host waits only for the part before. */
static Status upload(Backend *backend, void *dst_device, const void *src_host, size_t bytes)
{
    Cuda *cuda = backend->context;
    TRY(order(cuda->compute, cuda->computed, cuda->copy));
    for (size_t at = 0; at < bytes; at += STAGING_BYTES) {
        size_t part = bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES;
        CUDA_TRY(cudaEventSynchronize(cuda->copied));
        memcpy(cuda->staging, (const char *)src_host + at, part);
        CUDA_TRY(cudaMemcpyAsync((char *)dst_device + at, cuda->staging, part,
                                 cudaMemcpyHostToDevice, cuda->copy));
        CUDA_TRY(cudaEventRecord(cuda->copied, cuda->copy));
    }
    CUDA_TRY(cudaStreamWaitEvent(cuda->compute, cuda->copied, 0));
    return OK;
}

static Status download(Backend *backend, void *dst_host, const void *src_device, size_t bytes)
{
    Cuda *cuda = backend->context;
    TRY(order(cuda->compute, cuda->computed, cuda->copy));
    for (size_t at = 0; at < bytes; at += STAGING_BYTES) {
        size_t part = bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES;
        CUDA_TRY(cudaMemcpyAsync(cuda->staging, (const char *)src_device + at, part,
                                 cudaMemcpyDeviceToHost, cuda->copy));
        CUDA_TRY(cudaStreamSynchronize(cuda->copy));
        memcpy((char *)dst_host + at, cuda->staging, part);
    }
    return OK;
}

/* With other ranks a stream is asked again and again: a sum ends when all have come, and the watch over
 * the ranks may end it before. */
static Status finish(const Cuda *cuda, cudaStream_t stream)
{
    const struct timespec nap = {.tv_nsec = 20000};
    if (!cuda->nccl) {
        CUDA_TRY(cudaStreamSynchronize(stream));
        return OK;
    }
    for (cudaError_t error; (error = cudaStreamQuery(stream)) != cudaSuccess;) {
        if (error != cudaErrorNotReady) CUDA_TRY(error);
        TRY(nccl_check(cuda->nccl));
        nanosleep(&nap, NULL);
    }
    return OK;
}

static Status finish_all(const Cuda *cuda)
{
    TRY(nccl_check(cuda->nccl));
    if (cuda->failure != OK) return status_fail(cuda->failure, "%s", cuda->message);
    TRY(finish(cuda, cuda->copy));
    TRY(finish(cuda, cuda->comm));
    return finish(cuda, cuda->compute);
}

/* After a failure the sums under way may wait for ranks that wait for this one. What comes behind them,
 * the marks for the watch too, is done before the run's Comm is closed. */
static Status wait(Backend *backend)
{
    Cuda *cuda = backend->context;
    Status status = finish_all(cuda);
    if (status == OK || !cuda->nccl) return status;
    nccl_end(cuda->nccl);
    (void)cudaStreamSynchronize(cuda->compute); /* the failure is told already */
    (void)cudaStreamSynchronize(cuda->comm);
    return status;
}

/* ---- recorded runs ---- */

static Status record_begin(Backend *backend)
{
    Cuda *cuda = backend->context;
    CUDA_TRY(cudaStreamBeginCapture(cuda->compute, cudaStreamCaptureModeThreadLocal));
    return OK;
}

static Status record_end(Backend *backend, void **recording)
{
    Cuda *cuda = backend->context;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;
    cudaError_t error = cudaStreamEndCapture(cuda->compute, &graph);
    if (cuda->failure != OK) return status_fail(cuda->failure, "%s", cuda->message);
    CUDA_TRY(error);
    error = cudaGraphInstantiate(&executable, graph, 0);
    CUDA_TRY(cudaGraphDestroy(graph));
    CUDA_TRY(error);
    *recording = executable;
    return OK;
}

static Status replay(Backend *backend, void *recording)
{
    Cuda *cuda = backend->context;
    CUDA_TRY(cudaGraphLaunch(recording, cuda->compute));
    return OK;
}

static void recording_free(void *recording) { (void)cudaGraphExecDestroy(recording); }

/* ---- life ---- */

static void destroy(Cuda *cuda)
{
    nccl_close(cuda->nccl);
    if (cuda->cudnn) (void)cudnnDestroy(cuda->cudnn);
    if (cuda->cublaslt) (void)cublasLtDestroy(cuda->cublaslt);
    if (cuda->staging) (void)cudaFreeHost(cuda->staging);
    if (cuda->copied) (void)cudaEventDestroy(cuda->copied);
    if (cuda->computed) (void)cudaEventDestroy(cuda->computed);
    if (cuda->summable) (void)cudaEventDestroy(cuda->summable);
    if (cuda->summed) (void)cudaEventDestroy(cuda->summed);
    if (cuda->compute) (void)cudaStreamDestroy(cuda->compute);
    if (cuda->copy) (void)cudaStreamDestroy(cuda->copy);
    if (cuda->comm) (void)cudaStreamDestroy(cuda->comm);
    free(cuda);
}

static void close_device(Backend *backend)
{
    destroy(backend->context);
    free(backend);
}

/* Of several GPUs a rank takes that of its number on this host. One alone is taken as it is: either
 * the launcher shows each rank its own, or NCCL will say that two ranks share it. */
static Status find_device(int *device)
{
    int n = 0;
    Launch launch;
    TRY(launch_from_environment(&launch));
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess || n == 0)
        return status_fail(
            E_UNSUPPORTED,
            "backend \"cuda\": no usable GPU or driver on this machine (%s); use \"cpu\"",
            cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
    *device = n == 1 ? 0 : launch.local_rank;
    if (*device < n) return OK;
    return status_fail(E_UNSUPPORTED,
                       "backend \"cuda\": rank %d is number %d on this host, which has %d GPUs; "
                       "start at most one rank per GPU",
                       launch.rank, launch.local_rank, n);
}

static Status attribute(const Cuda *cuda, enum cudaDeviceAttr which, int *out)
{
    CUDA_TRY(cudaDeviceGetAttribute(out, which, cuda->device));
    return OK;
}

/* Kernels are built for sm_80 and up (build.mk); an older GPU would say so at the first launch only. */
static Status check_capability(const Cuda *cuda)
{
    int major = 0, minor = 0;
    TRY(attribute(cuda, cudaDevAttrComputeCapabilityMajor, &major));
    TRY(attribute(cuda, cudaDevAttrComputeCapabilityMinor, &minor));
    if (major >= 8) return OK;
    return status_fail(E_UNSUPPORTED,
                       "backend \"cuda\": the GPU has compute capability %d.%d, 8.0 is needed "
                       "(A100 or newer); use \"cpu\"",
                       major, minor);
}

static Status create(Cuda *cuda)
{
    CUDA_TRY(cudaSetDevice(cuda->device));
    TRY(check_capability(cuda));
    CUDA_TRY(cudaDeviceGetAttribute(&cuda->n_multiprocessors, cudaDevAttrMultiProcessorCount,
                                    cuda->device));
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->compute, cudaStreamNonBlocking));
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->copy, cudaStreamNonBlocking));
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->comm, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->copied, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->computed, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->summable, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->summed, cudaEventDisableTiming));
    CUDA_TRY(cudaMallocHost(&cuda->staging, STAGING_BYTES));
    CUDNN_TRY(cudnnCreate(&cuda->cudnn));
    CUDNN_TRY(cudnnSetStream(cuda->cudnn, cuda->compute));
    CUBLAS_TRY(cublasLtCreate(&cuda->cublaslt));
    return OK;
}

/* The plug-in's one exported function. See kernels/plugin.h. */
__attribute__((visibility("default"))) Status retort_plugin_open(PluginAbi program, int n_threads,
                                                                 Backend **out)
{
    PluginAbi own = PLUGIN_ABI;
    if (memcmp(&program, &own, sizeof own) != 0)
        return status_fail(E_UNSUPPORTED, "the CUDA plug-in is of another build than the program; "
                                          "build both from the same sources");
    int device;
    TRY(find_device(&device));
    Cuda *cuda = mem_alloc(sizeof *cuda);
    cuda->device = device;
    Status status = create(cuda);
    if (status != OK) {
        destroy(cuda);
        return status;
    }
    Backend *backend = mem_alloc(sizeof *backend);
    *backend = (Backend){.name = "cuda",
                         .n_threads = n_threads,
                         .low = DT_BF16,
                         .recording = true,
                         .context = cuda,
                         .bind = bind,
                         .alloc = alloc_device,
                         .free = free_device,
                         .upload = upload,
                         .download = download,
                         .wait = wait,
                         .record_begin = record_begin,
                         .record_end = record_end,
                         .replay = replay,
                         .recording_free = recording_free,
                         .close = close_device};
    *out = backend;
    return OK;
}
