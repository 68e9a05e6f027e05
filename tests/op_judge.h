/* Kernels of any backend against the reference in f64, for the test programs of the backends.
 *
 * A call is a node of a case's graph, forward or backward (op_bench.h). Its sources are rounded to
 * the dtypes under test; the reference computes in f64 from the rounded values, so only the kernel
 * is judged. Besides the numbers: nothing is written but destinations and scratch (guard bands,
 * constant sources), no destination or scratch is read before it is written (they start as NaN),
 * equal calls give equal bits, and what the table calls INPLACE gives equal bits in place.
 *
 * Tolerance, as a part of the largest magnitude of a destination: the rounding of its dtype when it
 * is stored, plus ulps * eps(float32) * sqrt(reduction length), since all kernels accumulate in
 * f32. The ulps are the table's; 0 means that the op only moves data, and then the bits must be
 * right.
 */
#ifndef RETORT_TESTS_OP_JUDGE_H
#define RETORT_TESTS_OP_JUDGE_H

#include "kernels/backend.h"

enum { JUDGE_MAX_MODES = 8 };

/* A way to run an op: operands of kind 'l' and 'a' in `low`. */
typedef struct JudgeMode {
    const char *backend;
    int n_threads;
    DType low;
} JudgeMode;

/* judge_op: every call of `op` in every case, in every mode; fails the running test where one is
 * wrong, and if there is no case. */
void judge_op(OpId op, const JudgeMode *modes, int n_modes);

#endif
