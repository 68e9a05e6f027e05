/* The reference kernels on double tensors. Bound by ref.c. */
#define REAL double
#define FN(name) ref_##name##_f64
#include "kernels/ref/ref_all.inc"
