/* Backends in shared libraries, so that the program itself links no CUDA and starts anywhere.
 *
 * A plug-in takes the engine's own functions (status_fail, op_info, ...) from the program that
 * opens it: there is one message per thread and one op table. It is built from the same sources as
 * the program; PluginAbi lets each side see that it was.
 */
#ifndef RETORT_KERNELS_PLUGIN_H
#define RETORT_KERNELS_PLUGIN_H

#include "kernels/backend.h"

typedef struct PluginAbi {
    size_t backend_bytes, call_bytes, attr_bytes, n_ops; /* no padding: compared as bytes */
} PluginAbi;

#define PLUGIN_ABI ((PluginAbi){sizeof(Backend), sizeof(KernelCall), sizeof(OpAttr), OP_COUNT})

/* What a plug-in exports under the name "retort_plugin_open".
 * errors  E_UNSUPPORTED if program and plug-in are of different builds or the machine lacks the
 * device; E_DEVICE */
typedef Status (*PluginOpen)(PluginAbi program, int n_threads, Backend **out);
#define PLUGIN_OPEN_SYMBOL "retort_plugin_open"

/* plugin_open: the backend `name` from `file`, which lies in the program's folder.
 * errors  E_UNSUPPORTED naming the file and what is missing, and those of PluginOpen */
Status plugin_open(const char *name, const char *file, int n_threads, Backend **out);

#endif
