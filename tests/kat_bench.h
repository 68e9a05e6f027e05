/* One forward pass against rows of a known-answer table: a model from its config with hash weights,
 * every module output kept and compared. Used by test_kat_forward.c, kat_long.c and kat_decoder.c.
 */
#ifndef RETORT_TESTS_KAT_BENCH_H
#define RETORT_TESTS_KAT_BENCH_H

#include "autograd/exec.h"
#include "model/model.h"
#include "tests/kat.h"

typedef struct KatBench { /* all that one forward pass needs */
    Backend *backend;
    Model *model;
    Store *store;
    BuildContext context;
    Exec *exec;
    KatTable table;
    double value_tol, moment_tol;
    DType precision; /* DT_NONE: f32 */
} KatBench;

/* must: fails the test with the message of a status. */
void must(Status status);

/* kat_bench_start: model, backend (by name) and table, with an empty store; kat_bench_open: its
 * entries declared and allocated, too. */
void kat_bench_start(KatBench *b, const char *backend, const char *config, const char *table_path);
void kat_bench_open(KatBench *b, const char *backend, const char *config, const char *table_path);
/* kat_bench_finish: keeps all module outputs, then makes the graph ready to run. */
void kat_bench_finish(KatBench *b);
void kat_bench_close(KatBench *b);

float *kat_bench_read(KatBench *b, ValueId value, Shape *shape); /* as f32, to be freed */
ValueId kat_bench_module(const Graph *graph, const char *path);

void kat_expect_row(const KatBench *b, const KatRow *row, const float *values, int64_t n);
/* kat_expect_module: a module output in the table's order: `pixels_major` values are turned to
 * channels first. */
void kat_expect_module(KatBench *b, const KatRow *row, const char *path, bool pixels_major);

/* kat_run_on_image: `shape` is that of the input: (N,S,S,3), or (1,N,S,S,3) for a step of one
 * micro-batch. */
void kat_run_on_image(KatBench *b, Shape shape);
void kat_run_encoder(KatBench *b);
/* kat_run_frozen_encoder: as eval, segment and teachers run it: norms folded into convolutions,
 * weights in `precision`; after kat_bench_start. */
void kat_run_frozen_encoder(KatBench *b, DType precision);
/* kat_expect_encoder: every module output of the model in the table. */
void kat_expect_encoder(KatBench *b, const char *model);

#endif
