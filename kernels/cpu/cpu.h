/* The CPU backend: oneDNN for matrix products and for convolutions in bf16, own vectorised C for
 * the rest, all cores.
 *
 * One bind function per op, cpu_<name>: it checks dtypes and shapes, sets call->run and
 * call->scratch_bytes and, for oneDNN, call->state and call->release. dnnl.h is included in
 * onednn.h only.
 *
 * Dtypes. Every kernel takes f32, bf16 and f16 storage for operands of kind 'a' and 'l' (mixed,
 * too), and computes in f32: it works on rows (blocks of at most CPU_BLOCK elements), and cpu_load
 * gives a pointer to the row itself when it is f32 and a converted copy otherwise, so there is one
 * source and f32 pays nothing.
 *
 * Threads. OpenMP, always `num_threads(call->n_threads) schedule(static)`; reductions over threads
 * go through partial results in the scratch, summed in order: equal bits for equal thread counts.
 */
#ifndef RETORT_KERNELS_CPU_H
#define RETORT_KERNELS_CPU_H

#include "kernels/call.h"

enum { CPU_BLOCK = 1024 }; /* elements of a row that a kernel handles at a time; 4 kB of f32 */

#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    Status cpu_##name(Backend *backend, KernelCall *call);
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN

Status cpu_open(int n_threads, Backend **out);

/* Defines the bind of an op that <name>_run does for all shapes, without scratch. */
#define CPU_BIND(name)                                    \
    Status cpu_##name(Backend *backend, KernelCall *call) \
    {                                                     \
        (void)backend;                                    \
        call->run = name##_run;                           \
        return OK;                                        \
    }

/* cpu_unsupported(call, format, ..): refuses a call; see call_unsupported. */
#define cpu_unsupported(call, ...) call_unsupported((call), "cpu", __VA_ARGS__)

/* cpu_load: n <= CPU_BLOCK elements from element `offset` of a tensor, as f32.
 * returns a pointer into the tensor if it is f32, else `tmp`, filled */
const float *cpu_load(const Tensor *tensor, int64_t offset, int64_t n, float *tmp);
/* cpu_row: where to compute n elements that are to be stored at `offset`: the tensor itself if it
 * is f32, else `tmp`; cpu_store then converts them (no-op for f32). */
float *cpu_row(const Tensor *tensor, int64_t offset, float *tmp);
void cpu_store(const Tensor *tensor, int64_t offset, int64_t n, const float *row);

/* Part of a range that thread `t` of `n` handles: [*begin, *end). */
static inline void cpu_split(int64_t total, int n, int t, int64_t *begin, int64_t *end)
{
    *begin = total * t / n;
    *end = total * (t + 1) / n;
}

static inline bool cpu_present(const Tensor *tensor) { return tensor->dtype != DT_NONE; }

#endif
