/* Where the time of a step goes: tables for the terminal, and a trace for Chrome and Perfetto.
 *
 * Used by `bench` and, with run.profile, by the training loop, after runs with exec_profile on.
 * GFLOP are 2 x multiply-adds; bytes are those of a kernel's operands.
 */
#ifndef RETORT_TRAIN_PROFILE_H
#define RETORT_TRAIN_PROFILE_H

#include <stdio.h>

#include "autograd/exec.h"

/* profile_measure_peak: GFLOP/s of one large matrix product in `precision`: what this machine can
 * do. errors  those of exec_create and exec_run; E_UNSUPPORTED for a precision the backend lacks */
Status profile_measure_peak(Backend *backend, DType precision, double *gflops);

/* profile_print: per step, by layer, by op, and the slowest twenty nodes: time, share of the step,
 * executions, GFLOP/s, GB/s and the share of the peak. A layer is a module path up to its first
 * number; its backward pass is a row of its own. */
void profile_print(FILE *out, const Graph *graph, const Exec *exec, double peak_gflops);

/* profile_write_trace: the last run as Chrome's trace events (a JSON object): layers, and in them
 * every execution of a kernel with its module path, shape and rate. errors  E_FILE */
Status profile_write_trace(const char *path, const Graph *graph, const Exec *exec);

#endif
