/* What `retort inspect` says of a model, against the published numbers: every convolution of the
 * encoders, parameters and multiply-adds part by part, and the state dicts byte for byte.
 *
 * source  ../shared/spec/layers, numbers.md and state_dict
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes.h"
#include "autograd/rules.h"
#include "model/model.h"
#include "tests/program.h"
#include "tests/support.h"

/* ---- layers ---- */

typedef struct Encoder {
    Model *model;
    Store *store;
    Graph *graph;
} Encoder;

static void encoder_open(Encoder *e, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "configs/models/%s.yaml", name);
    cr_assert(model_load(path, &e->model) == OK, "%s", status_message());
    e->store = store_create(NULL);
    e->graph = graph_create();
    int64_t side = model_image_size(e->model);
    BuildContext context = {.graph = e->graph, .store = e->store, .bn = BN_EVAL};
    build_image_encoder(&context, e->model,
                        graph_input(e->graph, "image", DT_F32, SHAPE(1, side, side, 3)));
    pass_fuse(e->graph);
    cr_assert(e->graph->status == OK, "%s", status_message());
}

static void encoder_close(Encoder *e)
{
    graph_destroy(e->graph);
    store_destroy(e->store);
    model_destroy(e->model);
}

/* The node that reads `value`, if it is a norm or an activation: what follows a convolution. */
static const Node *follower(const Graph *graph, ValueId value)
{
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const Node *node = &graph->nodes[n];
        if (!node->dead && node->n_src > 0 && node->src[0] == value &&
            (node->op == OP_BATCHNORM_FROZEN || node->op == OP_ACT))
            return node;
    }
    return NULL;
}

static const char *act_name(Activation act)
{
    return act == ACT_GELU_TANH ? "gelu_tanh" : act == ACT_HARDSWISH ? "hardswish" : "-";
}

/* A convolution as a row of the tables; `norm` without its eps, which `eps` gives. */
static void describe(const Graph *graph, const Node *conv, char *text, size_t bytes, double *eps)
{
    Tensor src[3], dst = {.shape = graph_value(graph, conv->dst[0])->shape};
    for (int i = 0; i < 2; i++) src[i].shape = graph_value(graph, conv->src[i])->shape;
    const Node *next = follower(graph, conv->dst[0]);
    bool norm = next && next->op == OP_BATCHNORM_FROZEN;
    Activation act = !next  ? ACT_NONE
                     : norm ? next->attr.batchnorm_frozen.act
                            : next->attr.act.kind;
    const ConvAttr *a = &conv->attr.conv2d;
    *eps = norm ? next->attr.batchnorm_frozen.eps : 0;
    snprintf(text, bytes, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%d\t%d\t%lld", conv->label,
             (int)(src[1].shape.dim[3] * a->groups), (int)dst.shape.dim[3],
             (int)src[1].shape.dim[1], (int)a->stride, (int)a->pad, (int)a->groups,
             conv->src[2] != VALUE_NONE, norm ? "bn" : "-", act_name(act), (int)src[0].shape.dim[1],
             (int)dst.shape.dim[1], (long long)op_work(OP_CONV2D, &conv->attr, src, 2, &dst));
}

/* Cuts " eps=1e-06" out of a row, and returns the number; 0 if there is none. */
static double cut_eps(char *row)
{
    char *at = strstr(row, " eps="), *end;
    if (!at) return 0;
    double eps = strtod(at + 5, &end);
    memmove(at, end, strlen(end) + 1);
    return eps;
}

/* Every convolution below `prefix` is the row at its place, and there are no others. The tables of
 * bare backbones have the framework's eps, which no SAM has. */
static void compare_layers(const char *name, const char *table, const char *prefix, bool own_eps)
{
    char file[128], path[256], line[512], want[600], got[600];
    snprintf(file, sizeof file, "spec/layers/%s.tsv", table);
    SKIP_WITHOUT(file, path);
    FILE *rows = fopen(path, "r");
    Encoder e;
    encoder_open(&e, name);
    cr_assert_not_null(fgets(line, sizeof line, rows), "%s: no header", path);
    for (NodeId n = 0; n < e.graph->n_nodes; n++) {
        const Node *node = &e.graph->nodes[n];
        double eps;
        if (node->op != OP_CONV2D || strncmp(node->label, prefix, strlen(prefix)) != 0) continue;
        cr_assert_not_null(fgets(line, sizeof line, rows), "%s: no row for %s", table, node->label);
        line[strcspn(line, "\r\n")] = '\0';
        double want_eps = cut_eps(line);
        snprintf(want, sizeof want, "%s%s", own_eps ? "" : prefix, line);
        describe(e.graph, node, got, sizeof got, &eps);
        cr_assert_str_eq(got, want, "%s", table);
        cr_assert_float_eq(eps, own_eps || want_eps == 0 ? want_eps : 1e-6, 1e-12, "%s", want);
    }
    cr_assert_null(fgets(line, sizeof line, rows), "%s: too few layers, next is %s", name, line);
    fclose(rows);
    encoder_close(&e);
}

Test(inspect, layers_of_efficientvit_sam)
{
    static const char *const names[] = {"l0", "l1", "l2", "xl0", "xl1"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[32], table[64];
        snprintf(name, sizeof name, "efficientvit_sam_%s", names[i]);
        snprintf(table, sizeof table, "%s_encoder", name);
        compare_layers(name, table, "image_encoder.", true);
    }
}

Test(inspect, layers_of_other_backbones)
{
    static const char *const names[] = {"b0", "b1", "b2", "b3", "l3"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[32], table[64];
        snprintf(name, sizeof name, "efficientvit_sam_%s", names[i]);
        snprintf(table, sizeof table, "backbone_%s_at512", names[i]);
        compare_layers(name, table, "image_encoder.backbone.", false);
    }
}

/* ---- numbers ---- */

/* The cell of a column in the first row that begins with `row`, in a section of numbers.md; without
 * the commas of its number. Sections begin with "## N."; the first row of each is its header. */
static bool find_cell(const char *text, int section, const char *row, int column, char cell[64])
{
    char head[16], start[64];
    snprintf(head, sizeof head, "\n## %d.", section);
    snprintf(start, sizeof start, "\n| %s |", row);
    const char *at = strstr(text, head), *end = at ? strstr(at + 1, "\n## ") : NULL;
    at = at ? strstr(at, start) : NULL;
    if (!at || (end && at > end)) return false;
    at += 1;
    for (int i = 0; i <= column; i++) at = strchr(at, '|') + 1;
    int n = 0;
    for (; *at != '|'; at++)
        if (!strchr(", *", *at)) cell[n++] = *at;
    cell[n] = '\0';
    return true;
}

/* Sums of the lines of `retort inspect` whose name begins with `prefix`. */
static void sum_lines(const char *output, const char *prefix, long long *parameters,
                      long long *macs)
{
    char *copy = strdup(output), *rest = copy, *line;
    *parameters = *macs = 0;
    while ((line = strsep(&rest, "\n")) && *line) {
        char name[256], op[64], shape[64];
        long long p, m;
        if (sscanf(line, "%255s %63s %63s %lld %lld", name, op, shape, &p, &m) != 5) continue;
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        *parameters += p;
        *macs += m;
    }
    free(copy);
}

typedef struct Part {
    const char *row, *prefix;
} Part;

static const Part parts[] = {
    {"stage 0", "image_encoder.backbone.stages.0."},
    {"stage 1", "image_encoder.backbone.stages.1."},
    {"stage 2", "image_encoder.backbone.stages.2."},
    {"stage 3", "image_encoder.backbone.stages.3."},
    {"stage 4", "image_encoder.backbone.stages.4."},
    {"stage 5", "image_encoder.backbone.stages.5."},
    {"backbone", "image_encoder.backbone."},
    {"neck middle", "image_encoder.neck.middle."},
    {"neck output conv", "image_encoder.neck.output_ops.0."},
    {"final LN2d", "image_encoder.norm"},
    {"image encoder", "image_encoder."},
};

static void expect_part(const char *numbers, const char *output, const char *model, int column,
                        const Part *part)
{
    char cell[64];
    long long parameters, macs;
    sum_lines(output, part->prefix, &parameters, &macs);
    cr_assert(find_cell(numbers, 2, part->row, column, cell), "no row %s", part->row);
    if (strcmp(cell, "same") != 0)
        cr_expect_eq(parameters, atoll(cell), "%s %s: %lld parameters", model, part->row,
                     parameters);
    const char *row = strcmp(part->row, "neck output conv") == 0 ? "neck output"
                      : strcmp(part->row, "image encoder") == 0  ? "**total**"
                                                                 : part->row;
    if (find_cell(numbers, 3, row, column, cell))
        cr_expect_lt(fabs(1e-9 * (double)macs - atof(cell)), 0.00051, "%s %s: %lld MACs, wanted %s",
                     model, part->row, macs, cell);
}

static char *read_numbers(void)
{
    char path[256];
    return shared_path("spec/numbers.md", path, sizeof path) ? file_text(path) : NULL;
}

Test(inspect, numbers_of_efficientvit_sam)
{
    static const char *const names[] = {"l0", "l1", "l2", "xl0", "xl1"};
    char *numbers = read_numbers();
    if (!numbers) cr_skip_test("sample data spec/numbers.md is missing beside the checkout");
    for (int i = 0; i < 5; i++) {
        const ProgramResult *run = program_succeed(
            "inspect configs/models/efficientvit_sam_%s.yaml", names[i]);
        for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
            expect_part(numbers, run->out, names[i], i + 1, &parts[p]);
    }
    free(numbers);
}

/* "LABEL 12.345 GMACs" in the output. */
static double number_after(const char *output, const char *label)
{
    const char *at = strstr(output, label);
    cr_assert_not_null(at, "no '%s'", label);
    return strtod(at + strlen(label), NULL);
}

Test(inspect, numbers_of_sam)
{
    static const char *const names[] = {"b", "l", "h"};
    char *numbers = read_numbers(), cell[64];
    if (!numbers) cr_skip_test("sample data spec/numbers.md is missing beside the checkout");
    for (int i = 0; i < 3; i++) {
        long long parameters, macs;
        const ProgramResult *run = program_succeed("inspect configs/models/sam_vit_%s.yaml",
                                                   names[i]);
        sum_lines(run->out, "image_encoder", &parameters, &macs);
        cr_assert(find_cell(numbers, 5, "image encoder", i + 1, cell));
        cr_expect_eq(parameters, atoll(cell), "%s: %lld parameters", names[i], parameters);
        cr_assert(find_cell(numbers, 5, "**total**", i + 1, cell));
        double published = number_after(run->out, "padding of windows projected: ");
        cr_expect_lt(fabs(published - atof(cell)), 0.0011, "%s: %.3f GMACs, wanted %s", names[i],
                     published, cell);
        cr_assert(find_cell(numbers, 5, "neck", i + 1, cell));
        sum_lines(run->out, "image_encoder.neck.", &parameters, &macs);
        cr_expect_eq(parameters, atoll(cell), "%s: %lld parameters", names[i], parameters);
    }
    free(numbers);
}

Test(inspect, numbers_of_other_backbones)
{
    static const char *const names[] = {"b0", "b1", "b2", "b3", "l3"};
    char *numbers = read_numbers(), row[8], cell[64];
    if (!numbers) cr_skip_test("sample data spec/numbers.md is missing beside the checkout");
    for (int i = 0; i < 5; i++) {
        long long parameters, macs;
        const ProgramResult *run = program_succeed(
            "inspect configs/models/efficientvit_sam_%s.yaml", names[i]);
        sum_lines(run->out, "image_encoder.backbone.", &parameters, &macs);
        snprintf(row, sizeof row, "%c%c", names[i][0] - 'a' + 'A', names[i][1]);
        cr_assert(find_cell(numbers, 6, row, 1, cell), "no row %s", row);
        cr_expect_eq(parameters, atoll(cell), "%s: %lld parameters", row, parameters);
        cr_assert(find_cell(numbers, 6, row, 3, cell));
        cr_expect_lt(fabs(1e-9 * (double)macs - atof(cell)), 0.000051, "%s: %lld MACs, wanted %s",
                     row, macs, cell);
    }
    free(numbers);
}

/* ---- state dicts ---- */

Test(inspect, state_dicts_byte_for_byte)
{
    static const char *const names[] = {"efficientvit_sam_l0",
                                        "efficientvit_sam_l1",
                                        "efficientvit_sam_l2",
                                        "efficientvit_sam_xl0",
                                        "efficientvit_sam_xl1",
                                        "sam_vit_b",
                                        "sam_vit_l",
                                        "sam_vit_h"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char file[128], path[256];
        snprintf(file, sizeof file, "spec/state_dict/%s.tsv", names[i]);
        SKIP_WITHOUT(file, path);
        char *table = file_text(path);
        const ProgramResult *run = program_succeed("inspect configs/models/%s.yaml --state-dict",
                                                   names[i]);
        cr_expect(strcmp(run->out, table) == 0, "%s differs from %s", names[i], path);
        free(table);
    }
}
