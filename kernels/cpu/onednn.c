/* The oneDNN engine and primitives. See onednn.h. */
#include "kernels/cpu/onednn.h"

#include "base/memory.h"

#include <stdlib.h>

struct OnednnEngine {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

Status onednn_engine_open(OnednnEngine **out)
{
    OnednnEngine *engine = mem_alloc(sizeof *engine);
    if (dnnl_engine_create(&engine->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&engine->stream, engine->engine, dnnl_stream_default_flags) != dnnl_success) {
        onednn_engine_free(engine);
        return status_fail(E_DEVICE, "cpu: oneDNN cannot open its CPU engine");
    }
    *out = engine;
    return OK;
}

void onednn_engine_free(OnednnEngine *engine)
{
    if (!engine) return;
    if (engine->stream) dnnl_stream_destroy(engine->stream);
    if (engine->engine) dnnl_engine_destroy(engine->engine);
    free(engine);
}
