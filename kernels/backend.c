/* Opens a backend by name. See backend.h. */
#include "kernels/backend.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/plan/backend.h"
#include "kernels/plugin.h"
#include "kernels/ref/ref.h"

static const struct {
    const char *name;
    Status (*open)(int n_threads, Backend **out); /* NULL: in a plug-in */
    const char *plugin;
} backends[] = {
    {"cpu", cpu_open, NULL},
    {"cuda", NULL, "libretort_cuda.so"},
    {"cudasim", NULL, "libretort_cudasim.so"}, /* the same kernels on the tests' simulator */
    {"plan", plan_open, NULL}, /* what "cuda" would take, without a GPU */
    {"ref", ref_open, NULL},
};

Status backend_open(const char *name, int n_threads, Backend **out)
{
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        if (strcmp(name, backends[i].name) != 0) continue;
        if (backends[i].open) return backends[i].open(n_threads, out);
        return plugin_open(name, backends[i].plugin, n_threads, out);
    }
    return status_fail(E_CONFIG, "unknown backend \"%s\": known are cpu, cuda, ref", name);
}

void backend_close(Backend *backend)
{
    if (backend) backend->close(backend);
}
