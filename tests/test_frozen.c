/* Frozen models: what their plans need, that files load into them as strictly as into a training
 * store, and that bf16 loses nothing by it. That their values are right is judged by known answers
 * (test_kat_forward.c, kat_long.c).
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/toy.h"
#include "train/weights.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- memory ---- */

/* The whole peak of one image's encoder, weights included; nothing is allocated. */
static double planned_gb(const char *name, DType precision)
{
    char path[256];
    Backend *backend;
    Model *model;
    Plan *plan;
    snprintf(path, sizeof path, "configs/models/%s.yaml", name);
    must(backend_open("cpu", 2, &backend));
    must(model_load(path, &model));
    Store *store = store_create(backend);
    must(model_declare_frozen(model, precision, store));
    Step *step = toy_encoder(model, store, BN_FOLDED, precision);
    must(plan_build(step->graph, backend, &plan));
    double gb = 1e-9 * (double)plan->memory.total;
    plan_destroy(plan);
    step_destroy(step);
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
    return gb;
}

Test(frozen, vit_h_in_f32_needs_less_than_4_gb)
{
    double gb = planned_gb("sam_vit_h", DT_F32);
    cr_expect_lt(gb, 4, "%.2f GB", gb);
}

Test(frozen, vit_h_in_bf16_needs_less_than_2_5_gb)
{
    double gb = planned_gb("sam_vit_h", DT_BF16);
    cr_expect_lt(gb, 2.5, "%.2f GB", gb);
}

/* ---- files ---- */

static Status toy_freeze(Toy *toy, int n_allow, const char *const *allow)
{
    return weights_freeze(toy->model, toy->frozen, toy->path, n_allow, allow, 1, toy->report,
                          sizeof toy->report);
}

/* The full store's weights without the entry `left_out`, and with one too many if `more`. */
static void toy_write(Toy *toy, const char *left_out, bool more)
{
    char all[320];
    WeightsFile *file;
    float one = 1;
    snprintf(all, sizeof all, "%s.all", toy->path);
    must(weights_save(&file_ops_system, toy->full, all));
    must(weights_file_open(all, &file));
    NamedTensor *items = mem_alloc((size_t)(file->n_tensors + 1) * sizeof *items);
    int n = 0;
    for (int i = 0; i < file->n_tensors; i++)
        if (!left_out || strcmp(file->tensors[i].name, left_out) != 0)
            items[n++] = file->tensors[i];
    if (more) items[n++] = (NamedTensor){"other", {DT_F32, SHAPE(1), &one}};
    must(safetensors_write(toy->path, n, items, 0, NULL));
    free(items);
    weights_file_close(file);
}

#define NORM_VAR "image_encoder.backbone.stages.1.op_list.1.main.spatial_conv.norm.running_var"

Test(frozen, files_load_as_strictly_as_for_training)
{
    Toy toy;
    char wanted[64];
    toy_open(&toy, "cpu", "frozen_strict", DT_F32);
    must(model_init(toy.model, toy.full, 1));
    toy_write(&toy, NULL, false);
    must(toy_freeze(&toy, 0, NULL));
    snprintf(wanted, sizeof wanted, ": %d tensors matched, 0 missing, 0 unexpected, sha256 ",
             toy.full->n_entries);
    cr_expect_not_null(strstr(toy.report, wanted), "said %s", toy.report);
    toy_write(&toy, NORM_VAR, false); /* no entry of the frozen store has this name */
    cr_expect_eq(toy_freeze(&toy, 0, NULL), E_SHAPE);
    cr_expect_not_null(strstr(status_message(), NORM_VAR " is missing"), "%s", status_message());
    must(toy_freeze(&toy, 1, (const char *const[]){"*.running_var"}));
    cr_expect_not_null(strstr(toy.report, "1 missing, 0 unexpected"), "said %s", toy.report);
    toy_write(&toy, NULL, true);
    cr_expect_eq(toy_freeze(&toy, 0, NULL), E_SHAPE);
    cr_expect_not_null(strstr(status_message(), "other is not part of the model"));
    toy_close(&toy);
}

/* ---- bf16 ---- */

Test(frozen, bf16_is_as_near_to_f32_as_unfolded_bf16)
{
    Toy toy;
    int64_t n;
    toy_open(&toy, "cpu", "frozen_bf16", DT_BF16);
    toy_init(&toy);
    toy_write(&toy, NULL, false);
    must(toy_freeze(&toy, 0, NULL));
    float *exact = toy_encode(&toy, toy.full, BN_EVAL, DT_F32, &n);
    float *unfolded = toy_encode(&toy, toy.full, BN_EVAL, DT_BF16, &n);
    float *frozen = toy_encode(&toy, toy.frozen, BN_FOLDED, DT_BF16, &n);
    double off = toy_distance(frozen, exact, n), off_unfolded = toy_distance(unfolded, exact, n);
    cr_expect_gt(off, 1e-4); /* it is bf16 indeed */
    cr_expect_lt(off, 1.25 * off_unfolded, "%g, unfolded %g", off, off_unfolded);
    free(exact);
    free(unfolded);
    free(frozen);
    toy_close(&toy);
}
