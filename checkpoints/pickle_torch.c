/* The names that a pickle may import, and what calling them makes. See pickle_machine.h.
 *
 * source  torch/_utils.py (_rebuild_tensor_v2, _rebuild_parameter), torch/serialization.py
 *         (persistent_load)
 */
#include <stdio.h>
#include <string.h>

#include "checkpoints/pickle_machine.h"

static const struct {
    const char *module, *name;
    DType dtype; /* of a storage class */
} globals[] = {
    [GLOBAL_ORDERED_DICT] = {"collections", "OrderedDict", DT_NONE},
    [GLOBAL_REBUILD_TENSOR] = {"torch._utils", "_rebuild_tensor_v2", DT_NONE},
    [GLOBAL_REBUILD_PARAMETER] = {"torch._utils", "_rebuild_parameter", DT_NONE},
    [GLOBAL_STORAGE] = {"torch", "FloatStorage", DT_F32},
    {"torch", "HalfStorage", DT_F16},
    {"torch", "BFloat16Storage", DT_BF16},
    {"torch", "DoubleStorage", DT_F64},
    {"torch", "LongStorage", DT_I64},
    {"torch", "IntStorage", DT_I32},
    {"torch", "ByteStorage", DT_U8},
    {"torch", "BoolStorage", DT_U8},
};
enum { N_GLOBALS = sizeof globals / sizeof *globals };

const char *pickle_storage_class(DType dtype)
{
    for (int i = GLOBAL_STORAGE; i < N_GLOBALS; i++)
        if (globals[i].dtype == dtype) return globals[i].name;
    return NULL;
}

Status torch_global(Machine *machine, const char *module, const char *name, PickleValue **out)
{
    for (int i = 0; i < N_GLOBALS; i++) {
        if (strcmp(module, globals[i].module) || strcmp(name, globals[i].name)) continue;
        TRY(machine_value(machine, PICKLE_GLOBAL, out));
        (*out)->integer = i;
        return OK;
    }
    return status_fail(
        E_FORMAT,
        "%s: pickle global %.80s.%.80s is not allowed: only tensors of torch, dicts, "
        "lists, tuples, strings and numbers are read, and no code is run (byte %zu); "
        "save the state dict alone",
        machine->path, module, name, machine->opcode_at);
}

/* ---- tensors ---- */

static bool is_text(const PickleValue *value) { return value->kind == PICKLE_TEXT; }

static bool is_size(const PickleValue *value)
{
    return value->kind == PICKLE_INT && value->integer >= 0;
}

static bool is_sizes(const PickleValue *value)
{
    if (value->kind != PICKLE_TUPLE) return false;
    for (int i = 0; i < value->n_items; i++)
        if (!is_size(value->items[i])) return false;
    return true;
}

/* Whether the last argument, which may be absent, asks for something (a lazy negation). */
static bool has_metadata(const PickleValue *arguments)
{
    if (arguments->n_items < 7 || arguments->items[6]->kind == PICKLE_NONE) return false;
    return arguments->items[6]->kind != PICKLE_DICT || arguments->items[6]->n_items > 0;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]): what comes
 * between the stride and the metadata concerns autograd only. */
static Status rebuild_tensor(Machine *machine, const PickleValue *arguments, PickleValue **out)
{
    const PickleValue **item = arguments->items;
    if (arguments->n_items < 6 || arguments->n_items > 7)
        return machine_refuse(machine, "a tensor made from %d values, wanted 6 or 7",
                              arguments->n_items);
    if (has_metadata(arguments))
        return machine_refuse(machine, "a tensor with metadata (a lazy negation); save it with "
                                       ".resolve_neg()");
    if (item[0]->kind != PICKLE_STORAGE || !is_size(item[1]))
        return machine_refuse(machine,
                              "a tensor made from %s and %s, wanted a storage and an offset >= 0",
                              pickle_kind_name(item[0]->kind), pickle_kind_name(item[1]->kind));
    if (!is_sizes(item[2]) || !is_sizes(item[3]) || item[2]->n_items != item[3]->n_items)
        return machine_refuse(machine,
                              "size and stride of a tensor must be two tuples of equal length "
                              "with numbers >= 0");
    if (item[2]->n_items > SHAPE_MAX_RANK)
        return machine_refuse(machine, "a tensor of %d dims, at most %d are supported",
                              item[2]->n_items, SHAPE_MAX_RANK);
    void *memory;
    TRY(machine_take(machine, sizeof(PickleTensor), &memory));
    PickleTensor *tensor = memory;
    *tensor = (PickleTensor){.storage = item[0]->storage, .offset = item[1]->integer};
    tensor->shape.rank = item[2]->n_items;
    for (int i = 0; i < tensor->shape.rank; i++) {
        tensor->shape.dim[i] = item[2]->items[i]->integer;
        tensor->stride[i] = item[3]->items[i]->integer;
    }
    TRY(machine_value(machine, PICKLE_TENSOR, out));
    (*out)->tensor = tensor;
    return OK;
}

/* _rebuild_parameter(tensor, requires_grad, hooks) */
static Status rebuild_parameter(Machine *machine, const PickleValue *arguments, PickleValue **out)
{
    if (arguments->n_items != 3 || arguments->items[0]->kind != PICKLE_TENSOR)
        return machine_refuse(machine,
                              "a parameter must be made from a tensor and two more values");
    TRY(machine_value(machine, PICKLE_TENSOR, out));
    (*out)->tensor = arguments->items[0]->tensor;
    return OK;
}

Status torch_call(Machine *machine, const PickleValue *function, const PickleValue *arguments,
                  PickleValue **out)
{
    if (function->kind != PICKLE_GLOBAL || arguments->kind != PICKLE_TUPLE)
        return machine_refuse(machine, "%s called with %s, wanted a function and a tuple",
                              pickle_kind_name(function->kind), pickle_kind_name(arguments->kind));
    switch (function->integer) {
    case GLOBAL_ORDERED_DICT:
        if (arguments->n_items)
            return machine_refuse(machine, "an OrderedDict made from %d values, wanted none",
                                  arguments->n_items);
        return machine_value(machine, PICKLE_DICT, out);
    case GLOBAL_REBUILD_TENSOR: return rebuild_tensor(machine, arguments, out);
    case GLOBAL_REBUILD_PARAMETER: return rebuild_parameter(machine, arguments, out);
    default:
        return machine_refuse(machine, "torch.%s is called, wanted a function",
                              globals[function->integer].name);
    }
}

/* ---- storages ---- */

/* ("storage", class, key, device it was on, number of elements) */
Status torch_storage(Machine *machine, const PickleValue *id, PickleValue **out)
{
    const PickleValue **item = id->items;
    if (id->kind != PICKLE_TUPLE || id->n_items != 5 || !is_text(item[0]) ||
        strcmp(item[0]->text, "storage") || item[1]->kind != PICKLE_GLOBAL || !is_text(item[2]) ||
        !is_text(item[3]) || !is_size(item[4]))
        return machine_refuse(machine,
                              "a persistent id must be ('storage', class, key, device, count)");
    if (item[1]->integer < GLOBAL_STORAGE)
        return machine_refuse(machine, "%s is used as the class of a storage",
                              globals[item[1]->integer].name);
    void *memory;
    TRY(machine_take(machine, sizeof(PickleStorage), &memory));
    PickleStorage *storage = memory;
    *storage = (PickleStorage){.dtype = globals[item[1]->integer].dtype,
                               .key = item[2]->text,
                               .n_elems = item[4]->integer};
    TRY(machine_value(machine, PICKLE_STORAGE, out));
    (*out)->storage = storage;
    return OK;
}
