/* Roots side by side as one list. See source.h. */
#include "data/source.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/id_list.h"

typedef struct Part { /* a root in the source */
    Root root;
    double weight;
    int64_t *choice; /* indexes in the root of the samples used; NULL: all */
    int64_t begin;   /* the first of `choice`, or of the root, that is used */
    int64_t n;       /* samples used */
    int64_t first;   /* index of its first sample in the source */
    int64_t drawn;   /* samples that an epoch takes */
} Part;

struct Source {
    SourceConfig config;
    Part *parts;
    int n_parts;
    int64_t n_samples, n_epoch;
};

/* ---- opening ---- */

static Status open_root(const SourceConfig *config, const RootText *text, Part *part)
{
    RootConfig root = {.masks = config->masks,
                       .crowds = !config->filter.no_crowds,
                       .index_folder = config->index_folder};
    if (text->instances) return root_open_coco(text->path, text->instances, &root, &part->root);
    return root_open(text->path, &root, &part->root);
}

/* The list that the released code wants beside its images. */
static Status take_own_list(const char *root, Part *part)
{
    IdList list;
    char *path = file_join(root, "sa_images_ids.txt");
    Status status = OK;
    if (file_exists(path)) {
        status = id_list_read(path, &list);
        if (status == OK) {
            status = id_list_choose(&list, path, &part->root, &part->choice, &part->n);
            if (status == OK) status = id_list_check(&list, path);
            id_list_free(&list);
        }
    }
    free(path);
    return status;
}

static Status open_part(Source *source, const char *text)
{
    RootText parsed;
    TRY(root_text_parse(text, &parsed));
    Part *part = &source->parts[source->n_parts];
    part->weight = parsed.weight;
    Status status = open_root(&source->config, &parsed, part);
    if (status == OK) {
        source->n_parts++;
        part->n = part->root.n_samples;
        if (source->config.ids == NULL) status = take_own_list(parsed.path, part);
    }
    free(parsed.path);
    return status;
}

static Status choose_ids(Source *source)
{
    const char *path = source->config.ids;
    IdList list;
    if (path == NULL) return OK;
    TRY(id_list_read(path, &list));
    Status status = OK;
    for (int i = 0; i < source->n_parts && status == OK; i++) {
        Part *part = &source->parts[i];
        status = id_list_choose(&list, path, &part->root, &part->choice, &part->n);
    }
    if (status == OK) status = id_list_check(&list, path);
    id_list_free(&list);
    return status;
}

static void split_part(const SourceConfig *config, Part *part)
{
    int64_t n_train = (int64_t)(config->train_ratio * (double)part->n);
    if (config->split == SPLIT_ALL) return;
    part->begin = config->split == SPLIT_TRAIN ? 0 : n_train;
    part->n = config->split == SPLIT_TRAIN ? n_train : part->n - n_train;
}

/* Places of the parts in the list and their shares of an epoch. */
static void place_parts(Source *source)
{
    int64_t left = source->config.limit > 0 ? source->config.limit : INT64_MAX;
    for (int i = 0; i < source->n_parts; i++) {
        Part *part = &source->parts[i];
        split_part(&source->config, part);
        if (part->n > left) part->n = left;
        left -= part->n;
        part->first = source->n_samples;
        source->n_samples += part->n;
        part->drawn = llround(part->weight * (double)part->n);
        if (part->drawn < 1 && part->n > 0) part->drawn = 1;
        source->n_epoch += part->drawn;
    }
}

static Status check_ids(const Source *source)
{
    const Root **roots = malloc((size_t)source->n_parts * sizeof *roots);
    if (roots == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    for (int i = 0; i < source->n_parts; i++) roots[i] = &source->parts[i].root;
    Status status = id_list_check_roots(roots, source->n_parts);
    free(roots);
    return status;
}

static Status fill_source(Source *source)
{
    const SourceConfig *config = &source->config;
    source->parts = calloc((size_t)config->n_roots, sizeof *source->parts);
    if (source->parts == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    for (int i = 0; i < config->n_roots; i++) TRY(open_part(source, config->roots[i]));
    TRY(check_ids(source));
    TRY(choose_ids(source));
    place_parts(source);
    if (source->n_samples > 0) return OK;
    return status_fail(E_CONFIG, "%s%s: the split leaves no sample", config->roots[0],
                       config->n_roots > 1 ? " and the other roots" : "");
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
    for (int i = 0; i < source->n_parts; i++) {
        source->parts[i].root.ops->close(source->parts[i].root.self);
        free(source->parts[i].choice);
    }
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
    *index += part->begin - part->first;
    if (part->choice) *index = part->choice[*index];
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

Status source_read_image(const Source *source, int64_t index, RootReader *reader)
{
    const Root *root = find_root(source, &index);
    return root->ops->read_image(root->self, index, reader);
}

Status source_read_masks(const Source *source, int64_t index, RootReader *reader, Annotations *out)
{
    assert(source->config.masks);
    const Root *root = find_root(source, &index);
    TRY(root->ops->read_masks(root->self, index, reader, out));
    annotations_filter(&source->config.filter, out);
    return OK;
}
