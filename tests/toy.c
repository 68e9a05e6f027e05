/* A small student's encoder, trained and frozen. See toy.h. */
#include "tests/toy.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

void toy_open(Toy *toy, const char *backend, const char *folder_name, DType low)
{
    char folder[256];
    must(backend_open(backend, 1, &toy->backend));
    must(model_load("configs/models/efficientvit_sam_tiny.yaml", &toy->model));
    toy->full = store_create(toy->backend);
    toy->frozen = store_create(toy->backend);
    must(model_declare(toy->model, toy->full));
    must(model_declare_frozen(toy->model, low, toy->frozen));
    must(store_allocate(toy->full));
    must(store_allocate(toy->frozen));
    test_folder(folder_name, folder, sizeof folder);
    snprintf(toy->path, sizeof toy->path, "%s/w.safetensors", folder);
}

void toy_close(Toy *toy)
{
    store_destroy(toy->full);
    store_destroy(toy->frozen);
    model_destroy(toy->model);
    backend_close(toy->backend);
}

static void disturb_norm(Store *store, int i)
{
    const StoreEntry *entry = &store->entries[i];
    bool mean = strstr(entry->name, "running_mean"), var = strstr(entry->name, "running_var");
    bool norm = strstr(entry->name, ".norm.weight") || strstr(entry->name, ".norm.bias");
    if (!mean && !var && !norm) return;
    int64_t n = shape_elems(entry->shape);
    float *values = mem_alloc((size_t)n * sizeof *values);
    for (int64_t c = 0; c < n; c++)
        values[c] = (float)((var ? 1.5 : mean ? 0 : 0.8) + 0.7 * sin(1.3 * (double)(c + i)));
    must(store_set(store, i, &(Tensor){DT_F32, entry->shape, values}));
    free(values);
}

void toy_init(Toy *toy)
{
    must(model_init(toy->model, toy->full, 1));
    for (int i = 0; i < toy->full->n_entries; i++) disturb_norm(toy->full, i);
}

Step *toy_encoder(const Model *model, Store *store, BnMode bn, DType precision)
{
    Step *step;
    StepConfig config = {
        .kind = STEP_ENCODE, .bn = bn, .precision = precision, .batch = 1, .micro_batch = 1};
    must(step_build(&config, model, store, 0, &step));
    graph_output(step->graph, step->embedding, "embedding");
    must(step_finish(step));
    return step;
}

float *toy_encode(Toy *toy, Store *store, BnMode bn, DType precision, int64_t *n)
{
    Exec *exec;
    Step *step = toy_encoder(toy->model, store, bn, precision);
    must(exec_create(step->graph, toy->backend, &exec));
    Shape image = graph_value(step->graph, step->image)->shape;
    float *pixels = mem_alloc((size_t)shape_elems(image) * sizeof *pixels);
    for (int64_t i = 0; i < shape_elems(image); i++) pixels[i] = (float)sin(0.37 * (double)i);
    must(exec_write(exec, step->image, pixels));
    must(exec_run(exec));
    *n = shape_elems(graph_value(step->graph, step->embedding)->shape);
    float *embedding = mem_alloc((size_t)*n * sizeof *embedding);
    must(exec_read_f32(exec, step->embedding, embedding));
    free(pixels);
    exec_destroy(exec);
    step_destroy(step);
    return embedding;
}

double toy_distance(const float *a, const float *b, int64_t n)
{
    double squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double off = (double)a[i] - (b ? (double)b[i] : 0);
        squares += off * off;
    }
    return sqrt(squares / (double)n);
}
