/* A thin cover over oneDNN, the only place of the project that includes dnnl.h.
 *
 * Called by matmul.c and conv*.c. An OnednnPrimitive is made in bind and holds a primitive with its
 * memory objects; running it only sets data pointers and executes. Scratchpads are the caller's.
 *
 * Must hold: oneDNN divides work when a primitive is made, so both making and running happen with
 * OpenMP's thread count set to the call's.
 */
#ifndef RETORT_KERNELS_CPU_ONEDNN_H
#define RETORT_KERNELS_CPU_ONEDNN_H

#include <dnnl.h>

#include "kernels/backend.h"

enum { ONEDNN_MAX_ARGS = 6 };

typedef struct OnednnEngine OnednnEngine;

/* onednn_engine_open: the CPU engine and an in-order stream.  errors  E_DEVICE */
Status onednn_engine_open(OnednnEngine **out);
void onednn_engine_free(OnednnEngine *engine);

/* Whether this machine has bf16 arithmetic (AVX512-BF16); elsewhere bf16 is computed in f32. */
bool onednn_has_bf16(void);

/* DNNL_TRY: turns a failure of oneDNN into a Status that names the call, the step and oneDNN's
 * status. */
#define DNNL_TRY(call, expr) TRY(onednn_status(call, #expr, expr))
Status onednn_status(const KernelCall *call, const char *step, dnnl_status_t status);

/* onednn_desc: a memory descriptor of `rank` dims with strides in elements, 0 strides = format left
 * to oneDNN.  errors  E_UNSUPPORTED for a dtype oneDNN lacks */
Status onednn_desc(const KernelCall *call, DType dtype, int rank, const int64_t *dims,
                   const int64_t *strides, dnnl_memory_desc_t *out);

typedef struct OnednnPrimitive {
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    int n_args; /* without the scratchpad, which is args[n_args] */
    dnnl_exec_arg_t args[ONEDNN_MAX_ARGS + 1];
    dnnl_memory_desc_t descs[ONEDNN_MAX_ARGS]; /* as oneDNN chose them */
    size_t scratchpad_bytes;
    int n_threads;
} OnednnPrimitive;

/* onednn_make: the primitive of an operation descriptor with arguments DNNL_ARG_* in the order in
 * which run gets their data; a backward convolution's `hint` is the forward descriptor, else NULL.
 * errors  E_UNSUPPORTED if oneDNN has no implementation; E_DEVICE */
Status onednn_make(OnednnEngine *engine, const KernelCall *call, const_dnnl_op_desc_t desc,
                   const dnnl_convolution_desc_t *hint, int n_args, const int *arg_ids,
                   OnednnPrimitive *out);

/* onednn_make_reorder: copies between two layouts or dtypes of one tensor; arguments: from, to. */
Status onednn_make_reorder(OnednnEngine *engine, const KernelCall *call,
                           const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                           OnednnPrimitive *out);

/* onednn_run: executes with data[i] for argument i; `scratchpad` has scratchpad_bytes, 64-byte
 * aligned. */
void onednn_run(const OnednnPrimitive *primitive, const void *const *data, void *scratchpad);

/* onednn_free: of a primitive that was made, or of zeroes. */
void onednn_free(OnednnPrimitive *primitive);

#endif
