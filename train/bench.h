/* The parts of `retort bench`: the command, what it feeds, and the benchmark of the loader. */
#ifndef RETORT_TRAIN_BENCH_H
#define RETORT_TRAIN_BENCH_H

#include "train/options.h"
#include "train/step.h"

/* bench_feed_made_up: every input of `step` from the seed of tests, the same each time; masks are
 * rectangles, prompted by their boxes. errors  E_CONFIG for a step that wants image extents */
Status bench_feed_made_up(Step *step, Exec *exec, const Options *options);

/* What was measured, in the order of the runs. */
typedef struct BenchResult {
    const char *work, *model, *precision;
    int64_t batch, n_masks, repeat;
    int n_threads;
    double *seconds;          /* repeat entries */
    float *losses;            /* and one before, of the run that warms up; NULL: no loss */
    double macs;        /* of one run */
    double peak_gflops; /* as --peak says, else what one large matrix product reaches */
    int64_t planned_bytes, measured_bytes;
} BenchResult;

/* bench_ranked: the value that has `rank` smaller ones. bench_median, bench_minimum: of the seconds
 * of a result. */
double bench_ranked(const double *values, int64_t n, int64_t rank);
double bench_median(const BenchResult *result);
double bench_minimum(const BenchResult *result);
/* bench_write: as one JSON object. errors  E_FILE */
Status bench_write(const BenchResult *result, const char *path);

/* bench_resident_bytes: "VmRSS" (now) or "VmHWM" (the most that ever was) of this process. */
int64_t bench_resident_bytes(const char *key);

/* bench_loader: seconds of each loader_next over data.root, after one that warms up; prints where
 * the time of a sample goes, in time of one core, and what a worker takes.
 * out     NULL, or a file for the last batch: `image` (B,S,S,3), `masks` (B,M,S,S), `coords`,
 *         `labels`, as a step is fed
 * errors  those of recipe_open, recipe_open_source and loader_next */
Status bench_loader(const Options *options, const char *out, BenchResult *result);

#endif
