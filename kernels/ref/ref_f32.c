/* The reference kernels on float tensors. Bound by ref.c. */
#define REAL float
#define FN(name) ref_##name##_f32
#include "kernels/ref/ref_all.inc"
