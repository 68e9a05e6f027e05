/* What all backends do alike with a call before they pick a kernel for it.
 *
 * Used by the backends' bind. The plug-ins take these functions from the program, as they do
 * op_info.
 */
#ifndef RETORT_KERNELS_CALL_H
#define RETORT_KERNELS_CALL_H

#include "kernels/backend.h"

/* call_unsupported: E_UNSUPPORTED with "<label>: <op> on <backend>: <message>". */
Status call_unsupported(const KernelCall *call, const char *backend, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* call_check_dtypes: every operand's dtype is one that the op table allows: 'l' is f32, bf16 or
 * f16. errors  E_UNSUPPORTED naming operand and dtype */
Status call_check_dtypes(const KernelCall *call, const char *backend);

/* call_check_counts: no operand has more elements than 32 bits count, as kernels of GPUs do.
 * errors  E_UNSUPPORTED naming the operand */
Status call_check_counts(const KernelCall *call, const char *backend);

#endif
