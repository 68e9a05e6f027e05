/* The oneDNN engine and primitives. See onednn.h. */
#include "kernels/cpu/onednn.h"

#include "base/memory.h"
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>

struct OnednnEngine {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

Status onednn_engine_open(OnednnEngine **out)
{
    OnednnEngine *engine = mem_alloc(sizeof *engine);
    if (dnnl_engine_create(&engine->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&engine->stream, engine->engine, dnnl_stream_default_flags) !=
            dnnl_success) {
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

bool onednn_has_bf16(void)
{
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

static const char *status_name(dnnl_status_t status)
{
    switch (status) {
    case dnnl_out_of_memory: return "out of memory";
    case dnnl_invalid_arguments: return "invalid arguments";
    case dnnl_unimplemented: return "unimplemented";
    case dnnl_iterator_ends: return "no implementation";
    case dnnl_runtime_error: return "runtime error";
    default: return "error";
    }
}

Status onednn_status(const KernelCall *call, const char *step, dnnl_status_t status)
{
    if (status == dnnl_success) return OK;
    Status code = status == dnnl_unimplemented || status == dnnl_iterator_ends ? E_UNSUPPORTED
                  : status == dnnl_out_of_memory                               ? E_MEMORY
                                                                               : E_DEVICE;
    return status_fail(code, "%s: %s on cpu: oneDNN says \"%s\" (%d) to %.60s", call->label,
                       op_info(call->op)->name, status_name(status), (int)status, step);
}

Status onednn_desc(const KernelCall *call, DType dtype, int rank, const int64_t *dims,
                   const int64_t *strides, dnnl_memory_desc_t *out)
{
    assert(dtype == DT_F32 || dtype == DT_BF16);
    dnnl_data_type_t type = dtype == DT_F32 ? dnnl_f32 : dnnl_bf16;
    if (strides)
        DNNL_TRY(call, dnnl_memory_desc_init_by_strides(out, rank, dims, type, strides));
    else
        DNNL_TRY(call, dnnl_memory_desc_init_by_tag(out, rank, dims, type, dnnl_format_tag_any));
    return OK;
}

/* Memory objects without data for all arguments, as the primitive descriptor tells their layout. */
static Status make_arguments(OnednnEngine *engine, const KernelCall *call,
                             dnnl_primitive_desc_t desc, int n_args, const int *arg_ids,
                             OnednnPrimitive *out)
{
    assert(n_args <= ONEDNN_MAX_ARGS);
    for (int i = 0; i <= n_args; i++) {
        int id = i < n_args ? arg_ids[i] : DNNL_ARG_SCRATCHPAD;
        const dnnl_memory_desc_t *memory = dnnl_primitive_desc_query_md(desc,
                                                                        dnnl_query_exec_arg_md, id);
        assert(memory);
        if (i < n_args)
            out->descs[i] = *memory;
        else
            out->scratchpad_bytes = dnnl_memory_desc_get_size(memory);
        out->args[i].arg = id;
        DNNL_TRY(call, dnnl_memory_create(&out->args[i].memory, memory, engine->engine,
                                          DNNL_MEMORY_NONE));
        out->n_args = i;
    }
    return OK;
}

/* Takes over `desc`. */
static Status finish(OnednnEngine *engine, const KernelCall *call, dnnl_primitive_desc_t desc,
                     int n_args, const int *arg_ids, OnednnPrimitive *out)
{
    out->stream = engine->stream;
    out->n_threads = call->n_threads;
    Status status = make_arguments(engine, call, desc, n_args, arg_ids, out);
    if (status == OK)
        status = onednn_status(call, "primitive_create",
                               dnnl_primitive_create(&out->primitive, desc));
    dnnl_primitive_desc_destroy(desc);
    if (status != OK) onednn_free(out);
    return status;
}

static dnnl_primitive_attr_t make_attributes(void)
{
    dnnl_primitive_attr_t attr = NULL;
    bool made =
        dnnl_primitive_attr_create(&attr) == dnnl_success &&
        dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
    assert(made);
    return attr;
}

Status onednn_make(OnednnEngine *engine, const KernelCall *call, const_dnnl_op_desc_t desc,
                   const dnnl_convolution_desc_t *hint, int n_args, const int *arg_ids,
                   OnednnPrimitive *out)
{
    *out = (OnednnPrimitive){0};
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(call->n_threads);
    dnnl_primitive_attr_t attr = make_attributes();
    dnnl_primitive_desc_t primitive_desc = NULL, forward = NULL;
    Status status = OK;
    if (hint)
        status = onednn_status(
            call, "primitive_desc_create of the forward hint",
            dnnl_primitive_desc_create(&forward, hint, attr, engine->engine, NULL));
    if (status == OK)
        status = onednn_status(
            call, "primitive_desc_create",
            dnnl_primitive_desc_create(&primitive_desc, desc, attr, engine->engine, forward));
    if (status == OK) status = finish(engine, call, primitive_desc, n_args, arg_ids, out);
    if (forward) dnnl_primitive_desc_destroy(forward);
    dnnl_primitive_attr_destroy(attr);
    omp_set_num_threads(threads_before);
    return status;
}

Status onednn_make_reorder(OnednnEngine *engine, const KernelCall *call,
                           const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                           OnednnPrimitive *out)
{
    *out = (OnednnPrimitive){0};
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(call->n_threads);
    dnnl_primitive_attr_t attr = make_attributes();
    dnnl_primitive_desc_t desc = NULL;
    Status status = onednn_status(
        call, "reorder_primitive_desc_create",
        dnnl_reorder_primitive_desc_create(&desc, from, engine->engine, to, engine->engine, attr));
    if (status == OK)
        status = finish(engine, call, desc, 2, (const int[]){DNNL_ARG_FROM, DNNL_ARG_TO}, out);
    dnnl_primitive_attr_destroy(attr);
    omp_set_num_threads(threads_before);
    return status;
}

/* Execution can only fail on a primitive that was made wrongly, so failures are asserted. */
void onednn_run(const OnednnPrimitive *primitive, const void *const *data, void *scratchpad)
{
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(primitive->n_threads);
    for (int i = 0; i <= primitive->n_args; i++) {
        void *handle = i < primitive->n_args ? (void *)data[i] : scratchpad;
        dnnl_status_t set = dnnl_memory_set_data_handle(primitive->args[i].memory, handle);
        assert(set == dnnl_success);
    }
    dnnl_status_t status = dnnl_primitive_execute(primitive->primitive, primitive->stream,
                                                  primitive->n_args + 1, primitive->args);
    assert(status == dnnl_success);
    omp_set_num_threads(threads_before);
}

void onednn_free(OnednnPrimitive *primitive)
{
    for (int i = 0; i <= primitive->n_args; i++)
        if (primitive->args[i].memory) dnnl_memory_destroy(primitive->args[i].memory);
    if (primitive->primitive) dnnl_primitive_destroy(primitive->primitive);
    *primitive = (OnednnPrimitive){0};
}
