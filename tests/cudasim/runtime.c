/* The rest of the CUDA runtime's entry points that the backend uses, the seeded sequence, and the
 * one report of a fault.
 *
 * Only what is used is here: another entry point is an undefined symbol when the plug-in is linked.
 */
#include "tests/cudasim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PINNED = 64, MAX_KERNELS = 512, DEFAULT_SHARED_BYTES = 48 << 10 };

static struct {
    char report[800];
    uint64_t random;
    cudaError_t last_error;
    struct {
        char *begin;
        size_t bytes;
    } pinned[MAX_PINNED];
    struct {
        const void *kernel;
        size_t bytes;
    } shared[MAX_KERNELS];
    int n_shared;
} sim;

/* ---- reports ---- */

void sim_report(const char *format, ...)
{
    if (!sim.report[0]) {
        char what[400], where[120] = "";
        va_list args;
        va_start(args, format);
        vsnprintf(what, sizeof what, format, args);
        va_end(args);
        if (sim_thread() >= 0) sim_thread_text(where, sizeof where);
        const char *call = sim_call_name(), *op = sim_op_name();
        snprintf(sim.report, sizeof sim.report, "%s%s%s%s%s%s%s", call ? call : "",
                 call ? ": " : "", op ? op : "", op ? ": " : "", where, where[0] ? " " : "", what);
    }
    if (sim_thread() >= 0) sim_kernel_abort();
}

bool sim_failed(void) { return sim.report[0] != '\0'; }
const char *sim_report_text(void) { return sim.report; }

/* splitmix64 */
uint32_t sim_random(uint32_t n)
{
    if (!sim.random) {
        const char *seed = getenv("CUDASIM_SEED");
        sim.random = 0x9e3779b97f4a7c15u * (seed ? strtoull(seed, NULL, 10) + 1 : 2);
    }
    uint64_t z = sim.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * n >> 32);
}

/* ---- errors ---- */

void cudasim_set_error(cudaError_t error)
{
    if (error != cudaSuccess) sim.last_error = error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return sim_failed() ? cudaErrorLaunchFailure : sim.last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();
    sim.last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return sim.report;
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    default: return "unspecified error";
    }
}

/* ---- the device: as an A100 ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    (void)device;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess; /* so that small cases fill it */
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SIM_SHARED_BYTES; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 8; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
    default: return cudaErrorInvalidValue;
    }
}

cudaError_t cudaDeviceSynchronize(void)
{
    if (sim_is_capturing()) return cudaErrorStreamCaptureUnsupported;
    sim_drain_all();
    return sim_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *available = sim_free_bytes();
    *total = sim_total_bytes();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    if (sim_failed()) return cudaErrorLaunchFailure;
    if (sim_is_capturing()) return cudaErrorStreamCaptureUnsupported;
    *memory = sim_malloc(bytes);
    if (!*memory) sim.last_error = cudaErrorMemoryAllocation;
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

/* Waits for the device, as the real one does. */
cudaError_t cudaFree(void *memory)
{
    if (!memory) return cudaSuccess;
    sim_drain_all();
    return sim_free(memory) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    for (int i = 0; i < MAX_PINNED; i++) {
        if (sim.pinned[i].begin) continue;
        *memory = sim.pinned[i].begin = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        sim.pinned[i].bytes = bytes;
        return cudaSuccess;
    }
    return cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory)
{
    sim_drain_all();
    for (int i = 0; i < MAX_PINNED; i++) {
        if (sim.pinned[i].begin != memory) continue;
        free(memory);
        sim.pinned[i].begin = NULL;
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

bool sim_is_pinned(const void *address, size_t n_bytes)
{
    for (int i = 0; i < MAX_PINNED; i++) {
        const char *begin = sim.pinned[i].begin;
        if (begin && (const char *)address >= begin &&
            (const char *)address + n_bytes <= begin + sim.pinned[i].bytes)
            return true;
    }
    return false;
}

/* ---- kernels' attributes ---- */

size_t sim_allowed_shared(const void *kernel)
{
    for (int i = 0; i < sim.n_shared; i++)
        if (sim.shared[i].kernel == kernel) return sim.shared[i].bytes;
    return DEFAULT_SHARED_BYTES;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
    if (value < 0 || value > SIM_SHARED_BYTES) return cudaErrorInvalidValue;
    size_t bytes = value > DEFAULT_SHARED_BYTES ? (size_t)value : DEFAULT_SHARED_BYTES;
    for (int i = 0; i < sim.n_shared; i++)
        if (sim.shared[i].kernel == kernel) {
            sim.shared[i].bytes = bytes;
            return cudaSuccess;
        }
    if (sim.n_shared == MAX_KERNELS) return cudaErrorMemoryAllocation;
    sim.shared[sim.n_shared].kernel = kernel;
    sim.shared[sim.n_shared++].bytes = bytes;
    return cudaSuccess;
}
