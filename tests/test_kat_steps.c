/* Whole training steps of L0 against the known answers of the official code: one distillation step
 * and one fine-tuning step in four cases, with every parameter's gradient, and ten-step curves.
 * Through the program itself: files in, `retort trace`, files out, so what is checked is what a
 * user compares with PyTorch.
 *
 * Tolerances are those of the tables' README (what float32 itself costs, with a margin). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/safetensors.h"
#include "model/model.h"
#include "tests/kat.h"
#include "tests/support.h"
#include "train/weights.h"

#ifndef RETORT_BINARY
#define RETORT_BINARY "build/retort"
#endif

enum {
    BATCH = 2,
    SIDE = 512,
    N_MASKS = 6,
    N_POINTS = 4,
    N_LOSS_POINTS = 1024,
    GRID = 64,
    DIM = 256,
    LOWRES = 256
};
#define CONFIG "configs/models/efficientvit_sam_l0.yaml"
#define RECIPE "configs/recipes/finetune_l0_paper.yaml"

/* ---- inputs ---- */

static float *floats(int64_t n) { return mem_alloc((size_t)n * sizeof(float)); }

static NamedTensor hashed(const char *name, const char *hash_name, double scale, Shape shape)
{
    float *values = floats(shape_elems(shape));
    kat_fill(hash_name, scale, values, shape_elems(shape));
    return (NamedTensor){name, {.dtype = DT_F32, .shape = shape, .data = values}};
}

static void write_weights(const char *path)
{
    Backend *backend;
    Model *model;
    cr_assert_eq(backend_open("ref", 1, &backend), OK);
    cr_assert_eq(model_load(CONFIG, &model), OK, "%s", status_message());
    Store *store = store_create(backend);
    cr_assert_eq(model_declare(model, store), OK, "%s", status_message());
    cr_assert_eq(store_allocate(store), OK);
    cr_assert_eq(kat_fill_store(store, ""), OK);
    cr_assert_eq(weights_save(&file_ops_system, store, path), OK, "%s", status_message());
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
}

static void write_inputs(const char *path, int n, const NamedTensor *tensors)
{
    cr_assert_eq(safetensors_write(path, n, tensors, 0, NULL), OK, "%s", status_message());
}

/* ---- running ---- */

typedef struct Run {
    char folder[128], weights[192], inputs[192];
    KatTable table;
    SafeTensors *out;
    const char *mode;
} Run;

static void open_run(Run *run, const char *name, const char *table)
{
    char path[256];
    shared_path(table, path, sizeof path);
    cr_assert_eq(kat_load(path, &run->table), OK, "%s", status_message());
    test_folder(name, run->folder, sizeof run->folder);
    snprintf(run->weights, sizeof run->weights, "%s/weights.safetensors", run->folder);
    snprintf(run->inputs, sizeof run->inputs, "%s/inputs.safetensors", run->folder);
    write_weights(run->weights);
}

static void trace(Run *run, int steps, const char *save, const char *options)
{
    char command[1024], out[192];
    snprintf(out, sizeof out, "%s/out.safetensors", run->folder);
    if (run->out) safetensors_close(run->out);
    snprintf(command, sizeof command,
             RETORT_BINARY " trace " RECIPE " --run.precision=f32 --optim.lr_batch=0 "
                           "--optim.schedule=constant --weights=%s --inputs=%s --steps=%d "
                           "--save='%s' --out=%s %s 2>%s/log",
             run->weights, run->inputs, steps, save, out, options, run->folder);
    cr_assert_eq(system(command), 0, "failed: %s", command);
    cr_assert_eq(safetensors_open(out, &run->out), OK, "%s", status_message());
}

static void close_run(Run *run)
{
    safetensors_close(run->out);
    kat_free(&run->table);
    char unused[128];
    test_folder(strrchr(run->folder, '/') + 1, unused, sizeof unused); /* the weights are 140 MB */
}

static const float *result(const Run *run, const char *name, int64_t *n)
{
    const Tensor *tensor = safetensors_find(run->out, name);
    cr_assert_not_null(tensor, "no tensor %s in the trace", name);
    *n = shape_elems(tensor->shape);
    return tensor->data;
}

static double relative(double got, double wanted) { return fabs(got - wanted) / fabs(wanted); }

/* ---- checks ---- */

typedef struct GradTolerance {
    double encoder_norm, encoder_element, other_norm, other_element;
} GradTolerance;

/* Gradients that are zero up to rounding, by the README: the biases of the seven k_proj, and one
 * norm's. */
static bool is_rounding_zero(const char *name)
{
    return strstr(name, "k_proj.bias") ||
           strcmp(name, "image_encoder.backbone.stages.4.op_list.4.local_module.main.point_conv."
                        "norm.bias") == 0;
}

static int check_gradients(const Run *run, GradTolerance tol)
{
    int n_checked = 0;
    for (int i = 0; i < run->table.n_rows; i++) {
        const KatRow *row = &run->table.rows[i];
        if (strcmp(row->mode, run->mode) != 0 || strncmp(row->item, "grad ", 5) != 0) continue;
        char name[300];
        snprintf(name, sizeof name, "grad.%s", row->item + 5);
        n_checked++;
        if (row->none) {
            cr_expect_null(safetensors_find(run->out, name), "%s exists, PyTorch has none", name);
            continue;
        }
        int64_t n;
        KatReport report;
        const float *values = result(run, name, &n);
        bool encoder = strncmp(row->item + 5, "image_encoder.", 14) == 0;
        bool same = kat_compare_gradient(row, values, n,
                                         encoder ? tol.encoder_norm : tol.other_norm,
                                         encoder ? tol.encoder_element : tol.other_element,
                                         is_rounding_zero(row->item + 5) ? 1e-6 : 0, &report);
        cr_expect(same, "%s %s", run->mode, report.text);
    }
    return n_checked;
}

/* Rows whose item starts with `prefix`; their results are called `result_prefix` + the rest of the
 * item.
 * units    tol: standard deviations of the row
 * returns  their number */
static int check_values(const Run *run, const char *prefix, const char *result_prefix, double tol)
{
    int n_checked = 0;
    for (int i = 0; i < run->table.n_rows; i++) {
        const KatRow *row = &run->table.rows[i];
        size_t length = strlen(prefix);
        if (strcmp(row->mode, run->mode) != 0 || strncmp(row->item, prefix, length) != 0) continue;
        char name[300];
        snprintf(name, sizeof name, "%s%s", result_prefix, row->item + length);
        int64_t n;
        KatReport report;
        const float *values = result(run, name, &n);
        cr_expect(kat_compare(row, values, n, tol, tol, &report), "%s", report.text);
        n_checked++;
    }
    return n_checked;
}

/* Gradient elements that f32 may take for positive or negative: see check_gradients. */
static int64_t open_signs(const float *gradient, int64_t n, double element_tol)
{
    double squares = 0;
    int64_t n_open = 0;
    for (int64_t i = 0; i < n; i++) squares += (double)gradient[i] * gradient[i];
    for (int64_t i = 0; i < n; i++)
        if (fabs(gradient[i]) < element_tol * sqrt(squares / (double)n)) n_open++;
    return n_open;
}

/* Adam's first step moves an element by lr * sign(gradient), so one whose sign is open may lie 2 lr
 * away. The listed elements are held to 1e-6; mean and deviation, besides, to what the open signs
 * can do to them: n of N elements that move by d change the mean by at most d n/N, and the
 * deviation by d sqrt(n/N).
 * returns  the number of rows */
static int check_first_update(const Run *run, double lr, double element_tol)
{
    static const char prefix[] = "parameter after 1 updates ";
    int n_checked = 0;
    for (int i = 0; i < run->table.n_rows; i++) {
        const KatRow *row = &run->table.rows[i];
        if (strncmp(row->item, prefix, strlen(prefix)) != 0) continue;
        char name[300];
        int64_t n;
        KatReport report;
        snprintf(name, sizeof name, "grad.%s", row->item + strlen(prefix));
        const float *gradient = result(run, name, &n);
        double open = (double)open_signs(gradient, n, element_tol) / (double)n;
        snprintf(name, sizeof name, "param.%s", row->item + strlen(prefix));
        double mean_tol = 1e-6 + 2 * lr * open, deviation_tol = 1e-6 + 2 * lr * sqrt(open);
        cr_expect(kat_compare_moments(row, result(run, name, &n), n, 1e-6, mean_tol, deviation_tol,
                                      &report),
                  "%s", report.text);
        n_checked++;
    }
    return n_checked;
}

static void check_curve(const Run *run, const char *item, int n_steps, double first_tol,
                        int n_first, double later_tol)
{
    int64_t n;
    const float *loss = result(run, "loss", &n);
    cr_assert_eq(n, n_steps);
    for (int s = 0; s < n_steps; s++) {
        char name[64];
        snprintf(name, sizeof name, "%s%d", item, s);
        const KatRow *row = kat_find(&run->table, "efficientvit_sam_l0", run->mode, name);
        cr_assert_not_null(row);
        double off = relative(loss[s], row->a), tol = s < n_first ? first_tol : later_tol;
        cr_expect_lt(off, tol, "%s: got %.9g, wanted %.9g, off by %.2g", name, loss[s], row->a,
                     off);
    }
}

/* ---- distillation ---- */

static void write_distill_inputs(const char *path)
{
    NamedTensor tensors[] = {hashed("image", "kat.image", 2, SHAPE(BATCH, 3, SIDE, SIDE)),
                             hashed("target", "kat.target", 1, SHAPE(BATCH, DIM, GRID, GRID))};
    write_inputs(path, 2, tensors);
}

/* What the table has rows for; every module's output would be a gigabyte. */
#define DISTILL_RESULTS                                                                            \
    "loss,embedding,grad.*,param.*,buffer.*,act.image_encoder.backbone.stages.?,"                  \
    "act.image_encoder.backbone.stages.?.op_list.?,act.image_encoder.neck.middle,"                 \
    "act.image_encoder.neck.middle.op_list.?,act.image_encoder.neck.*put_ops.?"

Test(kat_steps, distillation, .timeout = 1200)
{
    char path[256];
    SKIP_WITHOUT("spec/kat/efficientvit_sam_distill_step.tsv", path);
    Run run = {.mode = "train"};
    open_run(&run, "kat_distill", "spec/kat/efficientvit_sam_distill_step.tsv");
    write_distill_inputs(run.inputs);

    trace(&run, 1, DISTILL_RESULTS, "--optim.lr=1e-3 --optim.clip=none");
    cr_expect_eq(check_values(&run, "backbone.", "act.image_encoder.backbone.", 3e-4),
                 21);
    cr_expect_eq(check_values(&run, "neck.", "act.image_encoder.neck.", 3e-4), 9);
    cr_expect_eq(check_values(&run, "embedding", "embedding", 3e-4), 1);
    cr_expect_eq(check_gradients(&run, (GradTolerance){2e-3, 2e-2, 0, 0}), 164);
    cr_expect_eq(check_values(&run, "after step ", "buffer.", 3e-4), 72);
    cr_expect_eq(check_first_update(&run, 1e-3, 2e-2), 6);
    check_curve(&run, "curve ", 1, 1e-6, 1, 0);

    trace(&run, 10, "loss", "--optim.lr=1e-3 --optim.clip=none");
    check_curve(&run, "curve ", 10, 1e-6, 1, 3e-2);
    trace(&run, 5, "loss", "--optim.lr=1e-5 --optim.clip=none");
    check_curve(&run, "curve lr 1e-5 ", 5, 1e-5, 2, 3e-3);
    close_run(&run);
}

/* ---- fine-tuning ---- */

typedef struct MaskShape {
    bool disc;
    int a, b, c, d;
} MaskShape;
static const MaskShape mask_shapes[BATCH * N_MASKS] = {
    {1, 150, 140, 90, 0},  {0, 165, 264, 219, 500}, {1, 380, 360, 25, 0},    {0, 60, 400, 63, 402},
    {1, 256, 256, 230, 0}, {0, 0, 470, 511, 511},   {1, 469, 502, 213, 0},   {0, 10, 10, 30, 500},
    {1, 500, 20, 40, 0},   {0, 250, 250, 251, 251}, {0, 200, 120, 420, 330}, {1, 333, 77, 3, 0},
};

static bool inside(MaskShape s, int x, int y)
{
    if (s.disc) return (x - s.a) * (x - s.a) + (y - s.b) * (y - s.b) <= s.c * s.c;
    return x >= s.a && x <= s.c && y >= s.b && y <= s.d;
}

/* Foreground pixels in row-major order; returns their number. */
static int list_pixels(MaskShape shape, int (*pixels)[2])
{
    int n = 0;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            if (inside(shape, x, y)) pixels[n][0] = x, pixels[n++][1] = y;
    return n;
}

static void make_prompt(int image, MaskShape shape, float *box, float *points, float *labels)
{
    int(*pixels)[2] = mem_alloc(SIDE * SIDE * sizeof *pixels);
    int n = list_pixels(shape, pixels), low[2] = {SIDE, SIDE}, high[2] = {0, 0};
    for (int i = 0; i < n; i++)
        for (int axis = 0; axis < 2; axis++) {
            if (pixels[i][axis] < low[axis]) low[axis] = pixels[i][axis];
            if (pixels[i][axis] > high[axis]) high[axis] = pixels[i][axis];
        }
    for (int i = 0; i < 4; i++) /* image 0 has boxes, image 1 points */
        box[i] = image == 0 ? 2.0f * (float)(i < 2 ? low[i] : high[i - 2]) : NAN;
    for (int j = 0; j < N_POINTS; j++) {
        int at = n * (2 * j + 1) / (2 * N_POINTS);
        points[2 * j] = 2.0f * (float)pixels[at][0];
        points[2 * j + 1] = 2.0f * (float)pixels[at][1];
        labels[j] = image == 0 ? -2 : 1;
    }
    free(pixels);
}

static NamedTensor masks_tensor(void)
{
    NamedTensor tensor = {"masks", {.dtype = DT_F32, .shape = SHAPE(BATCH, N_MASKS, SIDE, SIDE)}};
    float *value = tensor.tensor.data = floats(shape_elems(tensor.tensor.shape));
    for (int m = 0; m < BATCH * N_MASKS; m++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++) *value++ = inside(mask_shapes[m], x, y);
    return tensor;
}

static NamedTensor loss_points_tensor(int n_candidates)
{
    Shape shape = SHAPE(BATCH, N_MASKS, n_candidates, N_LOSS_POINTS, 2);
    float *values = floats(shape_elems(shape));
    for (int64_t m = 0; m < BATCH * N_MASKS; m++)
        for (int64_t c = 0; c < n_candidates; c++)
            for (int64_t p = 0; p < N_LOSS_POINTS; p++) {
                uint64_t i = (uint64_t)((m * 3 + c) * N_LOSS_POINTS + p);
                float *at = values + 2 * ((m * n_candidates + c) * N_LOSS_POINTS + p);
                at[0] = (float)((kat_u("kat.pts.x", i) + 1) / 2);
                at[1] = (float)((kat_u("kat.pts.y", i) + 1) / 2);
            }
    return (NamedTensor){"loss_points", {.dtype = DT_F32, .shape = shape, .data = values}};
}

static void write_finetune_inputs(const char *path, bool multi, bool released)
{
    float *boxes = floats(BATCH * N_MASKS * 4), *points = floats(BATCH * N_MASKS * N_POINTS * 2);
    float *labels = floats(BATCH * N_MASKS * N_POINTS), *mode = floats(1);
    for (int m = 0; m < BATCH * N_MASKS; m++)
        make_prompt(m / N_MASKS, mask_shapes[m], boxes + 4 * m, points + 2 * N_POINTS * m,
                    labels + N_POINTS * m);
    mode[0] = multi;
    NamedTensor tensors[] = {
        hashed("image", "kat.image", 2, SHAPE(BATCH, 3, SIDE, SIDE)),
        masks_tensor(),
        {"boxes", {.dtype = DT_F32, .shape = SHAPE(BATCH, N_MASKS, 4), .data = boxes}},
        {"points", {.dtype = DT_F32, .shape = SHAPE(BATCH, N_MASKS, N_POINTS, 2), .data = points}},
        {"labels", {.dtype = DT_F32, .shape = SHAPE(BATCH, N_MASKS, N_POINTS), .data = labels}},
        {"multi", {.dtype = DT_F32, .shape = SHAPE(1), .data = mode}},
        loss_points_tensor(multi ? 3 : 1),
    };
    write_inputs(path, released ? 7 : 6, tensors);
}

static int image_and_mask(const char *item, const char *name, int *mask)
{
    int image = -1;
    char form[64];
    *mask = -1;
    snprintf(form, sizeof form, "%s image %%d mask %%d", name);
    return sscanf(item, form, &image, mask) >= 1 ? image : -1;
}

/* Rows "NAME image B mask M" or "NAME image B" against the slice of a (B,M,..) result. */
static int check_masks(const Run *run, const char *name, double value_tol, bool relative_tol)
{
    int n_checked = 0;
    for (int i = 0; i < run->table.n_rows; i++) {
        const KatRow *row = &run->table.rows[i];
        int mask,
            image = strcmp(row->mode, run->mode) == 0 ? image_and_mask(row->item, name, &mask) : -1;
        if (image < 0) continue;
        int64_t n;
        KatReport report;
        const float *values = result(run, name, &n);
        int64_t per_image = n / BATCH, per_mask = per_image / N_MASKS;
        values += image * per_image + (mask >= 0 ? mask * per_mask : 0);
        if (!relative_tol) {
            bool same = kat_compare(row, values, mask >= 0 ? per_mask : per_image, value_tol,
                                    value_tol, &report);
            cr_expect(same, "%s %s", run->mode, report.text);
        }
        for (int c = 0; relative_tol && c < per_mask; c++)
            cr_expect_lt(relative(values[c], row->v[c]), value_tol,
                         "%s %s: candidate %d: got %.9g, wanted %.9g", run->mode, row->item, c,
                         values[c], row->v[c]);
        n_checked++;
    }
    return n_checked;
}

static void check_winners(const Run *run)
{
    int64_t n;
    const float *values = result(run, "candidates", &n);
    int n_candidates = (int)(n / (BATCH * N_MASKS));
    for (int m = 0; m < BATCH * N_MASKS && n_candidates == 3; m++) {
        char item[64];
        snprintf(item, sizeof item, "candidates image %d mask %d", m / N_MASKS, m % N_MASKS);
        const KatRow *row = kat_find(&run->table, "efficientvit_sam_l0", run->mode, item);
        int best = 0;
        for (int c = 1; c < 3; c++)
            if (values[3 * m + c] < values[3 * m + best]) best = c;
        cr_expect_eq(best, (int)row->b, "%s %s: candidate %d won, not %d", run->mode, item, best,
                     (int)row->b);
    }
}

static void check_case(Run *run, const char *mode, int n_steps)
{
    bool multi = strncmp(mode, "multi", 5) == 0, released = strstr(mode, "released") != NULL;
    run->mode = mode;
    write_finetune_inputs(run->inputs, multi, released);
    trace(run, n_steps, "loss,lowres,iou,focal,bce,dice,candidates,grad.*,param.*",
          released ? "--optim.lr=1e-4 --optim.clip=value --loss.kind=bce_points --run.mask_chunk=4"
                   : "--optim.lr=1e-4 --optim.clip=value --loss.kind=focal --run.mask_chunk=4");
    if (!released) {
        cr_expect_eq(check_masks(run, "lowres", 3e-4, false), BATCH);
        cr_expect_eq(check_masks(run, "iou", 3e-4, false), BATCH);
    }
    cr_expect_eq(check_masks(run, released ? "bce" : "focal", 3e-5, true), BATCH * N_MASKS);
    cr_expect_eq(check_masks(run, "dice", 3e-5, true), BATCH * N_MASKS);
    cr_expect_eq(check_masks(run, "candidates", 3e-5, true), BATCH * N_MASKS);
    check_winners(run);
    cr_expect_eq(check_gradients(run, (GradTolerance){3e-3, 2e-2, 1e-4, 1e-3}), 300);
    int64_t n;
    const KatRow *loss = kat_find(&run->table, "efficientvit_sam_l0", mode, "loss");
    cr_expect_lt(relative(result(run, "loss", &n)[0], loss->a), 3e-5);
}

/* A parameter that took no part is not touched; one whose gradient is zero decays and nothing else.
 */
static void check_after_ten(Run *run)
{
    cr_expect_eq(check_values(run, "parameter after 10 updates ", "param.", 0.1), 7);
    const char *exact[] = {"prompt_encoder.point_embeddings.0.weight",
                           "mask_decoder.output_hypernetworks_mlps.0.layers.0.weight",
                           "mask_decoder.iou_prediction_head.layers.0.weight"};
    for (int i = 0; i < 3; i++) {
        char item[300], name[300];
        int64_t n;
        KatReport report;
        snprintf(item, sizeof item, "parameter after 10 updates %s", exact[i]);
        snprintf(name, sizeof name, "param.%s", exact[i]);
        const KatRow *row = kat_find(&run->table, "efficientvit_sam_l0", "multi.paper", item);
        cr_assert_not_null(row, "no row %s", item);
        const float *values = result(run, name, &n);
        cr_expect(kat_compare(row, values, n, 1e-6, 1e-6, &report), "%s", report.text);
    }
}

Test(kat_steps, finetuning, .timeout = 2400)
{
    char path[256];
    SKIP_WITHOUT("spec/kat/efficientvit_sam_finetune_step.tsv", path);
    Run run = {0};
    open_run(&run, "kat_finetune", "spec/kat/efficientvit_sam_finetune_step.tsv");
    check_case(&run, "single.paper", 1);
    check_case(&run, "multi.released", 1);
    check_case(&run, "single.released", 1);
    check_case(&run, "multi.paper", 10);
    check_curve(&run, "curve ", 10, 1e-3, 2, 3e-2);
    check_after_ten(&run);
    close_run(&run);
}
