/* What is told before step 1 and after a profile: memory, layers, time per op. Plain text. */
#ifndef RETORT_TRAIN_ACCOUNT_H
#define RETORT_TRAIN_ACCOUNT_H

#include <stdio.h>

#include "autograd/exec.h"

/* account_memory: the plan in MiB: parameters, gradients, optimiser, activations, scratch, peak. */
void account_memory(FILE *out, const Plan *plan);

/* account_macs: multiply-adds of one run of the program, loops included.
 * forward_only: without the nodes of the backward pass */
double account_macs(const Graph *graph, const Plan *plan, bool forward_only);

/* account_profile: time, share, GFLOP/s and GB/s by op, and the slowest nodes; GFLOP are 2 x
 * multiply-adds. peak_gflops: what the machine was measured to do, for the share of peak; 0: not
 * shown */
void account_profile(FILE *out, const Graph *graph, const Exec *exec, double peak_gflops);

#endif
