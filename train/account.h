/* What is told before step 1: the memory of a plan and its work. Plain text. */
#ifndef RETORT_TRAIN_ACCOUNT_H
#define RETORT_TRAIN_ACCOUNT_H

#include <stdio.h>

#include "autograd/exec.h"

/* account_memory: the plan in MiB: parameters, gradients, optimiser, activations, scratch, peak. */
void account_memory(FILE *out, const Plan *plan);

/* account_macs: multiply-adds of one run of the program, loops included.
 * forward_only: without the nodes of the backward pass */
double account_macs(const Graph *graph, const Plan *plan, bool forward_only);

/* account_call_macs, account_call_bytes: of one execution of a bound kernel; bytes are those of its
 * operands, twice of those that are changed in place. */
double account_call_macs(const KernelCall *call);
double account_call_bytes(const KernelCall *call);

#endif
