/* The CUDA backend: its context, how errors travel, and one bind function per op.
 *
 * Built twice from the same sources, as plug-ins the program opens by path: libretort_cuda.so
 * (nvcc) and libretort_cudasim.so (g++, against tests/cudasim). See launch.h for what a kernel may
 * use.
 *
 * Life of a call. bind, cuda_<name>(backend, call): checks shapes, picks a kernel, builds library
 * plans, books scratch, as in kernels/backend.h; backend->context is the Cuda. Dtypes were checked
 * against the op table before. run(call): launches on cuda_stream(call), never waits, never
 * allocates, never reads device memory; so a run can be captured into a CUDA graph and replayed.
 * Everything that changes from step to step is read on the device.
 *
 * Errors. bind and the backend's own functions return Status (CUDA_TRY, CUDNN_TRY, CUBLAS_TRY). run
 * returns nothing: LAUNCH and the *_RUN macros note the first failure in the context, later
 * launches are skipped, and the next Backend.wait returns it, naming label and op.
 *
 * Libraries. cuDNN: the backend (graph) API, three single-operation graphs: convolution forward,
 * data and weights; channels last; of the heuristic's engines the first without the numerical note
 * NONDETERMINISTIC. cuBLASLt: cublasLtMatmul with layouts, strided batches and the epilogues
 * DEFAULT, BIAS, GELU_BIAS; a row-major operand is a transposed column-major one. Its heuristic
 * assumes operands aligned to 256 bytes unless the preference says less (slices and chunks are
 * aligned to an element only), and its bias has the dtype of the result: a bf16 product has no f32
 * bias. Workspaces are the call's scratch. NCCL: nccl.h.
 *
 * Invariants
 *  1. No hidden memory: one cudaMalloc per Backend.alloc, everything else is scratch; NCCL's
 *     buffers are its own.
 *  2. Deterministic: no float atomics, no algorithm whose sums have no fixed order.
 *  3. All launches of calls go to one stream; copies and collectives have their own and are ordered
 *     by events.
 */
#ifndef RETORT_KERNELS_CUDA_CUDA_H
#define RETORT_KERNELS_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/call.h"

enum {
    CUDA_SHARED_MAX_BYTES = 163 * 1024, /* of a block on sm_80; sm_90 has more */
    CUDA_MESSAGE_BYTES = 512,
};

typedef struct Cuda {
    int device, n_multiprocessors;
    cudaStream_t compute, copy, comm;
    cudaEvent_t copied;   /* on `copy`: the last upload is in place */
    cudaEvent_t computed; /* on `compute`: what was launched so far */
    cudaEvent_t summable; /* on `compute`: what the next sum over the ranks reads */
    cudaEvent_t summed;   /* on `comm`: the sums begun so far */
    struct Nccl *nccl;    /* NULL: one rank, or nothing was summed yet */
    void *staging;        /* pinned host memory of CUDA_STAGING_BYTES */
    cudnnHandle_t cudnn;
    cublasLtHandle_t cublaslt;
    Status failure; /* the first one of a run function; OK: none */
    char message[CUDA_MESSAGE_BYTES];
} Cuda;

/* One bind function per op; see above. */
#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Status cuda_##name(Backend *backend, KernelCall *call);
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN

/* Defines the bind of an op that <name>_run does for all shapes, without scratch. */
#define CUDA_BIND(name)                                               \
    extern "C" Status cuda_##name(Backend *backend, KernelCall *call) \
    {                                                                 \
        (void)backend;                                                \
        call->run = name##_run;                                       \
        return OK;                                                    \
    }

/* cuda_unsupported(call, format, ..): refuses a call; see call_unsupported. */
#define cuda_unsupported(call, ...) call_unsupported((call), "cuda", __VA_ARGS__)

static inline bool cuda_present(const Tensor *tensor) { return tensor->dtype != DT_NONE; }

/* ---- in run ---- */

/* cuda_ready: false after a failure: nothing more is launched until wait has returned it.
 * cuda_stream: where the call's work goes.
 * cuda_launched: notes the failure of a launch. All three are for the macros of launch.h and below.
 */
bool cuda_ready(const KernelCall *call);
cudaStream_t cuda_stream(const KernelCall *call);
void cuda_launched(const KernelCall *call, const char *kernel);

/* cuda_note: keeps the first failure of a run function, as "<label>: <op> on cuda: <what>: <why>".
 */
void cuda_note(const KernelCall *call, const char *what, const char *why);

#define CUDA_RUN(call, expr)                                                           \
    do {                                                                               \
        cudaError_t error_ = cuda_ready(call) ? (expr) : cudaSuccess;                  \
        if (error_ != cudaSuccess) cuda_note(call, #expr, cudaGetErrorString(error_)); \
    } while (0)
#define CUDNN_RUN(call, expr)                                                                    \
    do {                                                                                         \
        cudnnStatus_t error_ = cuda_ready(call) ? (expr) : CUDNN_STATUS_SUCCESS;                 \
        if (error_ != CUDNN_STATUS_SUCCESS) cuda_note(call, #expr, cudnnGetErrorString(error_)); \
    } while (0)
#define CUBLAS_RUN(call, expr)                                                     \
    do {                                                                           \
        cublasStatus_t error_ = cuda_ready(call) ? (expr) : CUBLAS_STATUS_SUCCESS; \
        if (error_ != CUBLAS_STATUS_SUCCESS)                                       \
            cuda_note(call, #expr, cublasLtGetStatusString(error_));               \
    } while (0)

/* ---- in bind and in the backend's own functions ---- */

/* cuda_fail: E_DEVICE with "cuda: <what>: <why>". */
Status cuda_fail(const char *what, const char *why);

#define CUDA_TRY(expr)                                                                  \
    do {                                                                                \
        cudaError_t error_ = (expr);                                                    \
        if (error_ != cudaSuccess) return cuda_fail(#expr, cudaGetErrorString(error_)); \
    } while (0)
#define CUDNN_TRY(expr)                                                                           \
    do {                                                                                          \
        cudnnStatus_t error_ = (expr);                                                            \
        if (error_ != CUDNN_STATUS_SUCCESS) return cuda_fail(#expr, cudnnGetErrorString(error_)); \
    } while (0)
#define CUBLAS_TRY(expr)                                              \
    do {                                                              \
        cublasStatus_t error_ = (expr);                               \
        if (error_ != CUBLAS_STATUS_SUCCESS)                          \
            return cuda_fail(#expr, cublasLtGetStatusString(error_)); \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
