/* The reference backend: plain loops that define every op, one source for float and double.
 * Called by kernels/backend.c through ref_open, and by the tests.
 */
#ifndef RETORT_KERNELS_REF_H
#define RETORT_KERNELS_REF_H

#include "kernels/backend.h"

/* The kernels, ref_<name>_f32 and ref_<name>_f64; each file ref_*.inc is compiled once per type. */
#define DIFF(ID, name, Attr, types, needs, flags, ulps) \
    void ref_##name##_f32(const KernelCall *call);      \
    void ref_##name##_f64(const KernelCall *call);
#define PLAIN(ID, name, Attr, types, flags, ulps) DIFF(ID, name, Attr, types, "", flags, ulps)
#include "kernels/ops.def"
#undef DIFF
#undef PLAIN

Status ref_open(int n_threads, Backend **out);

#endif
