/* Activations over rows. See activation.h. */
#include "kernels/cpu/activation.h"

#include "kernels/cpu/math.h"

#include <string.h>

/* `ivdep`: the rows are one and the same or do not overlap, which the compiler cannot know. */
#define EACH(statement)                                                 \
    do {                                                                \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) statement; \
        return;                                                         \
    } while (0)

void activation_row(Activation kind, int64_t n, const float *x, float *y)
{
    switch (kind) {
    case ACT_NONE:
        if (x != y) memcpy(y, x, (size_t)n * sizeof *y);
        return;
    case ACT_RELU: EACH(y[i] = math_relu(x[i]));
    case ACT_GELU_TANH: EACH(y[i] = math_gelu_tanh(x[i]));
    case ACT_GELU_ERF: EACH(y[i] = math_gelu_erf(x[i]));
    case ACT_HARDSWISH: EACH(y[i] = math_hardswish(x[i]));
    }
}

void activation_grad_row(Activation kind, int64_t n, const float *x, const float *dy, float *dx)
{
    switch (kind) {
    case ACT_NONE:
        if (dy != dx) memcpy(dx, dy, (size_t)n * sizeof *dx);
        return;
    case ACT_RELU: EACH(dx[i] = dy[i] * math_relu_grad(x[i]));
    case ACT_GELU_TANH: EACH(dx[i] = dy[i] * math_gelu_tanh_grad(x[i]));
    case ACT_GELU_ERF: EACH(dx[i] = dy[i] * math_gelu_erf_grad(x[i]));
    case ACT_HARDSWISH: EACH(dx[i] = dy[i] * math_hardswish_grad(x[i]));
    }
}
