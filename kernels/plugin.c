/* Opens backends in shared libraries that lie beside the program. See plugin.h. */
#include "kernels/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Path of `file` in the folder of the running program. */
static Status beside_program(const char *file, char *path, size_t path_bytes)
{
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return status_fail(E_FILE, "cannot read /proc/self/exe");
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    if ((size_t)snprintf(path, path_bytes, "%s/%s", program, file) >= path_bytes)
        return status_fail(E_FILE, "the path of %s is too long", file);
    return OK;
}

Status plugin_open(const char *name, const char *file, int n_threads, Backend **out)
{
    char path[PATH_MAX + 64];
    TRY(beside_program(file, path, sizeof path));
    if (access(path, F_OK) != 0)
        return status_fail(
            E_UNSUPPORTED,
            "backend \"%s\": no plug-in %s; `make CUDA=1` builds it where there is a "
            "CUDA toolkit, or use \"cpu\"",
            name, path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return status_fail(E_UNSUPPORTED, "backend \"%s\": cannot load the plug-in: %s", name,
                           dlerror());
    PluginOpen open = NULL;
    *(void **)&open = dlsym(library, PLUGIN_OPEN_SYMBOL); /* POSIX's way from object to function */
    if (!open)
        return status_fail(E_UNSUPPORTED, "backend \"%s\": %s is no plug-in of this program", name,
                           path);
    return open(PLUGIN_ABI, n_threads, out);
}
