/* The scratch that the CUDA backend's own kernels need, from dtypes and shapes alone: one place for
 * the plug-in, which books it in bind, and for plans on machines without a toolkit or a GPU.
 *
 * What a kernel puts where in its scratch is told beside the kernel; the simulator finds one that
 * leaves it. What cuDNN and cuBLASLt want on top for themselves, only they know: their binds add
 * it, and a plan allows for it (kernels/plan/backend.h).
 */
#ifndef RETORT_KERNELS_PLAN_SCRATCH_H
#define RETORT_KERNELS_PLAN_SCRATCH_H

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/backend.h"

/* scratch_bytes: of a call whose op, attributes, dtypes and shapes are there. For products and
 * dense convolutions: without the library's workspace. */
size_t scratch_bytes(const KernelCall *call);

/* The most that a library may take for one call: the binds refuse algorithms that want more. */
enum { PRODUCT_WORKSPACE_BYTES = 32 << 20, DENSE_WORKSPACE_BYTES = 256 << 20 };

/* scratch_library_bytes: what a plan allows cuBLASLt or cuDNN for a call, which cannot be known
 * without the library: as much as all operands, since what they keep there is copies of operands in
 * another order or parts of the result; at most the limit. 0 for calls of own kernels. */
size_t scratch_library_bytes(const KernelCall *call);

#ifdef __cplusplus
}
#endif
#endif
