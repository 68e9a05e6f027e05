/* See kat_bench.h. */
#include "tests/kat_bench.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/passes.h"
#include "base/memory.h"

/* In standard deviations of the row, suggested by the README. Batch statistics amplify rounding. */
#define VALUE_TOL 2e-5
#define MOMENT_TOL 1e-5

void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

void kat_bench_start(KatBench *b, const char *backend, const char *config, const char *table_path)
{
    char path[256];
    *b = (KatBench){.value_tol = VALUE_TOL, .moment_tol = MOMENT_TOL};
    must(kat_load(table_path, &b->table));
    snprintf(path, sizeof path, "configs/models/%s.yaml", config);
    must(model_load(path, &b->model));
    must(backend_open(backend, 0, &b->backend));
    b->store = store_create(b->backend);
    b->context = (BuildContext){.graph = graph_create(), .store = b->store, .bn = BN_EVAL};
}

void kat_bench_open(KatBench *b, const char *backend, const char *config, const char *table_path)
{
    kat_bench_start(b, backend, config, table_path);
    must(model_declare(b->model, b->store));
    must(store_allocate(b->store));
}

/* Keeps all module outputs, then makes the graph ready to run. */
void kat_bench_finish(KatBench *b)
{
    Graph *graph = b->context.graph;
    pass_fuse(graph);
    for (int i = 0; i < graph->n_modules; i++)
        graph_output(graph, graph->modules[i].value, graph->modules[i].path);
    if (b->precision != DT_NONE) pass_cast(graph, b->precision);
    pass_prune(graph);
    must(graph->status);
    must(exec_create(graph, b->backend, &b->exec));
}

void kat_bench_close(KatBench *b)
{
    exec_destroy(b->exec);
    free(b->context.bn_records);
    graph_destroy(b->context.graph);
    store_destroy(b->store);
    model_destroy(b->model);
    backend_close(b->backend);
    kat_free(&b->table);
}

float *kat_bench_read(KatBench *b, ValueId value, Shape *shape)
{
    *shape = graph_value(b->context.graph, value)->shape;
    float *data = mem_alloc((size_t)shape_elems(*shape) * sizeof *data);
    must(exec_read_f32(b->exec, value, data));
    return data;
}

ValueId kat_bench_module(const Graph *graph, const char *path)
{
    for (int i = 0; i < graph->n_modules; i++)
        if (strcmp(graph->modules[i].path, path) == 0) return graph->modules[i].value;
    cr_assert(false, "no module output %s", path);
    return VALUE_NONE;
}

void kat_expect_row(const KatBench *b, const KatRow *row, const float *values, int64_t n)
{
    KatReport report;
    bool equal = kat_compare(row, values, n, b->value_tol, b->moment_tol, &report);
    cr_expect(equal, "%s %s %s: %s", row->model, row->mode, row->item, report.text);
}

/* A module output in the table's order: `pixels_major` values are turned to channels first. */
void kat_expect_module(KatBench *b, const KatRow *row, const char *path, bool pixels_major)
{
    cr_assert_not_null(row, "no row for %s", path);
    Shape shape;
    float *values = kat_bench_read(b, kat_bench_module(b->context.graph, path), &shape);
    int64_t n = shape_elems(shape), channels = shape_dim_from_end(shape, 1);
    int64_t images = shape.rank == 4 ? shape.dim[0] : 1;
    if (pixels_major) {
        float *turned = mem_alloc((size_t)n * sizeof *turned);
        kat_channels_first(turned, values, images, n / images / channels, channels);
        kat_expect_row(b, row, turned, n);
        free(turned);
    } else {
        kat_expect_row(b, row, values, n);
    }
    free(values);
}

/* ---- image encoders ---- */

/* `shape` is that of the input: (N,S,S,3), or (1,N,S,S,3) for a step of one micro-batch. */
void kat_run_on_image(KatBench *b, Shape shape)
{
    float *pixels = mem_alloc((size_t)shape_elems(shape) * sizeof *pixels);
    int64_t side = model_image_size(b->model);
    kat_fill_map("kat.image", 2, pixels,
                 SHAPE(shape_elems(shape) / (side * side * 3), side, side, 3));
    must(exec_write(b->exec, graph_find_input(b->context.graph, "image"), pixels));
    free(pixels);
    must(exec_run(b->exec));
}

static void build_and_run_encoder(KatBench *b)
{
    int64_t side = model_image_size(b->model);
    Shape shape = SHAPE(1, side, side, 3);
    build_image_encoder(&b->context, b->model,
                        graph_input(b->context.graph, "image", DT_F32, shape));
    kat_bench_finish(b);
    kat_run_on_image(b, shape);
}

void kat_run_encoder(KatBench *b)
{
    must(kat_fill_store(b->store, "image_encoder."));
    build_and_run_encoder(b);
}

/* As eval, segment and teachers run it: norms folded into convolutions, weights in `precision`. */
void kat_run_frozen_encoder(KatBench *b, DType precision)
{
    b->context.bn = BN_FOLDED;
    b->context.low = b->precision = precision;
    must(model_declare_frozen(b->model, precision, b->store));
    must(store_allocate(b->store));
    must(model_freeze(b->model, kat_entry, NULL, b->store));
    build_and_run_encoder(b);
}

static bool is_module_row(const KatRow *row)
{
    return !strchr(row->item, ' '); /* others read "grad NAME", "after step NAME", "curve 3" */
}

/* Every module output of the model in the table. */
void kat_expect_encoder(KatBench *b, const char *model)
{
    int n_rows = 0;
    for (int i = 0; i < b->table.n_rows; i++) {
        const KatRow *row = &b->table.rows[i];
        char path[256];
        if (strcmp(row->model, model) != 0 || !is_module_row(row)) continue;
        bool embedding = strcmp(row->item, "embedding") == 0;
        snprintf(path, sizeof path, "image_encoder%s%s", embedding ? "" : ".",
                 embedding ? "" : row->item);
        kat_expect_module(b, row, path, true);
        n_rows++;
    }
    cr_expect_gt(n_rows, 10);
}
