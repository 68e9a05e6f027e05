/* Forward passes against the known answers of the official code: the L0 and XL0 encoders, SAM's
 * ViT-B, and the prompt encoder with the mask decoder in all cases of the table. Backend cpu, f32.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/kat_bench.h"
#include "tests/kat_decoder.h"
#include "tests/support.h"

/* Of the rows of a step in training: batch statistics amplify rounding. */
#define TRAIN_TOL 3e-4

/* ---- the rules themselves ---- */

Test(kat, hash)
{
    cr_expect_float_eq(kat_u("kat.image", 0), -0.37689292, 1e-8);
    cr_expect_float_eq(kat_u("kat.image", 1), -0.92437255, 1e-8);
    cr_expect_float_eq(kat_u("kat.image", 2), -0.87959385, 1e-8);
}

/* First, second and last element of entries, as the README prints them. */
Test(kat, weights)
{
    static const struct {
        const char *name;
        double first, second, last;
    } wanted[] = {
        {"image_encoder.backbone.stages.0.op_list.0.conv.weight", -0.0473922901, 0.0601991415,
         0.226960465},
        {"image_encoder.backbone.stages.0.op_list.0.norm.running_var", 1.21401358, 0.639958799,
         0.944921851},
        {"image_encoder.norm.weight", 1.00373316, 0.980581224, 1.09369504},
        {"mask_decoder.iou_token.weight", 0.147774458, -0.823905706, -0.0551857948},
        {"mask_decoder.output_upscaling.0.weight", -0.0377051346, 0.0802812576, 0.0342481993},
    };
    Model *model;
    Backend *backend;
    must(model_load("configs/models/efficientvit_sam_l0.yaml", &model));
    must(backend_open("cpu", 0, &backend));
    Store *store = store_create(backend);
    must(model_declare(model, store));
    must(store_allocate(store));
    must(kat_fill_store(store, ""));
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        int index = store_find(store, wanted[i].name);
        const StoreEntry *entry = &store->entries[index];
        int64_t n = shape_elems(entry->shape);
        float *data = mem_alloc((size_t)n * sizeof *data);
        must(store_get(store, index, &(Tensor){DT_F32, entry->shape, data}));
        cr_expect_float_eq(data[0], wanted[i].first, 1e-8, "%s", entry->name);
        cr_expect_float_eq(data[1], wanted[i].second, 1e-8, "%s", entry->name);
        cr_expect_float_eq(data[n - 1], wanted[i].last, 1e-8, "%s", entry->name);
        free(data);
    }
    store_destroy(store);
    model_destroy(model);
    backend_close(backend);
}

/* ---- image encoders ---- */

/* Two images with batch statistics, in the regions of a training step. */
static void run_training_encoder(KatBench *b)
{
    Graph *graph = b->context.graph;
    int64_t side = model_image_size(b->model);
    Shape shape = SHAPE(1, 2, side, side, 3);
    must(kat_fill_store(b->store, "image_encoder."));
    b->context.bn = BN_TRAIN;
    ValueId images = graph_input(graph, "image", DT_F32, shape);
    ValueId ok = graph_input(graph, "ok", DT_F32, SHAPE(1));
    RegionId micro = graph_region_open(graph, REGION_STEP, 1, "micro");
    build_image_encoder(&b->context, b->model, graph_slice(graph, micro, images));
    graph_region_close(graph, micro);
    build_bn_updates(&b->context, ok);
    kat_bench_finish(b);
    must(exec_write(b->exec, ok, &(float){1}));
    kat_run_on_image(b, shape);
}

/* Rows "after step NAME": running statistics; and every count of batches is 1. */
static void expect_running_statistics(KatBench *b)
{
    static const char prefix[] = "after step ";
    float values[8192];
    int64_t tracked;
    for (int i = 0; i < b->table.n_rows; i++) {
        const KatRow *row = &b->table.rows[i];
        if (strncmp(row->item, prefix, sizeof prefix - 1) != 0) continue;
        int index = store_find(b->store, row->item + sizeof prefix - 1);
        cr_assert_geq(index, 0, "%s", row->item);
        const StoreEntry *entry = &b->store->entries[index];
        must(store_get(b->store, index, &(Tensor){DT_F32, entry->shape, values}));
        kat_expect_row(b, row, values, shape_elems(entry->shape));
    }
    for (int i = 0; i < b->store->n_entries; i++) {
        if (b->store->entries[i].dtype != DT_I64) continue;
        must(store_get(b->store, i, &(Tensor){DT_I64, SHAPE_SCALAR, &tracked}));
        cr_expect_eq(tracked, 1, "%s: %lld", b->store->entries[i].name, (long long)tracked);
    }
}

static void expect_efficientvit_sam(const char *name)
{
    char path[256];
    KatBench b;
    SKIP_WITHOUT("spec/kat/efficientvit_sam_forward.tsv", path);
    kat_bench_open(&b, "cpu", name, path);
    kat_run_encoder(&b);
    kat_expect_encoder(&b, name);
    kat_bench_close(&b);
}

Test(kat, encoder_of_efficientvit_sam_l0) { expect_efficientvit_sam("efficientvit_sam_l0"); }

Test(kat, encoder_of_efficientvit_sam_xl0) { expect_efficientvit_sam("efficientvit_sam_xl0"); }

/* The norms are in the weights, and every value of the table is still met. */
static void expect_frozen(const char *name)
{
    char path[256];
    KatBench b;
    SKIP_WITHOUT("spec/kat/efficientvit_sam_forward.tsv", path);
    kat_bench_start(&b, "cpu", name, path);
    kat_run_frozen_encoder(&b, DT_F32);
    for (NodeId n = 0; n < b.context.graph->n_nodes; n++)
        cr_expect_neq(b.context.graph->nodes[n].op, OP_BATCHNORM_FROZEN);
    kat_expect_encoder(&b, name);
    kat_bench_close(&b);
}

Test(kat, frozen_encoder_of_efficientvit_sam_l0) { expect_frozen("efficientvit_sam_l0"); }

Test(kat, encoder_of_efficientvit_sam_l0_in_training)
{
    char path[256];
    KatBench b;
    SKIP_WITHOUT("spec/kat/efficientvit_sam_distill_step.tsv", path);
    kat_bench_open(&b, "cpu", "efficientvit_sam_l0", path);
    b.value_tol = b.moment_tol = TRAIN_TOL;
    run_training_encoder(&b);
    kat_expect_encoder(&b, "efficientvit_sam_l0");
    expect_running_statistics(&b);
    kat_bench_close(&b);
}

Test(kat, encoder_of_sam_vit_b)
{
    char path[256];
    KatBench b;
    SKIP_WITHOUT("spec/kat/sam_forward.tsv", path);
    kat_bench_open(&b, "cpu", "sam_vit_b", path);
    kat_run_encoder(&b);
    kat_expect_encoder(&b, "sam_vit_b");
    kat_bench_close(&b);
}

/* ---- prompt encoder and mask decoder ---- */

Test(kat, decoder_of_efficientvit_sam)
{
    for (int i = 0; i < kat_decoder_case_count(); i++)
        kat_expect_decoder("cpu", "efficientvit_sam", "efficientvit_sam_l0", i);
}

Test(kat, decoder_of_sam)
{
    for (int i = 0; i < kat_decoder_case_count(); i++)
        kat_expect_decoder("cpu", "sam", "sam_vit_b", i);
}

Test(kat, empty_slots_are_not_felt) { kat_expect_empty_slots_unfelt("cpu"); }
