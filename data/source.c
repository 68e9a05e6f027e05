/* Lists the samples below a folder. See source.h. */
#include "data/source.h"

#include <assert.h>
#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/rng.h"

typedef struct Sample {
    char *image_path;
    char *mask_path; /* NULL: images alone */
    uint64_t id;
} Sample;

struct Source {
    Sample *samples;
    int64_t n_samples;
    Buffer memory;
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Length of the path without its extension if it is a JPEG's, else 0. */
static size_t jpeg_stem(const char *path)
{
    const char *dot = strrchr(base_name(path), '.');
    if (dot == NULL || (strcasecmp(dot, ".jpg") != 0 && strcasecmp(dot, ".jpeg") != 0)) return 0;
    return (size_t)(dot - path);
}

/* N of "sa_N" in plain decimal form. "sa_01" has no N: it must not be taken for sa_1. */
static bool sa_number(const char *name, size_t length, uint64_t *number)
{
    if (length < 4 || length > 3 + 18 || memcmp(name, "sa_", 3) != 0) return false;
    if (name[3] == '0' && length > 4) return false;
    *number = 0;
    for (size_t i = 3; i < length; i++) {
        if (name[i] < '0' || name[i] > '9') return false;
        *number = *number * 10 + (uint64_t)(name[i] - '0');
    }
    return true;
}

static uint64_t sample_id(const char *root, const char *path, size_t stem)
{
    const char *name = base_name(path), *below = path + strlen(root);
    uint64_t number;
    if (sa_number(name, (size_t)(path + stem - name), &number)) return number;
    while (*below == '/') below++;
    return rng_name_hash(below);
}

static Status find_masks(const char *image_path, size_t stem, char **mask_path)
{
    if (asprintf(mask_path, "%.*s.json", (int)stem, image_path) < 0) {
        *mask_path = NULL;
        return status_fail(E_MEMORY, "out of memory: list of samples");
    }
    if (access(*mask_path, R_OK) == 0) return OK;
    return status_fail(E_FILE, "%s: cannot read %s with its masks: %s", image_path,
                       base_name(*mask_path), strerror(errno));
}

static Status add_sample(Source *source, const char *root, const char *path, bool masks)
{
    size_t stem = jpeg_stem(path);
    if (stem == 0) return OK;
    TRY(buffer_grow(&source->memory, (size_t)(source->n_samples + 1) * sizeof(Sample)));
    source->samples = source->memory.data;
    Sample *sample = &source->samples[source->n_samples++];
    *sample = (Sample){.image_path = strdup(path), .id = sample_id(root, path, stem)};
    if (sample->image_path == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    return masks ? find_masks(path, stem, &sample->mask_path) : OK;
}

static Status add_entry(Source *source, const char *root, const FTSENT *entry, bool masks)
{
    switch (entry->fts_info) {
    case FTS_F: return add_sample(source, root, entry->fts_path, masks);
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        return status_fail(E_FILE, "%s: cannot read: %s", entry->fts_path,
                           strerror(entry->fts_errno));
    case FTS_DC: return status_fail(E_FILE, "%s: a link to a folder above itself", entry->fts_path);
    default: return OK;
    }
}

static Status list_folder(Source *source, const char *root, bool masks)
{
    char *roots[] = {(char *)root, NULL};
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, NULL);
    if (walk == NULL) return status_fail(E_FILE, "%s: cannot read: %s", root, strerror(errno));
    Status status = OK;
    for (FTSENT *entry; status == OK && (entry = fts_read(walk)) != NULL;)
        status = add_entry(source, root, entry, masks);
    fts_close(walk);
    return status;
}

static int compare_names(const void *left, const void *right)
{
    const Sample *a = left, *b = right;
    int order = strcmp(base_name(a->image_path), base_name(b->image_path));
    return order ? order : strcmp(a->image_path, b->image_path);
}

static int compare_ids(const void *left, const void *right)
{
    const Sample *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Two samples of one id would get the same draws and share a place in caches. */
static Status check_ids(Source *source)
{
    qsort(source->samples, (size_t)source->n_samples, sizeof(Sample), compare_ids);
    for (int64_t i = 1; i < source->n_samples; i++)
        if (source->samples[i].id == source->samples[i - 1].id)
            return status_fail(E_CONFIG, "%s and %s have the same sample id %llu; keep one of them",
                               source->samples[i - 1].image_path, source->samples[i].image_path,
                               (unsigned long long)source->samples[i].id);
    return OK;
}

static Status fill_source(Source *source, const char *root, bool masks)
{
    if (access(root, R_OK) != 0)
        return status_fail(E_FILE, "%s: cannot open the data folder: %s", root, strerror(errno));
    TRY(list_folder(source, root, masks));
    if (source->n_samples == 0)
        return status_fail(E_CONFIG, "%s: no sample; looked for *.jpg and *.jpeg%s at any depth",
                           root, masks ? " with a .json of the same name beside them" : "");
    TRY(check_ids(source));
    qsort(source->samples, (size_t)source->n_samples, sizeof(Sample), compare_names);
    return OK;
}

Status source_open(const char *root, bool masks, Source **out)
{
    Source *source = calloc(1, sizeof *source);
    if (source == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    Status status = fill_source(source, root, masks);
    if (status == OK)
        *out = source;
    else
        source_close(source);
    return status;
}

void source_close(Source *source)
{
    if (source == NULL) return;
    for (int64_t i = 0; i < source->n_samples; i++) {
        free(source->samples[i].image_path);
        free(source->samples[i].mask_path);
    }
    buffer_free(&source->memory);
    free(source);
}

void source_limit(Source *source, int64_t n)
{
    for (; source->n_samples > n; source->n_samples--) {
        free(source->samples[source->n_samples - 1].image_path);
        free(source->samples[source->n_samples - 1].mask_path);
    }
}

int64_t source_size(const Source *source) { return source->n_samples; }

static const Sample *sample_at(const Source *source, int64_t index)
{
    assert(index >= 0 && index < source->n_samples);
    return &source->samples[index];
}

uint64_t source_sample_id(const Source *source, int64_t index)
{
    return sample_at(source, index)->id;
}

const char *source_image_path(const Source *source, int64_t index)
{
    return sample_at(source, index)->image_path;
}

const char *source_mask_path(const Source *source, int64_t index)
{
    return sample_at(source, index)->mask_path;
}
