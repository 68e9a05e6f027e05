/* The boundary between the engine and what computes: a backend binds calls, runs them and owns
 * memory.
 *
 * Life of a call: the engine fills op, attr, dtypes and shapes (data still NULL) and asks `bind`,
 * which picks a kernel, builds library primitives and states the scratch it needs; the planner
 * places every tensor and the scratch; the engine fills the data pointers and then calls `run` once
 * per execution, with nothing decided and nothing allocated any more.
 *
 * Backends: "ref" (plain loops in f32 or f64, defines every op), "cpu" (oneDNN and vectorised C,
 * f32, bf16, f16 storage), "cuda" (a plug-in). All bind every row of the op table; a shape or dtype
 * that one cannot do fails in bind, never at run time and never by moving to another device.
 *
 * Invariants
 *  1. A kernel writes its destinations and its scratch, nothing else; sources are const.
 *  2. Destinations not marked '!' hold garbage before the call; those marked '!' hold their old
 * value.
 *  3. No destination overlaps a source, except dst 0 on src 0 where the row says INPLACE (equal
 * dtypes and shapes), and '!' destinations.
 *  4. With equal n_threads a kernel gives equal bits, every time.
 */
#ifndef RETORT_KERNELS_BACKEND_H
#define RETORT_KERNELS_BACKEND_H

#include "base/status.h"
#include "kernels/ops.h"

typedef struct KernelCall KernelCall;
struct KernelCall {
    OpId op;
    const char *label; /* module path, for messages and profiles; never NULL */
    const OpAttr *attr;
    int n_src, n_dst;
    Tensor src[OP_MAX_SRC]; /* dtype DT_NONE: absent */
    Tensor dst[OP_MAX_DST];
    int n_threads;
    /* filled by bind */
    void (*run)(const KernelCall *call);
    size_t scratch_bytes;
    void *context;                /* the backend's own, e.g. its streams */
    void *state;                  /* the call's own, e.g. oneDNN primitives */
    void (*release)(void *state); /* NULL if there is nothing to free */
    /* filled by the engine after planning */
    void *scratch; /* 64-byte aligned */
};

typedef struct Backend Backend;
struct Backend {
    const char *name;
    int n_threads;
    DType low; /* the fast low precision here: DT_BF16, or DT_F32 if there is none (precision
                  "auto") */
    /* set by whoever opened it, before anything is bound */
    bool tf32;      /* products of f32 may round their sources to TF32; false unless asked for */
    bool sync; /* wait after every call, so that a failure names its op; false unless asked for */
    bool recording; /* replay runs as one launch where that can be done; true unless refused */
    void *context;
    /* The ranks that ALL_REDUCE sums over; set before the first bind, not owned. NULL: one rank. */
    struct Comm *comm;
    /* bind: see above. errors  E_UNSUPPORTED naming op, label, dtype or shape; E_MEMORY */
    Status (*bind)(Backend *backend, KernelCall *call);
    /* one allocation per run; zero-filled. errors  E_MEMORY with bytes wanted */
    Status (*alloc)(Backend *backend, size_t bytes, void **out);
    void (*free)(Backend *backend, void *memory, size_t bytes);
    Status (*upload)(Backend *backend, void *dst_device, const void *src_host, size_t bytes);
    Status (*download)(Backend *backend, void *dst_host, const void *src_device, size_t bytes);
    /* wait: all launched work is finished. errors  E_DEVICE */
    Status (*wait)(Backend *backend);
    /* A run as one launch; all four NULL where a backend has no such thing. Between record_begin
     * and record_end calls are noted instead of run, with the addresses they have; replay runs them
     * all. errors  E_DEVICE */
    Status (*record_begin)(Backend *backend);
    Status (*record_end)(Backend *backend, void **recording);
    Status (*replay)(Backend *backend, void *recording);
    void (*recording_free)(void *recording);
    void (*close)(Backend *backend);
};

/* backend_open: a backend by name.
 * units   n_threads compute threads, 0 = all cores
 * errors  E_CONFIG for an unknown name (lists the known), E_UNSUPPORTED if this build or machine
 * lacks it */
Status backend_open(const char *name, int n_threads, Backend **out);
void backend_close(Backend *backend);

#endif
