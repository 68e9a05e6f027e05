/* Hash weights, tables and comparison of the known answers. See kat.h. */
#include "tests/kat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

/* ---- numbers from names ---- */

static double u_of_hash(uint64_t hash, uint64_t index)
{
    uint64_t z = hash + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 40) * 0x1p-23 - 1;
}

double kat_u(const char *name, uint64_t index) { return u_of_hash(rng_name_hash(name), index); }

void kat_fill(const char *name, double scale, float *dst, int64_t n)
{
    uint64_t hash = rng_name_hash(name);
    for (int64_t i = 0; i < n; i++) dst[i] = (float)(scale * u_of_hash(hash, (uint64_t)i));
}

void kat_fill_map(const char *name, double scale, float *dst, Shape shape)
{
    uint64_t hash = rng_name_hash(name);
    int64_t pixels = shape.dim[1] * shape.dim[2], channels = shape.dim[3];
    for (int64_t n = 0; n < shape.dim[0]; n++)
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c++)
                *dst++ = (float)(scale *
                                 u_of_hash(hash, (uint64_t)((n * channels + c) * pixels + p)));
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* Every weight is offset + scale * u; the first rule that applies, in the order of the README. */
static void rule_of(const StoreEntry *entry, double *offset, double *scale)
{
    const char *name = entry->name;
    *offset = 0;
    if (ends_with(name, "running_mean")) {
        *scale = 0.1;
    } else if (ends_with(name, "running_var")) {
        *offset = 1, *scale = 0.5;
    } else if (ends_with(name, "pos_embed")) {
        *scale = 0.5;
    } else if (ends_with(name, "gaussian_matrix")) {
        *scale = 1;
    } else if (ends_with(name, "bias")) {
        *scale = 0.1;
    } else if (entry->shape.rank == 1) {
        *offset = 1, *scale = 0.1;
    } else if (entry->shape.rank == 2 &&
               (strncmp(name, "prompt_encoder.", 15) == 0 || ends_with(name, "token.weight") ||
                ends_with(name, "tokens.weight"))) {
        *scale = 1;
    } else {
        *scale = sqrt(3.0 / ((double)shape_elems(entry->shape) / (double)entry->shape.dim[0]));
    }
}

Status kat_entry(void *unused, const StoreEntry *entry, Tensor *host)
{
    (void)unused;
    memset(host->data, 0, tensor_bytes(host)); /* num_batches_tracked */
    if (entry->dtype != DT_F32) return OK;
    double offset, scale;
    uint64_t hash = rng_name_hash(entry->name);
    float *data = host->data;
    int64_t n = shape_elems(entry->shape);
    rule_of(entry, &offset, &scale);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(offset + scale * u_of_hash(hash, (uint64_t)i));
    return OK;
}

static Status fill_entry(Store *store, int index)
{
    const StoreEntry *entry = &store->entries[index];
    Tensor host = {.dtype = entry->dtype, .shape = entry->shape};
    host.data = mem_alloc(tensor_bytes(&host));
    Status status = kat_entry(NULL, entry, &host);
    if (status == OK) status = store_set(store, index, &host);
    free(host.data);
    return status;
}

Status kat_fill_store(Store *store, const char *prefix)
{
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (entry->kind != STORE_PARAMETER && entry->kind != STORE_BUFFER) continue;
        if (strncmp(entry->name, prefix, strlen(prefix)) == 0) TRY(fill_entry(store, i));
    }
    return OK;
}

void kat_channels_first(float *dst, const float *src, int64_t n, int64_t pixels, int64_t channels)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c++)
                dst[(i * channels + c) * pixels + p] = src[(i * pixels + p) * channels + c];
}

/* ---- tables ---- */

static Status read_file(const char *path, char **out)
{
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(E_FILE, "%s: cannot be opened", path);
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    *out = mem_alloc(bytes + 1);
    size_t got = fread(*out, 1, bytes, file);
    fclose(file);
    return got == bytes ? OK : status_fail(E_FILE, "%s: cannot be read", path);
}

/* Cuts the field off the front of *rest. */
static char *next_field(char **rest)
{
    char *field = strsep(rest, "\t");
    return field ? field : "";
}

static double number(const char *field)
{
    return *field && strcmp(field, "none") != 0 ? strtod(field, NULL) : NAN;
}

static KatRow parse_row(char *line)
{
    KatRow row = {0};
    row.model = next_field(&line);
    row.mode = next_field(&line);
    row.item = next_field(&line);
    row.shape = next_field(&line);
    const char *a = next_field(&line);
    row.none = strcmp(a, "none") == 0;
    row.a = number(a);
    row.b = number(next_field(&line));
    for (int i = 0; i < 6; i++) row.v[i] = number(next_field(&line));
    return row;
}

Status kat_load(const char *path, KatTable *out)
{
    *out = (KatTable){0};
    TRY(read_file(path, &out->text));
    char *rest = out->text, *line;
    bool header = true;
    while ((line = strsep(&rest, "\n"))) {
        if (*line == '\0' || *line == '#') continue;
        if (!header) {
            out->rows = mem_grow(out->rows, &out->capacity, out->n_rows + 1, sizeof(KatRow));
            out->rows[out->n_rows++] = parse_row(line);
        }
        header = false;
    }
    return out->n_rows > 0 ? OK : status_fail(E_FORMAT, "%s: no rows", path);
}

void kat_free(KatTable *table)
{
    free(table->rows);
    free(table->text);
    *table = (KatTable){0};
}

const KatRow *kat_find(const KatTable *table, const char *model, const char *mode, const char *item)
{
    for (int i = 0; i < table->n_rows; i++) {
        const KatRow *row = &table->rows[i];
        if (strcmp(row->model, model) == 0 && strcmp(row->mode, mode) == 0 &&
            strcmp(row->item, item) == 0)
            return row;
    }
    return NULL;
}

/* ---- comparison ---- */

static void moments(const float *values, int64_t n, double *mean, double *std)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += values[i];
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (values[i] - *mean) * (values[i] - *mean);
    *std = sqrt(squares / (double)n);
}

/* Reports "name got, wanted" if it is off by more than the tolerance or no number at all. */
static bool check(const char *name, double got, double want, double tol, KatReport *report)
{
    if (fabs(got - want) <= tol) return true;
    size_t used = strlen(report->text);
    snprintf(report->text + used, sizeof report->text - used,
             "%s%s is %.9g, wanted %.9g (off by %.2g, allowed %.2g)", used ? "; " : "", name, got,
             want, fabs(got - want), tol);
    return false;
}

/* v0..v5 of a row: the values at fixed places of the flat tensor. */
static bool check_samples(const KatRow *row, const float *values, int64_t n, double tol,
                          KatReport *report)
{
    static const char *const names[] = {"v0", "v1", "v2", "v3", "v4", "v5"};
    const int64_t at[] = {0, n / 7, n / 3, n / 2, 2 * n / 3, n - 1};
    bool equal = true;
    for (int i = 0; i < 6; i++)
        if (!isnan(row->v[i])) equal &= check(names[i], values[at[i]], row->v[i], tol, report);
    return equal;
}

/* Rows without moments: a scalar in column a, or up to six values in v. */
static bool check_listed(const KatRow *row, const float *values, double tol, KatReport *report)
{
    bool equal = isnan(row->a) || check("value", values[0], row->a, tol, report);
    for (int i = 0; i < 6; i++)
        if (!isnan(row->v[i])) equal &= check("value", values[i], row->v[i], tol, report);
    return equal;
}

bool kat_compare(const KatRow *row, const float *values, int64_t n, double value_tol,
                 double moment_tol, KatReport *report)
{
    *report = (KatReport){0};
    if (isnan(row->b)) return check_listed(row, values, value_tol, report);
    return kat_compare_moments(row, values, n, value_tol * row->b, moment_tol * row->b,
                               moment_tol * row->b, report);
}

bool kat_compare_moments(const KatRow *row, const float *values, int64_t n, double value_tol,
                         double mean_tol, double deviation_tol, KatReport *report)
{
    *report = (KatReport){0};
    double mean, std;
    moments(values, n, &mean, &std);
    bool equal = check_samples(row, values, n, value_tol, report);
    equal &= check("mean", mean, row->a, mean_tol, report);
    equal &= check("deviation", std, row->b, deviation_tol, report);
    return equal;
}

bool kat_compare_gradient(const KatRow *row, const float *values, int64_t n, double norm_tol,
                          double element_tol, double zero_below, KatReport *report)
{
    *report = (KatReport){0};
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += (double)values[i] * values[i];
    if (row->b < zero_below) return check("norm", sqrt(squares), row->b, zero_below, report);
    bool equal = check("norm", sqrt(squares), row->b, norm_tol * row->b, report);
    return check_samples(row, values, n, element_tol * row->b / sqrt((double)n), report) && equal;
}
