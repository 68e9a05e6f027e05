/* The inside of the CUDA simulator: a device that runs kernels on fibers and checks every access.
 *
 * Read on: block.c (threads of a block), memory.c (device memory and what each access must obey),
 * stream.c (streams, events, recorded graphs), runtime.c, cublaslt.c, cudnn.c, nccl.c (the vendors'
 * entry points), watch.c (the plug-in; tells the device what an op may touch), device.h (CUDA C for
 * g++).
 *
 * The device is one per process and used under one lock. Its orders (of threads, of streams) are
 * drawn from CUDASIM_SEED, 1 if unset: another seed is another legal order.
 *
 * A fault is reported once: sim_report keeps its text, every entry point returns
 * cudaErrorLaunchFailure from then on, and cudaGetErrorString gives the text.
 */
#ifndef RETORT_TESTS_CUDASIM_SIM_H
#define RETORT_TESTS_CUDASIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

/* ---- reports ---- */

/* sim_report: the first fault of the process; later ones are consequences and are dropped. The
 * kernel, thread and block that run now are put in front. Inside a kernel it does not return. */
void sim_report(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool sim_failed(void);
const char *sim_report_text(void);

/* sim_random: the next number of the seeded sequence, below n. */
uint32_t sim_random(uint32_t n);

/* ---- what an op may touch ---- */

typedef enum SimRole { SIM_SOURCE, SIM_DESTINATION, SIM_STATE, SIM_SCRATCH } SimRole;

typedef struct SimOperand {
    uintptr_t begin, end;
    SimRole role; /* SIM_STATE: a destination that is changed in place */
    int index;
    int element_bytes;
} SimOperand;

enum { SIM_MAX_OPERANDS = 16 };

typedef struct SimCall {
    char name[120]; /* "<label>: <op>" */
    int n_operands;
    SimOperand operands[SIM_MAX_OPERANDS];
} SimCall;

/* ---- order ---- */

enum { SIM_MAX_STREAMS = 16 };

/* What is ordered before an operation: of each stream, the operations up to this number. */
typedef struct SimClock {
    uint32_t seen[SIM_MAX_STREAMS];
} SimClock;

/* ---- memory ---- */

/* sim_malloc: device memory, never at an address used before; NULL: none left. */
void *sim_malloc(size_t bytes);
bool sim_free(void *memory);
bool sim_is_device(const void *address);
/* Setting a whole allocation to 0 before anybody touched it costs nothing; false: it is not such.
 */
bool sim_clear_fresh(const void *memory, size_t bytes);
size_t sim_free_bytes(void);
size_t sim_total_bytes(void);

/* Device memory can be touched between these only; elsewhere the host that reads it is stopped. */
void sim_device_open(void);
void sim_device_close(void);

/* sim_op_begin: what is touched until sim_op_end is done by operation `number` of a stream, which
 * knows what `clock` says, for `call` (NULL: none). */
void sim_op_begin(const char *name, const SimCall *call, int stream, uint32_t number,
                  const SimClock *clock);
void sim_op_end(void);
const char *sim_op_name(void);   /* the kernel, copy or library call that runs; NULL: none */
const char *sim_call_name(void); /* what it is done for; NULL: nothing in particular */

/* sim_touch: a library or a copy reads or writes device memory. false: a fault was reported. */
bool sim_touch(const void *address, size_t bytes, bool write);

/* sim_call_begin: destinations and scratch hold nothing now.  sim_call_end: destinations must have
 * been written whole. */
void sim_call_begin(const SimCall *call);
void sim_call_end(const SimCall *call);

/* The same for kernels, from the hooks of instrumented code. */
void sim_access(uintptr_t address, size_t bytes, bool write, bool atomic, size_t alignment);

/* A block begins; a barrier was passed: what was done before is ordered before what comes. */
void sim_block_begin(void);
void sim_interval_begin(void);

/* ---- blocks ---- */

typedef struct SimKernel {
    const char *name;
    const void *kernel;
    uint3 grid, block;
    size_t shared_bytes;
    void *args;
    size_t args_bytes;
    void (*run)(const void *kernel, const void *args);
} SimKernel;

/* sim_kernel_run: all blocks, one after the other in a drawn order. */
void sim_kernel_run(const SimKernel *kernel);

enum { SIM_MAX_THREADS = 1024, SIM_STACK_BYTES = 128 << 10, SIM_SHARED_BYTES = 163 << 10 };

/* The thread that runs now; -1 outside of kernels. */
int sim_thread(void);
/* How often its warp was synchronised since the block's last barrier. */
unsigned sim_warp_interval(void);
/* "thread (1,0,0) of block (2,0,0)" */
const char *sim_thread_text(char *buffer, size_t bytes);
/* Leaves the kernel for good; comes back only if called beside its threads. */
void sim_kernel_abort(void);

/* Where things lie: fibers' stacks, arguments, shared memory of the block that runs. */
typedef enum SimPlace { SIM_ELSEWHERE, SIM_OWN_STACK, SIM_OTHER_STACK, SIM_ARGS } SimPlace;
SimPlace sim_place(uintptr_t address);
/* Offset in the block's shared memory (static after dynamic); -1: it lies elsewhere. */
int64_t sim_shared_offset(uintptr_t address, size_t bytes);

/* ---- streams ---- */

/* sim_stream_function: `run(data)` in stream order, where it may use sim_touch; data, from malloc,
 * is freed after it. */
cudaError_t sim_stream_function(cudaStream_t stream, const char *name, void (*run)(void *data),
                                void *data);
/* sim_stream_gated: the same, not before `ready(data)` is true; that is up to other processes. */
cudaError_t sim_stream_gated(cudaStream_t stream, const char *name, bool (*ready)(void *data),
                             void (*run)(void *data), void *data);
void sim_stream_call(cudaStream_t stream, const SimCall *call, bool begin);
/* sim_drain_all: does all that is queued on any stream. */
void sim_drain_all(void);
bool sim_is_capturing(void);
/* sim_is_pinned: whether these bytes are of one allocation of pinned host memory. */
bool sim_is_pinned(const void *address, size_t n_bytes);
/* What cudaGetLastError gives; success does not overwrite an error. */
void cudasim_set_error(cudaError_t error);
void sim_allow_shared(const void *kernel, size_t bytes);
size_t sim_allowed_shared(const void *kernel);

#endif
