/* Model configs and what they declare: names, shapes, dtypes, kinds and order of every entry
 * against the published state dicts, parameter totals, refusals of bad configs, gates and initial
 * weights. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "tests/support.h"

static Model *load(const char *name)
{
    char path[256];
    Model *model = NULL;
    snprintf(path, sizeof path, "configs/models/%s.yaml", name);
    cr_assert(model_load(path, &model) == OK, "%s", status_message());
    return model;
}

static Store *declared(const Model *model, Backend *backend)
{
    Store *store = store_create(backend);
    cr_assert(model_declare(model, store) == OK, "%s", status_message());
    return store;
}

static void format_entry(const StoreEntry *entry, char *line, size_t bytes)
{
    char shape[128];
    snprintf(line, bytes, "%s\t%s\t%s\t%s", entry->name,
             shape_format(entry->shape, shape, sizeof shape), dtype_name(entry->dtype),
             entry->kind == STORE_PARAMETER ? "parameter" : "buffer");
}

/* Every line of the table equals the entry at its place, and there are no more entries. */
static void compare_with_table(const char *name)
{
    char file[128], path[256], want[512], got[512];
    snprintf(file, sizeof file, "spec/state_dict/%s.tsv", name);
    SKIP_WITHOUT(file, path);
    FILE *table = fopen(path, "r");
    cr_assert_not_null(table);
    Model *model = load(name);
    Store *store = declared(model, NULL);
    int row = 0;
    cr_assert_not_null(fgets(want, sizeof want, table)); /* header */
    for (; fgets(want, sizeof want, table); row++) {
        want[strcspn(want, "\r\n")] = '\0';
        cr_assert_lt(row, store->n_entries, "%s: missing %s", name, want);
        format_entry(&store->entries[row], got, sizeof got);
        cr_assert_str_eq(got, want, "%s: entry %d", name, row);
    }
    cr_assert_eq(row, store->n_entries, "%s: %d entries, %d wanted", name, store->n_entries, row);
    fclose(table);
    store_destroy(store);
    model_destroy(model);
}

Test(model, state_dict_of_efficientvit_sam)
{
    static const char *const names[] = {"efficientvit_sam_l0", "efficientvit_sam_l1",
                                        "efficientvit_sam_l2", "efficientvit_sam_xl0",
                                        "efficientvit_sam_xl1"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) compare_with_table(names[i]);
}

Test(model, state_dict_of_sam)
{
    static const char *const names[] = {"sam_vit_b", "sam_vit_l", "sam_vit_h"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) compare_with_table(names[i]);
}

Test(model, parameter_totals)
{
    static const struct {
        const char *name;
        int64_t total;
    } models[] = {{"efficientvit_sam_l0", 34792784},
                  {"efficientvit_sam_l1", 47650128},
                  {"efficientvit_sam_l2", 61328592},
                  {"efficientvit_sam_xl0", 116957904},
                  {"efficientvit_sam_xl1", 203346128},
                  {"sam_vit_b", 93735472},
                  {"sam_vit_l", 312342832},
                  {"sam_vit_h", 641090608}};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        Model *model = load(models[i].name);
        Store *store = declared(model, NULL);
        int64_t total = 0;
        for (int e = 0; e < store->n_entries; e++)
            if (store->entries[e].kind == STORE_PARAMETER)
                total += shape_elems(store->entries[e].shape);
        cr_expect_eq(total, models[i].total, "%s: %lld", models[i].name, (long long)total);
        store_destroy(store);
        model_destroy(model);
    }
}

Test(model, student_and_teacher_of_the_demo_fit)
{
    Model *teacher = load("sam_tiny"), *student = load("efficientvit_sam_tiny");
    cr_expect_eq(model_frame(student), model_frame(teacher));
    cr_expect_eq(model_grid(student), model_grid(teacher));
    cr_expect_eq(model_embed_dim(student), model_embed_dim(teacher));
    cr_expect_eq(model_lowres(student), 4 * model_grid(student));
    cr_expect_str_eq(model_name(student), "efficientvit_sam_tiny");
    Store *of_teacher = declared(teacher, NULL), *of_student = declared(student, NULL);
    for (int i = 0; i < of_teacher->n_entries; i++) { /* its heads are the student's start */
        const StoreEntry *entry = &of_teacher->entries[i];
        if (strncmp(entry->name, "image_encoder.", 14) == 0) continue;
        int twin = store_find(of_student, entry->name);
        cr_assert_geq(twin, 0, "%s", entry->name);
        cr_expect(shape_equal(of_student->entries[twin].shape, entry->shape), "%s", entry->name);
    }
    store_destroy(of_teacher);
    store_destroy(of_student);
    model_destroy(teacher);
    model_destroy(student);
}

/* ---- configs made here ---- */

static Status load_text(const char *text, Model **out)
{
    char path[] = "/tmp/retort_test_model_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    Status status = model_load(path, out);
    unlink(path);
    return status;
}

/* Loads the tiny student's config with `from` replaced by `to`. */
static Status load_variant(const char *from, const char *to, Model **out)
{
    static char text[8192], changed[16384];
    FILE *file = fopen("configs/models/efficientvit_sam_tiny.yaml", "r");
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    char *at = strstr(text, from);
    cr_assert_not_null(at, "%s", from);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return load_text(changed, out);
}

static void expect_refusal(const char *from, const char *to, const char *message)
{
    Model *model = NULL;
    cr_expect_eq(load_variant(from, to, &model), E_CONFIG, "%s", to);
    cr_expect_null(model);
    cr_expect_not_null(strstr(status_message(), message), "'%s' does not contain '%s'",
                       status_message(), message);
}

static int64_t parameters_below(const Store *store, const char *prefix)
{
    int64_t total = 0;
    for (int i = 0; i < store->n_entries; i++)
        if (store->entries[i].kind == STORE_PARAMETER &&
            strncmp(store->entries[i].name, prefix, strlen(prefix)) == 0)
            total += shape_elems(store->entries[i].shape);
    return total;
}

#define BACKBONE "image_encoder.backbone."

/* EfficientViT B1: a named stem, depthwise residuals, stages with all norms. The parameters of its
 * stages are published. */
Test(model, backbone_of_the_b_family)
{
    static const char config[] =
        "{name: b1, image_size: 128, prompt_frame: 256, grid: 16, embed_dim: 128,\n"
        "image_encoder: {kind: efficientvit, activation: hardswish, norm_eps: 1.0e-6,\n"
        "  norm_momentum: 0.1, head_dim: 16, aggregation_kernel: 5, stages: [\n"
        "    {name: input_stem, width: 16, open: conv, block: ds, depth: 1},\n"
        "    {width: 32, open: mb, open_expand: 4, block: mb, depth: 1, expand: 4},\n"
        "    {width: 64, open: mb, open_expand: 4, block: mb, depth: 2, expand: 4},\n"
        "    {width: 128, open: mb_bias, open_expand: 4, block: evit, depth: 3, expand: 4},\n"
        "    {width: 256, open: mb_bias, open_expand: 4, block: evit, depth: 4, expand: 4}],\n"
        "  neck: {inputs: [4, 3, 2], block: fmb, depth: 1, expand: 1}},\n"
        "prompt_encoder: {activation: gelu_erf, mask_channels: 16},\n"
        "mask_decoder: {activation: gelu_erf, norm_eps: 1.0e-6, layers: 2, heads: 8,\n"
        "               cross_width: 64, mlp_dim: 512, iou_hidden: 128}}\n";
    static const struct {
        const char *stage;
        int64_t total;
    } wanted[] = {{BACKBONE "input_stem.", 928},   {BACKBONE "stages.0.", 13888},
                  {BACKBONE "stages.1.", 86528},   {BACKBONE "stages.2.", 756864},
                  {BACKBONE "stages.3.", 3785728}, {BACKBONE, 4643936}};
    Model *model;
    cr_assert(load_text(config, &model) == OK, "%s", status_message());
    Store *store = declared(model, NULL);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        cr_expect_eq(parameters_below(store, wanted[i].stage), wanted[i].total, "%s: %lld",
                     wanted[i].stage, (long long)parameters_below(store, wanted[i].stage));
    cr_expect_geq(store_find(store, BACKBONE "input_stem.op_list.1.main.depth_conv.conv.weight"),
                  0);
    store_destroy(store);
    model_destroy(model);
}

/* ---- refusals ---- */

Test(model, bad_configs_are_refused)
{
    expect_refusal("grid:", "gird:", "grid"); /* unknown key, missing key */
    expect_refusal("  kind: efficientvit", "  kind: resnet", "efficientvit, vit");
    expect_refusal("heads: 4", "heads: 7", "do not divide");
    expect_refusal("heads: 4", "heads: 4\n  haeds: 8", "haeds"); /* unknown key, nothing missing */
    expect_refusal("inputs: [4, 3, 2]", "inputs: [5, 3, 2]", "inputs");
    expect_refusal("image_size: 128", "image_size: 120", "image_size");
    expect_refusal("aggregation_kernel: 5", "aggregation_kernel: 4", "even");
    expect_refusal("head_dim: 16", "head_dim: 24", "head_dim");
    expect_refusal("embed_dim: 128", "embed_dim: 100", "multiple of 8");
    expect_refusal("open: conv,", "open: conv, open_expand: 3,",
                   "open_expand"); /* would be ignored */
}

/* ---- where work is done ---- */

/* Region of the only node of `op` at `label`. */
static RegionId region_of(const Graph *graph, OpId op, const char *label)
{
    RegionId found = -1;
    for (NodeId n = 0; n < graph->n_nodes; n++)
        if (graph->nodes[n].op == op && strcmp(graph->nodes[n].label, label) == 0) {
            cr_expect_eq(found, -1, "%s twice", label);
            found = graph->nodes[n].region;
        }
    cr_assert_geq(found, 0, "no %s", label);
    return found;
}

#define LAYER "mask_decoder.transformer.layers."

/* The decoder over chunks of prompts inside micro-batches of two images. */
static void build_chunked(BuildContext *context, const Model *model, RegionId *micro,
                          RegionId *chunk)
{
    Graph *graph = context->graph;
    int64_t grid = model_grid(model), width = model_embed_dim(model);
    ValueId embeddings = graph_input(graph, "embedding", DT_F32, SHAPE(3, 2, grid, grid, width));
    ValueId coords = graph_input(graph, "coords", DT_F32, SHAPE(3, 4, 2, 5, 3, 2));
    ValueId labels = graph_input(graph, "labels", DT_I32, SHAPE(3, 4, 2, 5, 3));
    *micro = graph_region_open(graph, REGION_STEP, 3, "micro");
    ValueId embedding = graph_slice(graph, *micro, embeddings);
    ValueId micro_coords = graph_slice(graph, *micro, coords);
    ValueId micro_labels = graph_slice(graph, *micro, labels);
    *chunk = graph_region_open(graph, *micro, 4, "chunk");
    PromptInputs prompts = {.coords = graph_slice(graph, *chunk, micro_coords),
                            .labels = graph_slice(graph, *chunk, micro_labels)};
    DecoderOutputs outputs = build_decoder(context, model, embedding, prompts);
    cr_assert(graph->status == OK, "%s", status_message());
    int64_t side = model_lowres(model);
    cr_expect(shape_equal(graph_value(graph, outputs.masks)->shape, SHAPE(2, 5, 4, side, side)));
    cr_expect(shape_equal(graph_value(graph, outputs.iou)->shape, SHAPE(2, 5, 4)));
}

Test(model, shared_work_of_an_image_is_done_once)
{
    Model *model = load("efficientvit_sam_tiny");
    Store *store = declared(model, NULL);
    BuildContext context = {.graph = graph_create(), .store = store, .bn = BN_EVAL};
    RegionId micro, chunk;
    build_chunked(&context, model, &micro, &chunk);
    const Graph *graph = context.graph;
    cr_expect_eq(region_of(graph, OP_PE_GRID, "prompt_encoder.pe_layer"), REGION_STEP);
    cr_expect_eq(region_of(graph, OP_MATMUL, LAYER "0.cross_attn_token_to_image.k_proj"), micro);
    cr_expect_eq(region_of(graph, OP_MATMUL, LAYER "0.cross_attn_token_to_image.v_proj"), micro);
    cr_expect_eq(region_of(graph, OP_MATMUL, LAYER "0.cross_attn_image_to_token.q_proj"), micro);
    cr_expect_eq(region_of(graph, OP_MATMUL, LAYER "0.cross_attn_token_to_image.q_proj"), chunk);
    cr_expect_eq(region_of(graph, OP_MATMUL, LAYER "1.cross_attn_token_to_image.k_proj"), chunk);
    graph_destroy(context.graph);
    store_destroy(store);
    model_destroy(model);
}

/* ---- gates and initial weights ---- */

Test(model, gates)
{
    cr_expect_eq(model_gate("prompt_encoder.point_embeddings.0.weight"), GATE_POINTS);
    cr_expect_eq(model_gate("prompt_encoder.point_embeddings.1.weight"), GATE_POINTS);
    cr_expect_eq(model_gate("prompt_encoder.not_a_point_embed.weight"), GATE_POINTS);
    cr_expect_eq(model_gate("prompt_encoder.point_embeddings.2.weight"), GATE_BOXES);
    cr_expect_eq(model_gate("prompt_encoder.point_embeddings.3.weight"), GATE_BOXES);
    cr_expect_eq(model_gate("prompt_encoder.no_mask_embed.weight"), GATE_ALWAYS);
    cr_expect_eq(model_gate("mask_decoder.iou_token.weight"), GATE_ALWAYS);
}

static void moments_of(Store *store, const char *name, double *mean, double *std)
{
    int index = store_find(store, name);
    cr_assert_geq(index, 0, "%s", name);
    int64_t n = shape_elems(store->entries[index].shape);
    float *data = malloc((size_t)n * sizeof *data);
    Tensor host = {.dtype = DT_F32, .shape = store->entries[index].shape, .data = data};
    cr_assert_eq(store_get(store, index, &host), OK);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += data[i], squares += (double)data[i] * data[i];
    *mean = sum / (double)n;
    *std = sqrt(squares / (double)n - *mean * *mean);
    free(data);
}

Test(model, initial_weights)
{
    static const struct {
        const char *name;
        double mean, std;
    } wanted[] = {
        {"image_encoder.backbone.stages.1.op_list.0.main.spatial_conv.conv.weight", 0,
         0.06804}, /* 1/sqrt(3*8*9) */
        {"image_encoder.backbone.stages.1.op_list.0.main.point_conv.norm.weight", 1,
         0}, /* opens: no shortcut */
        {"image_encoder.backbone.stages.1.op_list.1.main.spatial_conv.norm.weight", 1, 0},
        {"image_encoder.backbone.stages.1.op_list.1.main.point_conv.norm.weight", 0, 0},
        {"image_encoder.backbone.stages.0.op_list.1.main.conv2.norm.weight", 0, 0},
        {"image_encoder.backbone.stages.4.op_list.1.context_module.main.proj.norm.weight", 0, 0},
        {"image_encoder.backbone.stages.4.op_list.1.local_module.main.point_conv.norm.weight", 0,
         0},
        {"image_encoder.backbone.stages.3.op_list.0.main.depth_conv.conv.bias", 0, 0},
        {"image_encoder.neck.middle.op_list.0.main.point_conv.norm.weight", 0, 0},
        {"image_encoder.norm.weight", 1, 0},
        {"image_encoder.neck.middle.op_list.0.main.point_conv.norm.running_var", 1, 0},
        {"image_encoder.neck.middle.op_list.0.main.point_conv.norm.running_mean", 0, 0},
        {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 0, 0.5},
        {"prompt_encoder.point_embeddings.3.weight", 0, 1},
        {"mask_decoder.mask_tokens.weight", 0, 1},
        {"mask_decoder.transformer.layers.0.mlp.lin1.weight", 0, 0.05103}, /* 1/sqrt(3*128) */
        {"mask_decoder.output_upscaling.0.weight", 0, 0.05103},
        {"mask_decoder.output_upscaling.1.weight", 1, 0},
    };
    Backend *backend;
    cr_assert(backend_open("ref", 1, &backend) == OK, "%s", status_message());
    Model *model = load("efficientvit_sam_tiny");
    Store *store = declared(model, backend);
    cr_assert_eq(store_allocate(store), OK);
    cr_assert(model_init(model, store, 7) == OK, "%s", status_message());
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        double mean, std;
        moments_of(store, wanted[i].name, &mean, &std);
        double slack = wanted[i].std > 0 ? 0.25 * wanted[i].std : 0;
        cr_expect_leq(fabs(mean - wanted[i].mean), slack, "%s: mean %g", wanted[i].name, mean);
        cr_expect_leq(fabs(std - wanted[i].std), slack, "%s: std %g", wanted[i].name, std);
    }
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
}
