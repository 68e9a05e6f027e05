/* A backend for plans alone. See backend.h. */
#include "kernels/plan/backend.h"

#include <stdlib.h>

#include "base/memory.h"
#include "kernels/call.h"
#include "kernels/plan/scratch.h"

static void nothing_run(const KernelCall *call) { (void)call; }

static Status bind(Backend *backend, KernelCall *call)
{
    (void)backend;
    TRY(call_check_dtypes(call, "plan"));
    TRY(call_check_counts(call, "plan"));
    call->run = nothing_run;
    call->scratch_bytes = scratch_bytes(call) + scratch_library_bytes(call);
    return OK;
}

static Status no_memory(void)
{
    return status_fail(E_UNSUPPORTED, "backend \"plan\" only plans; to compute, use cpu or cuda");
}

static Status alloc(Backend *backend, size_t bytes, void **out)
{
    (void)backend, (void)bytes, (void)out;
    return no_memory();
}

static Status upload(Backend *backend, void *dst_device, const void *src_host, size_t bytes)
{
    (void)backend, (void)dst_device, (void)src_host, (void)bytes;
    return no_memory();
}

static Status download(Backend *backend, void *dst_host, const void *src_device, size_t bytes)
{
    (void)backend, (void)dst_host, (void)src_device, (void)bytes;
    return no_memory();
}

static void release(Backend *backend, void *memory, size_t bytes)
{
    (void)backend, (void)memory, (void)bytes; /* alloc gave none */
}

static Status wait(Backend *backend)
{
    (void)backend;
    return OK;
}

static void close_backend(Backend *backend) { free(backend); }

Status plan_open(int n_threads, Backend **out)
{
    *out = mem_alloc(sizeof **out);
    **out = (Backend){.name = "plan",
                      .n_threads = n_threads,
                      .low = DT_BF16,
                      .bind = bind,
                      .alloc = alloc,
                      .free = release,
                      .upload = upload,
                      .download = download,
                      .wait = wait,
                      .close = close_backend};
    return OK;
}
