/* Activations over rows of f32; formulas in op_attrs.h, accuracy in math.h.
 * Called by elementwise.c and norm.c, which keep their rows in the first cache level.
 */
#ifndef RETORT_KERNELS_CPU_ACTIVATION_H
#define RETORT_KERNELS_CPU_ACTIVATION_H

#include "kernels/op_attrs.h"

/* activation_row: y = act(x), n elements; y may be x. */
void activation_row(Activation kind, int64_t n, const float *x, float *y);

/* activation_grad_row: dx = dy * act'(x), n elements; dx may be x or dy. */
void activation_grad_row(Activation kind, int64_t n, const float *x, const float *dy, float *dx);

#endif
