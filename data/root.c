/* What all kinds of roots share, and which kind a path is. See root.h. */
#include "data/root.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/rng.h"
#include "base/text.h"

/* ---- names ---- */

/* N of "sa_N" in plain decimal form. */
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

uint64_t root_sample_id(const char *path_below_root)
{
    const char *name = path_base_name(path_below_root), *dot = strrchr(name, '.');
    uint64_t number;
    if (sa_number(name, dot ? (size_t)(dot - name) : strlen(name), &number)) return number;
    return rng_name_hash(path_below_root);
}

const char *root_path_below(const char *root, const char *path)
{
    const char *below = path + strlen(root);
    while (*below == '/') below++;
    return below;
}

/* ---- reading ---- */

Status root_read_file(RootReader *reader, const char *root, const char *path)
{
    static const int64_t max_bytes = (int64_t)1 << 30;
    snprintf(reader->name, sizeof reader->name, "%s", path);
    reader->below = root_path_below(root, reader->name);
    TRY(buffer_read_file(&reader->file, path, max_bytes, &reader->n_bytes));
    reader->bytes = reader->file.data;
    return OK;
}

void root_reader_free(RootReader *reader)
{
    buffer_free(&reader->file);
    coco_scratch_free(&reader->coco);
    *reader = (RootReader){0};
}

/* ---- opening ---- */

Status root_text_parse(const char *text, RootText *out)
{
    *out = (RootText){.path = strdup(text), .weight = 1};
    if (out->path == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    char *equals = strrchr(out->path, '='), *at;
    if (equals != NULL && strchr(equals, '/') == NULL) {
        *equals = '\0';
        if (!text_to_double(equals + 1, &out->weight) || !(out->weight > 0 && out->weight <= 1e6)) {
            free(out->path);
            return status_fail(E_CONFIG,
                               "data root %s: wanted a weight of more than 0 behind the =", text);
        }
    }
    if ((at = strrchr(out->path, '@')) == NULL) return OK;
    *at = '\0';
    out->instances = at + 1;
    return OK;
}

typedef struct Found {
    PathList images, shards;
} Found;

static bool ends_with(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcasecmp(path + n - m, suffix) == 0;
}

bool root_is_shard(const char *path) { return ends_with(path, ".tar"); }

bool root_is_image(const char *path)
{
    return ends_with(path, ".jpg") || ends_with(path, ".jpeg");
}

static Status on_file(void *user, const char *path)
{
    Found *found = user;
    if (root_is_shard(path)) return path_list_add(&found->shards, path);
    return root_is_image(path) ? path_list_add(&found->images, path) : OK;
}

static Status open_found(const char *path, Found *found, const RootConfig *config, Root *out)
{
    path_list_sort(&found->images);
    path_list_sort(&found->shards);
    if (found->images.n > 0 && found->shards.n > 0)
        return status_fail(E_CONFIG,
                           "%s holds tar shards (%s) and loose JPEGs (%s); name the folder of one "
                           "kind",
                           path, path_list_get(&found->shards, 0),
                           path_list_get(&found->images, 0));
    if (found->shards.n > 0) return root_open_tar(&found->shards, config, out);
    if (found->images.n > 0) return root_open_files(path, &found->images, config, out);
    return status_fail(E_CONFIG,
                       "%s: no sample; looked for *.jpg and *.jpeg%s at any depth, and for *.tar",
                       path, config->masks ? " with a .json of the same name beside them" : "");
}

Status root_open(const char *path, const RootConfig *config, Root *out)
{
    Found found = {0};
    Status status = root_is_shard(path) ? path_list_add(&found.shards, path)
                                            : walk_folder(path, on_file, &found);
    if (status == OK) status = open_found(path, &found, config, out);
    path_list_free(&found.images);
    path_list_free(&found.shards);
    return status;
}
