/* Dense and grouped convolutions by cuDNN's graph API: forward, data and weights, each a graph of
 * one operation on N,H,W,C maps. See conv.h.
 *
 * bind builds the graph, asks the heuristic and makes a plan of the first engine that keeps our
 * promises: results that are equal every time, and f32 products in f32 unless run.tf32 allows less.
 * Its workspace is the call's scratch. A bias is added in a launch of its own; where dst has 16
 * bits the convolution goes to f32 in the scratch before, lest it be rounded twice. source  NVIDIA
 * cuDNN backend API
 */
#include "base/memory.h"
#include "kernels/cuda/conv.h"
#include "kernels/cuda/passes.h"
#include "kernels/plan/scratch.h"

#include <stdlib.h>

enum { MAX_DESCRIPTORS = 24, MAX_ENGINES = 32, MAX_NOTES = CUDNN_NUMERICAL_NOTE_TYPE_COUNT };
enum { SPATIAL = 2, ALIGNMENT_BYTES = 16 };
enum { ID_MAP = 1, ID_WEIGHT, ID_RESULT, N_TENSORS = 3 };

/* A plan refers to what it was made from, so all descriptors live as long as the call. */
typedef struct ConvState {
    cudnnBackendDescriptor_t owned[MAX_DESCRIPTORS];
    int n_owned;
    cudnnBackendDescriptor_t plan;
    int64_t workspace_bytes;
    bool in_scratch;      /* the result is f32 in the scratch, before the bias */
    size_t result_offset; /* of it */
} ConvState;

static Status create(ConvState *state, cudnnBackendDescriptorType_t type,
                     cudnnBackendDescriptor_t *out)
{
    if (state->n_owned == MAX_DESCRIPTORS) return cuda_fail("cuDNN", "too many descriptors");
    CUDNN_TRY(cudnnBackendCreateDescriptor(type, out));
    state->owned[state->n_owned++] = *out;
    return OK;
}

#define SET(descriptor, name, type, count, values) \
    CUDNN_TRY(                                     \
        cudnnBackendSetAttribute(descriptor, CUDNN_ATTR_##name, CUDNN_TYPE_##type, count, values))
#define SET_CHILD(descriptor, name, child) SET(descriptor, name, BACKEND_DESCRIPTOR, 1, &(child))

/* ---- the graph ---- */

static cudnnDataType_t data_type(DType dtype)
{
    return dtype == DT_BF16  ? CUDNN_DATA_BFLOAT16
           : dtype == DT_F16 ? CUDNN_DATA_HALF
                             : CUDNN_DATA_FLOAT;
}

/* A tensor of shape a,b,c,d as stored (channels last), with cuDNN's order of dims: a,d,b,c. */
static Status make_tensor(ConvState *state, const Tensor *tensor, int64_t id,
                          cudnnBackendDescriptor_t *out)
{
    const int64_t *d = tensor->shape.dim;
    int64_t dims[] = {d[0], d[3], d[1], d[2]}, alignment = ALIGNMENT_BYTES;
    int64_t strides[] = {d[1] * d[2] * d[3], 1, d[2] * d[3], d[3]};
    cudnnDataType_t type = data_type(tensor->dtype);
    TRY(create(state, CUDNN_BACKEND_TENSOR_DESCRIPTOR, out));
    SET(*out, TENSOR_DATA_TYPE, DATA_TYPE, 1, &type);
    SET(*out, TENSOR_DIMENSIONS, INT64, 4, dims);
    SET(*out, TENSOR_STRIDES, INT64, 4, strides);
    SET(*out, TENSOR_UNIQUE_ID, INT64, 1, &id);
    SET(*out, TENSOR_BYTE_ALIGNMENT, INT64, 1, &alignment);
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return OK;
}

static Status make_convolution(ConvState *state, const ConvDims *d, cudnnBackendDescriptor_t *out)
{
    int64_t spatial = SPATIAL, ones[SPATIAL] = {1, 1};
    int64_t strides[SPATIAL] = {d->stride, d->stride}, pads[SPATIAL] = {d->pad, d->pad};
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    TRY(create(state, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, out));
    SET(*out, CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, &compute);
    SET(*out, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE, 1, &mode);
    SET(*out, CONVOLUTION_SPATIAL_DIMS, INT64, 1, &spatial);
    SET(*out, CONVOLUTION_DILATIONS, INT64, SPATIAL, ones);
    SET(*out, CONVOLUTION_FILTER_STRIDES, INT64, SPATIAL, strides);
    SET(*out, CONVOLUTION_PRE_PADDINGS, INT64, SPATIAL, pads);
    SET(*out, CONVOLUTION_POST_PADDINGS, INT64, SPATIAL, pads);
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return OK;
}

/* How the three operations name their parts. */
typedef struct Roles {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t convolution, map, weight, result, alpha, beta;
} Roles;

#define ROLES(TYPE, NAME, MAP, WEIGHT, RESULT)                   \
    {                                                            \
        CUDNN_BACKEND_OPERATION_CONVOLUTION_##TYPE##_DESCRIPTOR, \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_CONV_DESC, \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_##MAP,     \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_##WEIGHT,  \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_##RESULT,  \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_ALPHA,     \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##NAME##_BETA       \
    }

static const Roles *roles_of(OpId op)
{
    static const Roles forward = ROLES(FORWARD, FORWARD, X, W, Y);
    static const Roles data = ROLES(BACKWARD_DATA, BWD_DATA, DX, W, DY);
    static const Roles weight = ROLES(BACKWARD_FILTER, BWD_FILTER, X, DW, DY);
    return op == OP_CONV2D_GRAD_DATA ? &data : op == OP_CONV2D_GRAD_WEIGHT ? &weight : &forward;
}

/* The call's operands as the parts of a convolution: map, weight and its result. */
typedef struct Parts {
    const Tensor *map, *weight, *result;
} Parts;

static Parts parts_of(const KernelCall *call)
{
    const Tensor *a = &call->src[0], *b = &call->src[1], *dst = &call->dst[0];
    if (call->op == OP_CONV2D_GRAD_DATA) return (Parts){.map = dst, .weight = b, .result = a};
    if (call->op == OP_CONV2D_GRAD_WEIGHT) return (Parts){.map = a, .weight = dst, .result = b};
    return (Parts){.map = a, .weight = b, .result = dst};
}

/* What cuDNN writes or reads as the result. */
static Tensor result_of(const KernelCall *call, const ConvState *state)
{
    Tensor result = *parts_of(call).result;
    if (!state->in_scratch) return result;
    result.dtype = DT_F32;
    result.data = (char *)call->scratch + state->result_offset;
    return result;
}

static Status make_operation(const KernelCall *call, ConvState *state,
                             cudnnBackendDescriptor_t *out)
{
    const Roles *roles = roles_of(call->op);
    Parts parts = parts_of(call);
    Tensor result_tensor = result_of(call, state);
    ConvDims dims = conv_dims(call);
    cudnnBackendDescriptor_t map, weight, result, convolution;
    float one = 1, zero = 0;
    TRY(make_tensor(state, parts.map, ID_MAP, &map));
    TRY(make_tensor(state, parts.weight, ID_WEIGHT, &weight));
    TRY(make_tensor(state, &result_tensor, ID_RESULT, &result));
    TRY(make_convolution(state, &dims, &convolution));
    TRY(create(state, roles->type, out));
    const struct {
        cudnnBackendAttributeName_t name;
        cudnnBackendDescriptor_t value;
    } children[] = {{roles->convolution, convolution},
                    {roles->map, map},
                    {roles->weight, weight},
                    {roles->result, result}};
    for (size_t i = 0; i < sizeof children / sizeof *children; i++)
        CUDNN_TRY(cudnnBackendSetAttribute(*out, children[i].name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                           &children[i].value));
    CUDNN_TRY(cudnnBackendSetAttribute(*out, roles->alpha, CUDNN_TYPE_FLOAT, 1, &one));
    CUDNN_TRY(cudnnBackendSetAttribute(*out, roles->beta, CUDNN_TYPE_FLOAT, 1, &zero));
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return OK;
}

static Status make_graph(const KernelCall *call, ConvState *state, cudnnBackendDescriptor_t *out)
{
    Cuda *cuda = call->context;
    cudnnBackendDescriptor_t operation;
    TRY(make_operation(call, state, &operation));
    TRY(create(state, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, out));
    SET_CHILD(*out, OPERATIONGRAPH_OPS, operation);
    SET(*out, OPERATIONGRAPH_HANDLE, HANDLE, 1, &cuda->cudnn);
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return OK;
}

/* ---- the plan ---- */

/* Whether the engine of a configuration gives equal bits every time, in the precision asked for. */
static Status keeps_promises(ConvState *state, cudnnBackendDescriptor_t config, bool exact,
                             bool *out)
{
    cudnnBackendDescriptor_t engine;
    cudnnBackendNumericalNote_t notes[MAX_NOTES];
    int64_t n = 0;
    TRY(create(state, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine));
    CUDNN_TRY(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine));
    CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                       CUDNN_TYPE_NUMERICAL_NOTE, MAX_NOTES, &n, notes));
    *out = true;
    for (int64_t i = 0; i < n; i++) {
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) *out = false;
        if (notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) *out = false;
        if (exact && (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                      notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS))
            *out = false;
    }
    (void)cudnnBackendDestroyDescriptor(engine);
    state->n_owned--;
    return OK;
}

/* A plan of this configuration, if the engine can, and with a workspace that may be had: cuDNN says
 * so only when it is finalised. */
static Status try_plan(const KernelCall *call, ConvState *state, cudnnBackendDescriptor_t config)
{
    Cuda *cuda = call->context;
    cudnnBackendDescriptor_t plan;
    int64_t n = 0;
    TRY(create(state, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan));
    SET(plan, EXECUTION_PLAN_HANDLE, HANDLE, 1, &cuda->cudnn);
    SET_CHILD(plan, EXECUTION_PLAN_ENGINE_CONFIG, config);
    bool serves = cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS;
    if (serves)
        CUDNN_TRY(cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                           CUDNN_TYPE_INT64, 1, &n, &state->workspace_bytes));
    if (serves && state->workspace_bytes <= DENSE_WORKSPACE_BYTES) {
        state->plan = plan;
        return OK;
    }
    (void)cudnnBackendDestroyDescriptor(plan);
    state->n_owned--;
    return OK;
}

/* Asks one heuristic; state->plan stays NULL if none of its configurations serves. */
static Status ask_heuristic(const KernelCall *call, ConvState *state,
                            cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode, bool exact)
{
    cudnnBackendDescriptor_t heuristic, config[MAX_ENGINES] = {0};
    int64_t n = 0;
    Status status = OK;
    TRY(create(state, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristic));
    SET_CHILD(heuristic, ENGINEHEUR_OPERATION_GRAPH, graph);
    SET(heuristic, ENGINEHEUR_MODE, HEUR_MODE, 1, &mode);
    if (cudnnBackendFinalize(heuristic) != CUDNN_STATUS_SUCCESS) return OK;
    for (int i = 0; i < MAX_ENGINES; i++)
        CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]));
    CUDNN_TRY(cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, MAX_ENGINES, &n, config));
    for (int64_t i = 0; i < n && i < MAX_ENGINES && status == OK && !state->plan; i++) {
        bool keeps = false;
        status = keeps_promises(state, config[i], exact, &keeps);
        if (status == OK && keeps) status = try_plan(call, state, config[i]);
        if (!state->plan) continue;
        state->owned[state->n_owned++] = config[i]; /* lives on with the plan */
        config[i] = NULL;
    }
    for (int i = 0; i < MAX_ENGINES; i++)
        if (config[i]) (void)cudnnBackendDestroyDescriptor(config[i]);
    return status;
}

static Status make_plan(const KernelCall *call, ConvState *state, bool exact)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    ConvDims d = conv_dims(call);
    cudnnBackendDescriptor_t graph;
    TRY(make_graph(call, state, &graph));
    for (size_t i = 0; i < sizeof modes / sizeof *modes && !state->plan; i++)
        TRY(ask_heuristic(call, state, graph, modes[i], exact));
    if (state->plan) return OK;
    return cuda_unsupported(call,
                            "cuDNN has no deterministic engine for (%d,%d,%d,%d) * (%d,%d,%d,%d), "
                            "%d groups, stride %d, pad %d, %s",
                            d.n, d.h, d.w, d.c, d.k, d.r, d.s, d.c / d.groups, d.groups, d.stride,
                            d.pad, dtype_name(call->src[0].dtype));
}

/* ---- run ---- */

static void execute(const KernelCall *call, const ConvState *state)
{
    Cuda *cuda = call->context;
    Parts parts = parts_of(call);
    int64_t ids[] = {ID_MAP, ID_WEIGHT, ID_RESULT};
    void *pointers[] = {parts.map->data, parts.weight->data, result_of(call, state).data};
    void *workspace = call->scratch;
    cudnnBackendDescriptor_t pack = NULL;
    CUDNN_RUN(call, cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    CUDNN_RUN(call, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                             CUDNN_TYPE_INT64, N_TENSORS, ids));
    CUDNN_RUN(call, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                             CUDNN_TYPE_VOID_PTR, N_TENSORS, pointers));
    CUDNN_RUN(call, cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                             CUDNN_TYPE_VOID_PTR, 1, &workspace));
    CUDNN_RUN(call, cudnnBackendFinalize(pack));
    CUDNN_RUN(call, cudnnBackendExecute(cuda->cudnn, state->plan, pack));
    if (pack) (void)cudnnBackendDestroyDescriptor(pack);
}

static void conv_run(const KernelCall *call)
{
    const ConvState *state = call->state;
    execute(call, state);
    if (!conv_bias(call)) return;
    Tensor result = result_of(call, state);
    cuda_add_bias(call, &call->dst[0], &result, conv_bias(call));
}

static void conv_release(void *pointer)
{
    ConvState *state = pointer;
    while (state->n_owned > 0) /* the last made refers to the ones before */
        (void)cudnnBackendDestroyDescriptor(state->owned[--state->n_owned]);
    free(state);
}

Status conv_cudnn_bind(Backend *backend, KernelCall *call)
{
    bool exact = call->src[0].dtype == DT_F32 && !backend->tf32;
    ConvState *state = mem_alloc(sizeof *state);
    call->state = state;
    call->release = conv_release;
    call->run = conv_run;
    state->in_scratch = conv_bias(call) && call->dst[0].dtype != DT_F32;
    TRY(make_plan(call, state, exact));
    state->result_offset = ((size_t)state->workspace_bytes + ALIGNMENT_BYTES - 1) /
                           ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    call->scratch_bytes += state->result_offset;
    return OK;
}
