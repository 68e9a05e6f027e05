/* Known answers: weights and inputs that anybody can make from a hash, and tables of what the
 * official code gives for them. Used by test_kat_*.c.
 *
 * source  ../shared/spec/kat/README.md sections 1 to 6: rules, tables and tolerances
 */
#ifndef RETORT_TESTS_KAT_H
#define RETORT_TESTS_KAT_H

#include "autograd/store.h"

/* kat_u: u(name, index) in [-1,1), exact in f32. */
double kat_u(const char *name, uint64_t index);

/* kat_fill: dst[i] = scale * u(name, i), flat in PyTorch's order. */
void kat_fill(const char *name, double scale, float *dst, int64_t n);
/* kat_fill_map: the same for a map whose PyTorch order is N,C,H,W, laid down N,H,W,C; shape is
 * N,H,W,C. */
void kat_fill_map(const char *name, double scale, float *dst, Shape shape);

/* kat_fill_store: the weights of all parameters and buffers whose name begins with `prefix`; store
 * allocated. */
Status kat_fill_store(Store *store, const char *prefix);
/* kat_entry: the same of one entry, as an EntrySource (model/model.h). */
Status kat_entry(void *unused, const StoreEntry *entry, Tensor *host);

/* kat_channels_first: (n,pixels,channels) -> (n,channels,pixels). */
void kat_channels_first(float *dst, const float *src, int64_t n, int64_t pixels, int64_t channels);

typedef struct KatRow {
    char *model, *mode, *item, *shape;
    double a, b; /* mean, population standard deviation (of gradients: L2 norm); NaN: empty */
    bool none;   /* a gradient that does not exist */
    double v[6]; /* NaN: empty */
} KatRow;

typedef struct KatTable {
    char *text; /* the file; rows point into it */
    KatRow *rows;
    int n_rows, capacity;
} KatTable;

/* kat_load: errors  E_FILE, E_FORMAT. */
Status kat_load(const char *path, KatTable *out);
void kat_free(KatTable *table);
const KatRow *kat_find(const KatTable *table, const char *model, const char *mode,
                       const char *item); /* or NULL */

/* What is wrong with values that were compared; empty if nothing is. */
typedef struct KatReport {
    char text[1024];
} KatReport;

/* kat_compare: whether n values in PyTorch's order are those of a row.
 * units   value_tol: standard deviations of the row; moment_tol: the same, for mean and deviation.
 * A row without moments (a scalar in a, or all values in v) takes value_tol absolutely */
bool kat_compare(const KatRow *row, const float *values, int64_t n, double value_tol,
                 double moment_tol, KatReport *report);
/* kat_compare_moments: the same for a row with moments.
 * units   all three tolerances absolute: of the listed values, the mean, the standard deviation */
bool kat_compare_moments(const KatRow *row, const float *values, int64_t n, double value_tol,
                         double mean_tol, double deviation_tol, KatReport *report);
/* kat_compare_gradient: rows "grad NAME", whose b is the L2 norm.
 * units   norm_tol relative; element_tol: root mean squares of the row. A row whose norm is below
 * zero_below is a zero up to rounding: its values must be below zero_below, too */
bool kat_compare_gradient(const KatRow *row, const float *values, int64_t n, double norm_tol,
                          double element_tol, double zero_below, KatReport *report);

#endif
