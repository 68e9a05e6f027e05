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

/* ---- refusals ---- */

/* Loads the tiny student's config with `from` replaced by `to`; expects E_CONFIG and `message` in
 * its text. */
static void expect_refusal(const char *from, const char *to, const char *message)
{
    static char text[8192], changed[8192];
    FILE *file = fopen("configs/models/efficientvit_sam_tiny.yaml", "r");
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    char *at = strstr(text, from);
    cr_assert_not_null(at, "%s", from);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    char path[] = "/tmp/retort_test_model_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, changed, strlen(changed)), (ssize_t)strlen(changed));
    close(fd);
    Model *model = NULL;
    cr_expect_eq(model_load(path, &model), E_CONFIG, "%s", to);
    cr_expect_null(model);
    cr_expect_not_null(strstr(status_message(), message), "'%s' does not contain '%s'",
                       status_message(), message);
    unlink(path);
}

Test(model, bad_configs_are_refused)
{
    expect_refusal("grid:", "gird:", "grid"); /* unknown key, missing key */
    expect_refusal("  kind: efficientvit", "  kind: resnet", "efficientvit, vit");
    expect_refusal("heads: 8", "heads: 7", "do not divide");
    expect_refusal("heads: 8", "heads: 8\n  haeds: 8", "haeds"); /* unknown key, nothing missing */
    expect_refusal("inputs: [4, 3, 2]", "inputs: [5, 3, 2]", "inputs");
    expect_refusal("image_size: 128", "image_size: 120", "image_size");
    expect_refusal("aggregation_kernel: 5", "aggregation_kernel: 4", "even");
    expect_refusal("head_dim: 16", "head_dim: 24", "head_dim");
    expect_refusal("embed_dim: 128", "embed_dim: 100", "multiple of 8");
    expect_refusal("open: conv,", "open: conv, open_expand: 3,",
                   "open_expand"); /* would be ignored */
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
        {"image_encoder.backbone.stages.1.op_list.0.main.spatial_conv.conv.weight", 0, 0.02},
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
        {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 0, 1},
        {"prompt_encoder.point_embeddings.3.weight", 0, 1},
        {"mask_decoder.mask_tokens.weight", 0, 1},
        {"mask_decoder.transformer.layers.0.mlp.lin1.weight", 0, 0.02},
        {"mask_decoder.output_upscaling.0.weight", 0, 0.02},
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
