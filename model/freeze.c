/* Freezes a model: batch norms go into the convolutions in front of them, weights into the dtype
 * they are used in. Called by train/ for whatever is run but not trained: teachers and predictors.
 *
 * A norm behind a convolution w without bias is y = (w*x - mean) g/sqrt(var + eps) + b, which is a
 * convolution with weights w g/sqrt(var + eps) and bias b - mean g/sqrt(var + eps).
 *
 * Invariant: every batch norm directly follows a convolution without bias, and the two are called
 * "<layer>.norm" and "<layer>.conv" (model/efficientvit.c).
 *
 * source  Jacob et al., "Quantization and Training of Neural Networks" (2018), section 3.2
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/config.h"

typedef struct Freezing {
    const Model *model;
    const Store *full; /* declared, without memory: what the source is asked for */
    EntrySource source;
    void *context;
} Freezing;

/* The values of an entry of the full store, to be freed. */
static Status take(const Freezing *f, int index, Tensor *host)
{
    const StoreEntry *entry = &f->full->entries[index];
    *host = (Tensor){.dtype = entry->dtype, .shape = entry->shape};
    host->data = mem_alloc(tensor_bytes(host));
    return f->source(f->context, entry, host);
}

/* ---- norms ---- */

enum { NORM_WEIGHT, NORM_BIAS, NORM_MEAN, NORM_VAR, NORM_PARTS };

/* Entry of part `part` of the norm behind the convolution that "<layer>.conv.<what>" belongs to; -1
 * if no norm follows. */
static int norm_entry(const Store *full, const char *name, int part)
{
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
    char path[512];
    const char *end = strrchr(name, '.');
    size_t length = end ? (size_t)(end - name) : 0;
    if (length < 5 || strncmp(end - 5, ".conv", 5) != 0) return -1;
    snprintf(path, sizeof path, "%.*s.norm.%s", (int)length - 5, name, parts[part]);
    return store_find(full, path);
}

/* Scale and shift (C) of a norm, to be freed. */
static Status norm_affine(const Freezing *f, const char *name, double **scale, double **shift)
{
    Tensor part[NORM_PARTS] = {0};
    Status status = OK;
    for (int i = 0; i < NORM_PARTS && status == OK; i++)
        status = take(f, norm_entry(f->full, name, i), &part[i]);
    int64_t n = status == OK ? shape_elems(part[0].shape) : 0;
    *scale = mem_alloc((size_t)n * sizeof **scale);
    *shift = mem_alloc((size_t)n * sizeof **shift);
    for (int64_t c = 0; c < n; c++) {
        double var = ((const float *)part[NORM_VAR].data)[c];
        (*scale)[c] = ((const float *)part[NORM_WEIGHT].data)[c] /
                      sqrt(var + f->model->efficientvit.norm_eps);
        (*shift)[c] = ((const float *)part[NORM_BIAS].data)[c] -
                      ((const float *)part[NORM_MEAN].data)[c] * (*scale)[c];
    }
    for (int i = 0; i < NORM_PARTS; i++) free(part[i].data);
    return status;
}

/* ---- entries ---- */

/* A weight (O,..), scaled by the norm behind it where there is one. */
static Status freeze_weight(const Freezing *f, const char *name, Tensor *host)
{
    TRY(take(f, store_find(f->full, name), host));
    if (norm_entry(f->full, name, NORM_WEIGHT) < 0) return OK;
    double *scale, *shift;
    Status status = norm_affine(f, name, &scale, &shift);
    float *w = host->data;
    int64_t channels = host->shape.dim[0], inner = shape_elems(host->shape) / channels;
    for (int64_t c = 0; c < channels && status == OK; c++)
        for (int64_t i = 0; i < inner; i++) *w = (float)(*w * scale[c]), w++;
    free(scale);
    free(shift);
    return status;
}

/* The bias that the norm behind a convolution has become. */
static Status freeze_bias(const Freezing *f, const StoreEntry *entry, Tensor *host)
{
    double *scale, *shift;
    *host = (Tensor){.dtype = DT_F32, .shape = entry->shape};
    host->data = mem_alloc(tensor_bytes(host));
    Status status = norm_affine(f, entry->name, &scale, &shift);
    float *b = host->data;
    for (int64_t c = 0; c < entry->shape.dim[0] && status == OK; c++) b[c] = (float)shift[c];
    free(scale);
    free(shift);
    return status;
}

static Status freeze_all(const Freezing *f, Store *frozen)
{
    for (int i = 0; i < frozen->n_entries; i++) {
        const StoreEntry *entry = &frozen->entries[i];
        Tensor host = {0};
        Status status = store_find(f->full, entry->name) >= 0 ? freeze_weight(f, entry->name, &host)
                                                              : freeze_bias(f, entry, &host);
        if (status == OK) status = store_set(frozen, i, &host);
        free(host.data);
        TRY(status);
    }
    return OK;
}

Status model_freeze(const Model *model, EntrySource source, void *context, Store *frozen)
{
    Store *full = store_create(frozen->backend);
    Freezing f = {.model = model, .full = full, .source = source, .context = context};
    Status status = model_declare(model, full);
    if (status == OK) status = freeze_all(&f, frozen);
    store_destroy(full);
    return status;
}
