/* `retort inspect`: what a model is made of, or what a file holds.
 *
 *   retort inspect MODEL.yaml                 layers (name, op, output, parameters, MACs), totals
 *   retort inspect MODEL.yaml --state-dict    its tensors: name, shape, dtype, kind
 *   retort inspect FILE                       what a safetensors or .pth file holds, its checksum
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes.h"
#include "autograd/rules.h"
#include "base/memory.h"
#include "checkpoints/weights_file.h"
#include "model/model.h"
#include "train/commands.h"

static const char usage[] =
    "retort inspect MODEL.yaml [--state-dict] | FILE.safetensors | FILE.pth";

/* ---- state dict ---- */

static void print_state_dict(const Store *store)
{
    char shape[96];
    printf("name\tshape\tdtype\tkind\n");
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        printf("%s\t%s\t%s\t%s\n", entry->name, shape_format(entry->shape, shape, sizeof shape),
               dtype_name(entry->dtype), entry->kind == STORE_PARAMETER ? "parameter" : "buffer");
    }
}

/* ---- layers ---- */

static Tensor tensor_of(const Graph *graph, ValueId value)
{
    if (value == VALUE_NONE) return (Tensor){.dtype = DT_NONE};
    const Value *v = graph_value(graph, value);
    return (Tensor){.dtype = v->dtype, .shape = v->shape};
}

static int64_t node_macs(const Graph *graph, const Node *node)
{
    Tensor src[OP_MAX_SRC], dst[OP_MAX_DST];
    if (!op_counts_as_macs(node->op)) return 0;
    for (int i = 0; i < node->n_src; i++) src[i] = tensor_of(graph, node->src[i]);
    for (int i = 0; i < node->n_dst; i++) dst[i] = tensor_of(graph, node->dst[i]);
    return op_work(node->op, &node->attr, src, node->n_src, dst);
}

/* Parameters among a node's sources; each is counted at its first reader. */
static int64_t node_parameters(const Graph *graph, const Node *node, bool *counted)
{
    int64_t n = 0;
    for (int i = 0; i < node->n_src; i++) {
        if (node->src[i] == VALUE_NONE) continue;
        ValueId base = graph_value(graph, node->src[i])->kind == VALUE_VIEW
                           ? graph_value(graph, node->src[i])->base
                           : node->src[i];
        const Value *v = graph_value(graph, base);
        if (v->kind != VALUE_STORE || v->store->entries[v->entry].kind != STORE_PARAMETER ||
            counted[v->entry])
            continue;
        counted[v->entry] = true;
        n += shape_elems(v->shape);
    }
    return n;
}

/* SAM projects the padding of its windows as well, and its published counts contain that; here the
 * projection waits until the windows are joined. The difference of one node. */
static int64_t node_padding_macs(const Graph *graph, const Node *node)
{
    if (node->op != OP_MATMUL) return 0;
    NodeId producer = graph_value(graph, node->src[0])->producer;
    if (producer < 0 || graph->nodes[producer].op != OP_WINDOW_UNPARTITION) return 0;
    const Node *join = &graph->nodes[producer];
    int64_t windows = shape_elems(graph_value(graph, join->src[0])->shape);
    int64_t joined = shape_elems(graph_value(graph, join->dst[0])->shape);
    return (windows - joined) * shape_dim_from_end(graph_value(graph, node->dst[0])->shape, 1);
}

static void print_layers(const Graph *graph, const Store *store)
{
    bool *counted = mem_alloc((size_t)store->n_entries * sizeof(bool));
    int64_t parameters = 0, macs = 0, padding = 0;
    char shape[96];
    printf("%-72s %-22s %-20s %12s %16s\n", "name", "op", "output", "parameters", "MACs");
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const Node *node = &graph->nodes[n];
        if (node->dead || (op_info(node->op)->flags & OP_FLAG_VIEW)) continue;
        int64_t own = node_parameters(graph, node, counted), work = node_macs(graph, node);
        parameters += own;
        macs += work;
        padding += node_padding_macs(graph, node);
        printf("%-72s %-22s %-20s %12lld %16lld\n", node->label, op_info(node->op)->name,
               shape_format(graph_value(graph, node->dst[0])->shape, shape, sizeof shape),
               (long long)own, (long long)work);
    }
    printf("\nthis path: %lld parameters, %.3f GMACs per image\n", (long long)parameters,
           1e-9 * (double)macs);
    if (padding > 0)
        printf("as published, with the padding of windows projected: %.3f GMACs\n",
               1e-9 * (double)(macs + padding));
    free(counted);
}

static int64_t count_parameters(const Store *store, const char *prefix)
{
    int64_t n = 0;
    for (int i = 0; i < store->n_entries; i++)
        if (store->entries[i].kind == STORE_PARAMETER &&
            strncmp(store->entries[i].name, prefix, strlen(prefix)) == 0)
            n += shape_elems(store->entries[i].shape);
    return n;
}

static void print_totals(const Model *model, const Store *store)
{
    const char *parts[] = {"image_encoder.", "prompt_encoder.", "mask_decoder.", ""};
    for (int i = 0; i < 4; i++)
        printf("%-16s %12lld parameters\n", parts[i][0] ? parts[i] : "whole model",
               (long long)count_parameters(store, parts[i]));
    printf("%s: image %lld px, prompt frame %lld px, embedding %lldx%lldx%lld, masks %lld px\n",
           model_name(model), (long long)model_image_size(model), (long long)model_frame(model),
           (long long)model_embed_dim(model), (long long)model_grid(model),
           (long long)model_grid(model), (long long)model_lowres(model));
}

static Status print_encoder(const Model *model, Store *store)
{
    Graph *graph = graph_create();
    BuildContext context = {.graph = graph, .store = store, .bn = BN_EVAL};
    int64_t size = model_image_size(model);
    ValueId image = graph_input(graph, "image", DT_F32, SHAPE(1, size, size, 3));
    ValueId embedding = build_image_encoder(&context, model, image);
    pass_fuse(graph);
    Status status = graph->status;
    if (status == OK) {
        graph_output(graph, embedding, "embedding");
        pass_prune(graph);
        print_layers(graph, store);
        print_totals(model, store);
    }
    graph_destroy(graph);
    return status;
}

static Status inspect_model(const char *path, bool state_dict)
{
    Model *model = NULL;
    Backend *backend = NULL;
    Store *store = NULL;
    Status status = OK;
    TRY_GOTO(model_load(path, &model), done);
    TRY_GOTO(backend_open("ref", 1, &backend), done);
    store = store_create(backend);
    TRY_GOTO(model_declare(model, store), done);
    if (state_dict)
        print_state_dict(store);
    else
        status = print_encoder(model, store);
done:
    store_destroy(store);
    backend_close(backend);
    model_destroy(model);
    return status;
}

/* ---- files ---- */

static Status inspect_file(const char *path)
{
    WeightsFile *file = NULL;
    char sha256[65], shape[96];
    int64_t elements = 0;
    TRY(weights_file_open(path, &file));
    printf("name\tshape\tdtype\n");
    for (int i = 0; i < file->n_tensors; i++) {
        const Tensor *tensor = &file->tensors[i].tensor;
        printf("%s\t%s\t%s\n", file->tensors[i].name,
               shape_format(tensor->shape, shape, sizeof shape), dtype_name(tensor->dtype));
        elements += shape_elems(tensor->shape);
    }
    for (int i = 0; i < file->n_meta; i++)
        printf("# %s: %s\n", file->meta[i].key, file->meta[i].value);
    if (file->note) printf("# not read: %s\n", file->note);
    Status status = file_sha256(path, sha256);
    if (status == OK)
        printf("# %d tensors, %lld elements, %s file of %zu bytes, sha256 %s\n", file->n_tensors,
               (long long)elements, file->format, file->file_bytes, sha256);
    weights_file_close(file);
    return status;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

Status command_inspect(Args *args)
{
    bool state_dict = args_switch(args, "state-dict");
    const char *path = args_positional(args);
    if (!path) return status_fail(E_CONFIG, "name a model or a file; usage: %s", usage);
    TRY(args_finish(args, usage));
    if (ends_with(path, ".yaml") || ends_with(path, ".yml")) return inspect_model(path, state_dict);
    return inspect_file(path);
}
