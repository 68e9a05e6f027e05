/* Roots side by side as one list. See source.h. */
#include "data/source.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/text.h"

typedef struct Part { /* a root in the source */
    Root root;
    double weight;
    int64_t n;     /* samples used: the first of the root */
    int64_t first; /* index of its first sample in the source */
    int64_t drawn; /* samples that an epoch takes */
} Part;

struct Source {
    SourceConfig config;
    Part *parts;
    int n_parts;
    int64_t n_samples, n_epoch;
};

/* ---- opening ---- */

/* Cuts "PATH=WEIGHT" in `text`. */
static Status take_weight(char *text, double *weight)
{
    char *equals = strrchr(text, '=');
    *weight = 1;
    if (equals == NULL || strchr(equals, '/') != NULL) return OK;
    if (!text_to_double(equals + 1, weight) || !(*weight > 0 && *weight <= 1e6))
        return status_fail(E_CONFIG,
                           "data root %s: wanted a weight of more than 0 behind the =", text);
    *equals = '\0';
    return OK;
}

static Status open_root(const SourceConfig *config, char *text, Part *part)
{
    TRY(take_weight(text, &part->weight));
    char *at = strrchr(text, '@');
    if (at == NULL) return root_open_folder(text, config->masks, &part->root);
    *at = '\0';
    return root_open_coco(text, at + 1, config->masks, !config->filter.no_crowds, &part->root);
}

static Status open_part(Source *source, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    Part *part = &source->parts[source->n_parts];
    Status status = open_root(&source->config, copy, part);
    free(copy);
    TRY(status);
    source->n_parts++;
    part->n = part->root.n_samples;
    return OK;
}

/* Places of the parts in the list and their shares of an epoch. */
static void place_parts(Source *source)
{
    int64_t left = source->config.limit > 0 ? source->config.limit : INT64_MAX;
    for (int i = 0; i < source->n_parts; i++) {
        Part *part = &source->parts[i];
        if (part->n > left) part->n = left;
        left -= part->n;
        part->first = source->n_samples;
        source->n_samples += part->n;
        part->drawn = llround(part->weight * (double)part->n);
        if (part->drawn < 1 && part->n > 0) part->drawn = 1;
        source->n_epoch += part->drawn;
    }
}

typedef struct Listed {
    uint64_t id;
    int64_t index;
} Listed;

static int by_id(const void *left, const void *right)
{
    const Listed *a = left, *b = right;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static Status fail_twins(const Source *source, const Listed *twins)
{
    char first[ROOT_NAME_BYTES], second[ROOT_NAME_BYTES];
    source_image_name(source, twins[0].index, first);
    source_image_name(source, twins[1].index, second);
    return status_fail(E_CONFIG, "%.400s and %.400s have the same sample id %llu; keep one of them",
                       first, second, (unsigned long long)twins[0].id);
}

/* Two samples of one id would get the same draws and share a place in caches. */
static Status check_ids(const Source *source)
{
    int64_t n = source->n_samples;
    Listed *all = malloc((size_t)n * sizeof *all);
    if (all == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    for (int64_t i = 0; i < n; i++) all[i] = (Listed){source_sample_id(source, i), i};
    qsort(all, (size_t)n, sizeof *all, by_id);
    Status status = OK;
    for (int64_t i = 1; i < n && status == OK; i++)
        if (all[i].id == all[i - 1].id) status = fail_twins(source, &all[i - 1]);
    free(all);
    return status;
}

static Status fill_source(Source *source)
{
    const SourceConfig *config = &source->config;
    source->parts = calloc((size_t)config->n_roots, sizeof *source->parts);
    if (source->parts == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    for (int i = 0; i < config->n_roots; i++) TRY(open_part(source, config->roots[i]));
    place_parts(source);
    return check_ids(source);
}

Status source_open(const SourceConfig *config, Source **out)
{
    assert(config->n_roots > 0);
    Source *source = calloc(1, sizeof *source);
    if (source == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    source->config = *config;
    Status status = fill_source(source);
    if (status == OK)
        *out = source;
    else
        source_close(source);
    return status;
}

void source_close(Source *source)
{
    if (source == NULL) return;
    for (int i = 0; i < source->n_parts; i++)
        source->parts[i].root.ops->close(source->parts[i].root.self);
    free(source->parts);
    free(source);
}

/* ---- order ---- */

int64_t source_size(const Source *source) { return source->n_samples; }

int64_t source_epoch_size(const Source *source) { return source->n_epoch; }

static SourcePlace place_in_part(const Part *part, uint64_t seed, uint32_t epoch, int64_t drawn)
{
    if (part->drawn == part->n) return (SourcePlace){part->first + drawn, epoch};
    uint64_t position = (uint64_t)epoch * (uint64_t)part->drawn + (uint64_t)drawn;
    uint64_t n = (uint64_t)part->n;
    uint32_t pass = (uint32_t)(position / n);
    RngKey key = {seed, RNG_ORDER, pass, 1 + (uint64_t)part->first};
    return (SourcePlace){part->first + (int64_t)rng_permute(key, position % n, n), pass};
}

SourcePlace source_at(const Source *source, uint64_t seed, uint64_t position)
{
    uint64_t n = (uint64_t)source->n_epoch;
    uint32_t epoch = (uint32_t)(position / n);
    RngKey key = {.seed = seed, .purpose = RNG_ORDER, .epoch = epoch};
    int64_t drawn = (int64_t)rng_permute(key, position % n, n);
    const Part *part = source->parts;
    for (; drawn >= part->drawn; part++) drawn -= part->drawn;
    return place_in_part(part, seed, epoch, drawn);
}

/* ---- samples ---- */

static const Root *find_root(const Source *source, int64_t *index)
{
    assert(*index >= 0 && *index < source->n_samples);
    const Part *part = source->parts;
    while (*index >= part->first + part->n) part++;
    *index -= part->first;
    return &part->root;
}

uint64_t source_sample_id(const Source *source, int64_t index)
{
    const Root *root = find_root(source, &index);
    return root->ops->sample_id(root->self, index);
}

void source_image_name(const Source *source, int64_t index, char name[ROOT_NAME_BYTES])
{
    const Root *root = find_root(source, &index);
    root->ops->image_name(root->self, index, name);
}

bool source_has_masks(const Source *source) { return source->config.masks; }

Status source_read_image(const Source *source, int64_t index, RootReader *reader, size_t *n_bytes)
{
    const Root *root = find_root(source, &index);
    return root->ops->read_image(root->self, index, reader, n_bytes);
}

Status source_read_masks(const Source *source, int64_t index, RootReader *reader, Annotations *out)
{
    assert(source->config.masks);
    const Root *root = find_root(source, &index);
    TRY(root->ops->read_masks(root->self, index, reader, out));
    annotations_filter(&source->config.filter, out);
    return OK;
}
