/* Opens a backend by name. See backend.h. */
#include "kernels/backend.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

static Status cuda_missing(int n_threads, Backend **out)
{
    (void)n_threads;
    (void)out;
    return status_fail(E_UNSUPPORTED,
                       "backend \"cuda\": this build has no CUDA plug-in; use \"cpu\"");
}

static const struct {
    const char *name;
    Status (*open)(int n_threads, Backend **out);
} backends[] = {
    {"cpu", cpu_open},
    {"cuda", cuda_missing},
    {"ref", ref_open},
};

Status backend_open(const char *name, int n_threads, Backend **out)
{
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(name, backends[i].name) == 0) return backends[i].open(n_threads, out);
    return status_fail(E_CONFIG, "unknown backend \"%s\": known are cpu, cuda, ref", name);
}

void backend_close(Backend *backend)
{
    if (backend) backend->close(backend);
}
