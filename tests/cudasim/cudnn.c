/* cuDNN's graph API, as far as the backend uses it: graphs of one convolution (forward, data,
 * weights).
 *
 * Descriptors keep what was set, as it was set; finalising does nothing but forbid more. The
 * heuristic offers two engines: the first is fast and not deterministic (it says so in its
 * numerical notes, and its results differ from run to run), the second is right. Both want a
 * workspace and overwrite it.
 */
#include <cudnn.h>
#include <stdlib.h>

#include "tests/cudasim/sim.h"
#include "tests/cudasim/values.h"

enum { MAX_ATTRIBUTES = 16, WORKSPACE_BYTES = 768, SPATIAL = 2 };
enum { ENGINE_UNSTEADY, ENGINE_STEADY, N_ENGINES };

typedef struct Attribute {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count;
    void *values;
} Attribute;

typedef struct Convolution Convolution;

typedef struct Descriptor {
    cudnnBackendDescriptorType_t type;
    Attribute attributes[MAX_ATTRIBUTES];
    int n_attributes;
    bool finalized;
    int engine;               /* of engines, their configurations and plans */
    Convolution *convolution; /* of plans, which outlive what they were made from */
} Descriptor;

struct cudnnContext {
    cudaStream_t stream;
};

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    default: return sim_failed() ? sim_report_text() : "CUDNN_STATUS_EXECUTION_FAILED";
    }
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    *handle = calloc(1, sizeof **handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- descriptors ---- */

static size_t type_bytes(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    default: return 4;
    }
}

static const Attribute *find(const Descriptor *d, cudnnBackendAttributeName_t name)
{
    for (int i = 0; i < d->n_attributes; i++)
        if (d->attributes[i].name == name) return &d->attributes[i];
    return NULL;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out)
{
    Descriptor *d = calloc(1, sizeof *d);
    d->type = type;
    *out = d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t handle)
{
    Descriptor *d = handle;
    if (!d) return CUDNN_STATUS_SUCCESS;
    for (int i = 0; i < d->n_attributes; i++) free(d->attributes[i].values);
    free(d->convolution);
    free(d);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t handle,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values)
{
    Descriptor *d = handle;
    if (d->finalized || d->n_attributes == MAX_ATTRIBUTES || !values || count < 1)
        return CUDNN_STATUS_BAD_PARAM;
    size_t bytes = (size_t)count * type_bytes(type);
    Attribute attribute = {name, type, count, malloc(bytes)};
    memcpy(attribute.values, values, bytes);
    d->attributes[d->n_attributes++] = attribute;
    return CUDNN_STATUS_SUCCESS;
}

static int64_t integer(const Descriptor *d, cudnnBackendAttributeName_t name, int i)
{
    const Attribute *a = find(d, name);
    if (!a || i >= a->count) return 0;
    return type_bytes(a->type) == 8 ? ((const int64_t *)a->values)[i]
                                    : ((const int32_t *)a->values)[i];
}

static Descriptor *child(const Descriptor *d, cudnnBackendAttributeName_t name)
{
    const Attribute *a = find(d, name);
    return a ? *(Descriptor **)a->values : NULL;
}

/* ---- the one operation of a graph ---- */

typedef struct Roles {
    cudnnBackendAttributeName_t conv, image, weight, result, alpha, beta;
} Roles;

/* image and result are x and y, or dx and dy. */
static const Roles *roles_of(cudnnBackendDescriptorType_t type)
{
#define ROLES(kind, x, w, y)                                 \
    {                                                        \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_CONV_DESC, \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##x,   \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##w,   \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_##y,   \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_ALPHA, \
            CUDNN_ATTR_OPERATION_CONVOLUTION_##kind##_BETA   \
    }
    static const Roles forward = ROLES(FORWARD, X, W, Y), data = ROLES(BWD_DATA, DX, W, DY),
                       filter = ROLES(BWD_FILTER, X, DW, DY);
#undef ROLES
    switch (type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return &forward;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: return &data;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: return &filter;
    default: return NULL;
    }
}

typedef struct Map { /* a tensor of four dims */
    int64_t dim[4], stride[4], id, alignment;
    DType dtype;
} Map;

struct Convolution {
    cudnnBackendDescriptorType_t kind;
    Map x, w, y;
    int64_t stride[SPATIAL], pad[SPATIAL], dilation[SPATIAL];
    double alpha, beta;
    int engine;
    void *px, *pw, *py, *workspace;
};

static bool read_map(const Descriptor *d, Map *out)
{
    const Attribute *dims = d ? find(d, CUDNN_ATTR_TENSOR_DIMENSIONS) : NULL;
    if (!dims || dims->count != 4 || !d->finalized) return false;
    for (int i = 0; i < 4; i++) {
        out->dim[i] = integer(d, CUDNN_ATTR_TENSOR_DIMENSIONS, i);
        out->stride[i] = integer(d, CUDNN_ATTR_TENSOR_STRIDES, i);
    }
    out->id = integer(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0);
    out->alignment = integer(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 0);
    switch (integer(d, CUDNN_ATTR_TENSOR_DATA_TYPE, 0)) {
    case CUDNN_DATA_FLOAT: out->dtype = DT_F32; break;
    case CUDNN_DATA_BFLOAT16: out->dtype = DT_BF16; break;
    case CUDNN_DATA_HALF: out->dtype = DT_F16; break;
    default: return false;
    }
    return out->stride[1] == 1 && out->alignment >= 2; /* channels last */
}

static double scale(const Descriptor *op, cudnnBackendAttributeName_t name, double otherwise)
{
    const Attribute *a = find(op, name);
    if (!a) return otherwise;
    return a->type == CUDNN_TYPE_DOUBLE ? *(const double *)a->values : *(const float *)a->values;
}

static bool shapes_agree(const Convolution *c)
{
    int64_t groups = c->x.dim[1] / (c->w.dim[1] ? c->w.dim[1] : 1);
    bool agree = c->x.dim[0] == c->y.dim[0] && c->w.dim[0] == c->y.dim[1] && groups > 0 &&
                 groups * c->w.dim[1] == c->x.dim[1] && c->w.dim[0] % groups == 0;
    for (int i = 0; i < SPATIAL; i++) {
        int64_t reach = (c->w.dim[2 + i] - 1) * c->dilation[i] + 1;
        agree &= c->stride[i] > 0 &&
                 c->y.dim[2 + i] == (c->x.dim[2 + i] + 2 * c->pad[i] - reach) / c->stride[i] + 1;
    }
    return agree;
}

static bool read_operation(const Descriptor *op, Convolution *out)
{
    const Roles *roles = op ? roles_of(op->type) : NULL;
    const Descriptor *conv = roles ? child(op, roles->conv) : NULL;
    if (!conv || !conv->finalized || !op->finalized) return false;
    *out = (Convolution){
        .kind = op->type, .alpha = scale(op, roles->alpha, 1), .beta = scale(op, roles->beta, 0)};
    if (!read_map(child(op, roles->image), &out->x) ||
        !read_map(child(op, roles->weight), &out->w) ||
        !read_map(child(op, roles->result), &out->y))
        return false;
    for (int i = 0; i < SPATIAL; i++) {
        out->stride[i] = integer(conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i);
        out->pad[i] = integer(conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i);
        out->dilation[i] = integer(conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, i);
        if (out->pad[i] != integer(conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i)) return false;
    }
    return integer(conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, 0) == CUDNN_DATA_FLOAT &&
           integer(conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, 0) == CUDNN_CROSS_CORRELATION &&
           shapes_agree(out);
}

static Descriptor *operation_of(const Descriptor *graph)
{
    const Attribute *ops = graph ? find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS) : NULL;
    return ops && ops->count == 1 ? *(Descriptor **)ops->values : NULL;
}

static cudnnStatus_t finalize_plan(Descriptor *plan)
{
    const Descriptor *config = child(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    if (!config || !config->finalized) return CUDNN_STATUS_BAD_PARAM;
    const Descriptor *engine = child(config, CUDNN_ATTR_ENGINECFG_ENGINE);
    plan->engine = config->engine;
    plan->convolution = calloc(1, sizeof *plan->convolution);
    return read_operation(operation_of(child(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH)),
                          plan->convolution)
               ? CUDNN_STATUS_SUCCESS
               : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle)
{
    Descriptor *d = handle;
    Convolution unused;
    d->finalized = true;
    if (roles_of(d->type) && !read_operation(d, &unused)) return CUDNN_STATUS_BAD_PARAM;
    if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR && !operation_of(d))
        return CUDNN_STATUS_NOT_SUPPORTED;
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) return finalize_plan(d);
    return CUDNN_STATUS_SUCCESS;
}

/* ---- asking ---- */

static void give_engine(Descriptor *out, const Descriptor *graph, int engine, bool config)
{
    Descriptor *own = NULL;
    cudnnBackendDescriptor_t created;
    out->engine = engine;
    if (config) {
        cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &created);
        own = created;
        give_engine(own, graph, engine, false);
        cudnnBackendSetAttribute(out, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                 &created);
    } else {
        cudnnBackendSetAttribute(out, CUDNN_ATTR_ENGINE_OPERATION_GRAPH,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    }
    out->finalized = true;
}

static void give_integer(void *values, cudnnBackendAttributeType_t type, int64_t value)
{
    if (type_bytes(type) == 8)
        *(int64_t *)values = value;
    else
        *(int32_t *)values = (int32_t)value;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const handle,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n_wanted,
                                       int64_t *n_found, void *values)
{
    const Descriptor *d = handle;
    int64_t unused;
    if (!n_found) n_found = &unused;
    if (!d->finalized) return CUDNN_STATUS_BAD_PARAM;
    switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
        const Descriptor *graph = child(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
        *n_found = N_ENGINES;
        for (int i = 0; values && i < n_wanted && i < N_ENGINES; i++)
            give_engine(((Descriptor **)values)[i], graph, i, true);
        return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE:
        *n_found = 1;
        if (values && n_wanted > 0) {
            const Descriptor *own = child(d, name);
            give_engine(*(Descriptor **)values, child(own, CUDNN_ATTR_ENGINE_OPERATION_GRAPH),
                        d->engine, false);
        }
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        *n_found = d->engine == ENGINE_UNSTEADY ? 2 : 0;
        if (values && n_wanted > 0)
            ((cudnnBackendNumericalNote_t *)values)[0] = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
        if (values && n_wanted > 1)
            ((cudnnBackendNumericalNote_t *)values)[1] = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
        *n_found = 1;
        give_integer(values, type, d->engine);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE: *n_found = 0; return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *n_found = 1;
        give_integer(values, type, WORKSPACE_BYTES);
        return CUDNN_STATUS_SUCCESS;
    default: return CUDNN_STATUS_NOT_SUPPORTED;
    }
}

/* ---- computing, in double ---- */

static bool touch_map(const Map *m, const char *base, bool write)
{
    size_t element = dtype_size(m->dtype);
    for (int64_t n = 0; n < m->dim[0]; n++)
        for (int64_t y = 0; y < m->dim[2]; y++)
            for (int64_t x = 0; x < m->dim[3]; x++) {
                int64_t at = n * m->stride[0] + y * m->stride[2] + x * m->stride[3];
                if (!sim_touch(base + (size_t)at * element, (size_t)m->dim[1] * element, write))
                    return false;
            }
    return true;
}

static int64_t at(const Map *m, int64_t n, int64_t c, int64_t y, int64_t x)
{
    return n * m->stride[0] + c * m->stride[1] + y * m->stride[2] + x * m->stride[3];
}

static int64_t elements(const Map *m)
{
    int64_t last = 0;
    for (int i = 0; i < 4; i++) last += (m->dim[i] - 1) * m->stride[i];
    return last + 1;
}

static double *unpack(const Map *m, const void *base, bool zero)
{
    int64_t n = elements(m);
    double *values = calloc((size_t)n, sizeof *values);
    for (int64_t i = 0; i < n && !zero; i++) values[i] = value_load(base, m->dtype, i);
    return values;
}

/* All products of one output pixel's channel with one filter tap: what is summed into what is the
 * only difference between the three operations. */
static void accumulate(const Convolution *c, double *x, double *w, double *y, int64_t n, int64_t k,
                       int64_t oy, int64_t ox)
{
    int64_t per_group = c->w.dim[1], group = k / (c->w.dim[0] / (c->x.dim[1] / per_group));
    for (int64_t r = 0; r < c->w.dim[2]; r++)
        for (int64_t s = 0; s < c->w.dim[3]; s++) {
            int64_t iy = oy * c->stride[0] - c->pad[0] + r * c->dilation[0];
            int64_t ix = ox * c->stride[1] - c->pad[1] + s * c->dilation[1];
            if (iy < 0 || iy >= c->x.dim[2] || ix < 0 || ix >= c->x.dim[3]) continue;
            double *px = x + at(&c->x, n, group * per_group, iy, ix),
                   *pw = w + at(&c->w, k, 0, r, s);
            double *py = y + at(&c->y, n, k, oy, ox);
            for (int64_t i = 0; i < per_group; i++) {
                if (c->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)
                    *py += px[i] * pw[i];
                else if (c->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)
                    px[i] += *py * pw[i];
                else
                    pw[i] += *py * px[i];
            }
        }
}

static void convolve(const Convolution *c, double *x, double *w, double *y)
{
    for (int64_t n = 0; n < c->y.dim[0]; n++)
        for (int64_t oy = 0; oy < c->y.dim[2]; oy++)
            for (int64_t ox = 0; ox < c->y.dim[3]; ox++)
                for (int64_t k = 0; k < c->y.dim[1]; k++) accumulate(c, x, w, y, n, k, oy, ox);
}

static void pack(const Convolution *c, const Map *m, void *base, const double *values)
{
    int64_t n = elements(m);
    for (int64_t i = 0; i < n; i++) {
        double value = c->alpha * values[i];
        if (c->beta != 0) value += c->beta * value_load(base, m->dtype, i);
        if (c->engine == ENGINE_UNSTEADY) value *= 1 + 1e-6 * sim_random(8);
        value_store(base, m->dtype, i, value);
    }
}

static void run_convolution(void *data)
{
    const Convolution *c = data;
    bool forward = c->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    bool to_x = c->kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
    bool to_w = !forward && !to_x;
    if (!sim_touch(c->workspace, WORKSPACE_BYTES, true)) return;
    memset(c->workspace, 0xA5, WORKSPACE_BYTES);
    if (!touch_map(&c->x, c->px, to_x) || !touch_map(&c->w, c->pw, to_w) ||
        !touch_map(&c->y, c->py, forward))
        return;
    double *x = unpack(&c->x, c->px, to_x), *w = unpack(&c->w, c->pw, to_w);
    double *y = unpack(&c->y, c->py, forward);
    convolve(c, x, w, y);
    if (forward) pack(c, &c->y, c->py, y);
    if (to_x) pack(c, &c->x, c->px, x);
    if (to_w) pack(c, &c->w, c->pw, w);
    free(x);
    free(w);
    free(y);
}

static void *pointer_of(const Descriptor *pack_of, const Map *map)
{
    const Attribute *ids = find(pack_of, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const Attribute *pointers = find(pack_of, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (int64_t i = 0; ids && pointers && i < ids->count && i < pointers->count; i++)
        if (((const int64_t *)ids->values)[i] == map->id) return ((void **)pointers->values)[i];
    return NULL;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t variant_pack)
{
    const Descriptor *p = plan, *pack_of = variant_pack;
    if (!p->convolution || !pack_of->finalized) return CUDNN_STATUS_BAD_PARAM;
    Convolution *c = malloc(sizeof *c);
    *c = *p->convolution;
    const Attribute *workspace = find(pack_of, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    c->engine = p->engine;
    c->workspace = workspace ? *(void **)workspace->values : NULL;
    c->px = pointer_of(pack_of, &c->x);
    c->pw = pointer_of(pack_of, &c->w);
    c->py = pointer_of(pack_of, &c->y);
    const Map *maps[] = {&c->x, &c->w, &c->y};
    void *pointers[] = {c->px, c->pw, c->py};
    for (int i = 0; i < 3; i++)
        if (!pointers[i] || (uintptr_t)pointers[i] % (uintptr_t)maps[i]->alignment)
            return CUDNN_STATUS_BAD_PARAM;
    return sim_stream_function(handle->stream, "cudnnBackendExecute", run_convolution, c) ==
                   cudaSuccess
               ? CUDNN_STATUS_SUCCESS
               : CUDNN_STATUS_EXECUTION_FAILED;
}
