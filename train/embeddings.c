/* Shards of teacher embeddings. See embeddings.h. */
#include "train/embeddings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

struct Embeddings {
    char *folder;
    EmbeddingsInfo info;
    SafeTensors **shards;
    int n_shards, capacity;
};

char *embeddings_shard_path(const char *folder, int64_t index)
{
    char name[64];
    snprintf(name, sizeof name, "embeddings_%05" PRId64 ".safetensors", index);
    return file_join(folder, name);
}

static void view_name(uint64_t sample_id, bool flip, char *name, size_t name_bytes)
{
    snprintf(name, name_bytes, "%" PRIu64 "%s", sample_id, flip ? ".flip" : "");
}

Status embeddings_teacher_id(const char *weights, int64_t seed, char id[65])
{
    if (strcmp(weights, "random") != 0) return file_sha256(weights, id);
    snprintf(id, 65, "random seed %" PRId64, seed);
    return OK;
}

/* ---- writing ---- */

/* (cells,D) f32 -> (D,cells) f16: PyTorch's order, so that the files are of use outside. */
static void pack_view(const float *view, int64_t cells, int64_t dim, uint16_t *out)
{
    for (int64_t d = 0; d < dim; d++)
        for (int64_t c = 0; c < cells; c++) out[d * cells + c] = f16_from_f32(view[c * dim + d]);
}

Status embeddings_write_shard(const char *folder, int64_t index, const EmbeddingsInfo *info, int n,
                              const uint64_t *sample_id, const bool *flip,
                              const float *const *views)
{
    NamedTensor *tensors = mem_alloc((size_t)n * sizeof *tensors);
    char(*names)[32] = mem_alloc((size_t)n * sizeof *names), size[32];
    int64_t cells = info->grid * info->grid;
    for (int i = 0; i < n; i++) {
        view_name(sample_id[i], flip[i], names[i], sizeof names[i]);
        tensors[i] = (NamedTensor){
            names[i], {.dtype = DT_F16, .shape = SHAPE(info->dim, info->grid, info->grid)}};
        tensors[i].tensor.data = mem_alloc(tensor_bytes(&tensors[i].tensor));
        pack_view(views[i], cells, info->dim, tensors[i].tensor.data);
    }
    snprintf(size, sizeof size, "%" PRId64, info->image_size);
    MetaPair meta[] = {{"teacher_sha256", info->teacher_sha256},
                       {"image_size", size},
                       {"flips", info->flips ? "1" : "0"}};
    char *path = embeddings_shard_path(folder, index);
    Status status = safetensors_write(path, n, tensors, 3, meta);
    for (int i = 0; i < n; i++) free(tensors[i].tensor.data);
    free(path);
    free(names);
    free(tensors);
    return status;
}

/* ---- reading ---- */

static Status read_info(const SafeTensors *shard, EmbeddingsInfo *info)
{
    const char *teacher = safetensors_meta(shard, "teacher_sha256"),
               *size = safetensors_meta(shard, "image_size");
    const char *flips = safetensors_meta(shard, "flips");
    if (!teacher || !size || !flips || shard->n_tensors == 0 ||
        shard->tensors[0].tensor.shape.rank != 3)
        return status_fail(E_FORMAT, "%s: not a shard of embeddings; write it with retort teach",
                           shard->path);
    Shape shape = shard->tensors[0].tensor.shape;
    *info = (EmbeddingsInfo){.image_size = strtoll(size, NULL, 10),
                             .grid = shape.dim[1],
                             .dim = shape.dim[0],
                             .flips = flips[0] == '1'};
    snprintf(info->teacher_sha256, sizeof info->teacher_sha256, "%s", teacher);
    for (int i = 0; i < shard->n_tensors; i++)
        if (!shape_equal(shard->tensors[i].tensor.shape, shape))
            return status_fail(E_FORMAT, "%s: tensor %s has another shape than the rest",
                               shard->path, shard->tensors[i].name);
    return OK;
}

static bool same_info(const EmbeddingsInfo *a, const EmbeddingsInfo *b)
{
    return strcmp(a->teacher_sha256, b->teacher_sha256) == 0 && a->image_size == b->image_size &&
           a->grid == b->grid && a->dim == b->dim && a->flips == b->flips;
}

static Status check_views(const SafeTensors *shard, int n, const uint64_t *sample_id,
                          const bool *flip)
{
    char name[32];
    if (shard->n_tensors != n)
        return status_fail(E_CONFIG,
                           "%s: holds %d views, these images have %d; give an empty folder",
                           shard->path, shard->n_tensors, n);
    for (int i = 0; i < n; i++) {
        view_name(sample_id[i], flip[i], name, sizeof name);
        if (!safetensors_find(shard, name))
            return status_fail(E_CONFIG,
                               "%s: is of other images, it has no view %s; give an empty folder",
                               shard->path, name);
    }
    return OK;
}

Status embeddings_check_shard(const char *folder, int64_t index, const EmbeddingsInfo *info, int n,
                              const uint64_t *sample_id, const bool *flip)
{
    SafeTensors *shard = NULL;
    EmbeddingsInfo found;
    char *path = embeddings_shard_path(folder, index);
    Status status = safetensors_open(path, &shard);
    if (status == OK) status = read_info(shard, &found);
    if (status == OK && !same_info(&found, info))
        status = status_fail(
            E_CONFIG,
            "%s: made by another teacher, at another size or with other flips; give an empty "
            "folder",
            path);
    if (status == OK) status = check_views(shard, n, sample_id, flip);
    safetensors_close(shard);
    free(path);
    return status;
}

static Status add_shard(Embeddings *e, const char *path)
{
    SafeTensors *shard = NULL;
    EmbeddingsInfo info;
    TRY(safetensors_open(path, &shard));
    e->shards = mem_grow(e->shards, &e->capacity, e->n_shards + 1, sizeof *e->shards);
    e->shards[e->n_shards++] = shard;
    TRY(read_info(shard, &info));
    if (e->n_shards == 1) e->info = info;
    if (!same_info(&info, &e->info))
        return status_fail(E_CONFIG,
                           "%s: made by another teacher, or at another size, than the first shard",
                           path);
    return OK;
}

Status embeddings_open(const char *folder, Embeddings **out)
{
    Embeddings *e = mem_alloc(sizeof *e);
    e->folder = mem_string(folder);
    Status status = OK;
    for (int64_t i = 0; status == OK; i++) {
        char *path = embeddings_shard_path(folder, i);
        bool there = file_exists(path);
        if (there) status = add_shard(e, path);
        free(path);
        if (!there) break;
    }
    if (status == OK && e->n_shards == 0)
        status = status_fail(
            E_CONFIG,
            "teacher.embeddings = %s: no embeddings_00000.safetensors in it; write it with "
            "retort teach",
            folder);
    if (status != OK)
        embeddings_close(e);
    else
        *out = e;
    return status;
}

void embeddings_close(Embeddings *e)
{
    if (!e) return;
    for (int i = 0; i < e->n_shards; i++) safetensors_close(e->shards[i]);
    free(e->shards);
    free(e->folder);
    free(e);
}

const EmbeddingsInfo *embeddings_info(const Embeddings *e) { return &e->info; }

Status embeddings_get(const Embeddings *e, uint64_t sample_id, bool flip, float *out)
{
    char name[32];
    view_name(sample_id, flip, name, sizeof name);
    const Tensor *found = NULL;
    for (int i = 0; i < e->n_shards && !found; i++) found = safetensors_find(e->shards[i], name);
    if (!found)
        return status_fail(
            E_CONFIG, "teacher.embeddings = %s: no view %s; run retort teach on the same images%s",
            e->folder, name, flip ? " with data.flip > 0" : "");
    int64_t cells = e->info.grid * e->info.grid, dim = e->info.dim;
    const uint16_t *half = found->data;
    for (int64_t c = 0; c < cells; c++)
        for (int64_t d = 0; d < dim; d++) out[c * dim + d] = f16_to_f32(half[d * cells + c]);
    return OK;
}
