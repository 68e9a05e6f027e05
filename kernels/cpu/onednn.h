/* A thin cover over oneDNN, the only place of the project that includes dnnl.h.
 *
 * Called by matmul.c and conv.c. A state is made in bind and holds one primitive with its memory objects;
 * run only sets data pointers and executes. Primitives take their scratchpad from the call's scratch.
 */
#ifndef RETORT_KERNELS_CPU_ONEDNN_H
#define RETORT_KERNELS_CPU_ONEDNN_H

#include <dnnl.h>

#include "kernels/backend.h"

typedef struct OnednnEngine OnednnEngine;

/* onednn_engine_open: the CPU engine and an in-order stream.  errors  E_DEVICE */
Status onednn_engine_open(OnednnEngine **out);
void onednn_engine_free(OnednnEngine *engine);

#endif
