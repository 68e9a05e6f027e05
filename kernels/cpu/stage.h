/* Staging: operands in a dtype that a library kernel does not take are converted whole, in the
 * scratch.
 *
 * Called by matmul.c and conv*.c. oneDNN 2.6 computes in f32 or, on some processors, bf16; f16
 * storage, and bf16 on all other processors, is therefore converted to f32 before and back after
 * each product: right, and slow (it costs one more pass over each operand).
 *
 * Must hold: stage_plan in bind books the bytes that stage_in and stage_out use in run.
 */
#ifndef RETORT_KERNELS_CPU_STAGE_H
#define RETORT_KERNELS_CPU_STAGE_H

#include "kernels/cpu/cpu.h"

typedef struct Stage {
    bool used;
    size_t offset; /* of the f32 copy in the scratch, bytes */
} Stage;

/* stage_book: books bytes in the call's scratch at a 64-byte boundary.  returns their offset */
size_t stage_book(KernelCall *call, size_t bytes);

/* stage_plan: a copy for `tensor` if its dtype is not `wanted` (f32, where a copy is needed). */
Stage stage_plan(KernelCall *call, const Tensor *tensor, DType wanted);

/* stage_in: the data of a source in the wanted dtype, converted now if need be.
 * stage_target: where a destination is to be computed; stage_out then converts it to its dtype. */
const void *stage_in(const KernelCall *call, const Stage *stage, const Tensor *tensor);
void *stage_target(const KernelCall *call, const Stage *stage, const Tensor *tensor);
void stage_out(const KernelCall *call, const Stage *stage, const Tensor *tensor);

#endif
