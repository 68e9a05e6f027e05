/* The backend "plan": binds what the CUDA backend would bind and books the scratch that it would
 * book, but owns no memory and runs nothing. `retort plan` asks it what a run takes on a GPU that
 * is not here, without the plug-in. Called by kernels/backend.c.
 */
#ifndef RETORT_KERNELS_PLAN_BACKEND_H
#define RETORT_KERNELS_PLAN_BACKEND_H

#include "kernels/backend.h"

Status plan_open(int n_threads, Backend **out);

#endif
