/* See pack.h. */
#include "data/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/sa1b_write.h"
#include "data/tar_write.h"

typedef struct Packer {
    const PackConfig *config;
    const Source *source;
    char *partial; /* the folder that is filled */
    TarWriter *tar;
    int64_t n_in_shard;
    RootReader image, masks;
    Annotations annotations;
    Sa1bEncoder *encoder; /* of masks without a file */
    Buffer items;
    PackTotals totals;
} Packer;

/* ---- one sample ---- */

static Status put_file(Packer *p, const char *name, const void *bytes, size_t n_bytes)
{
    p->totals.n_bytes += (int64_t)n_bytes;
    if (tar_add(p->tar, name, bytes, n_bytes) == OK) return OK;
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    return status_fail(E_FILE, "%.400s: %s", name, why);
}

/* The masks of a COCO file in SA-1B's form. */
static Status make_masks(Packer *p, int64_t sample, Sa1bFile *json)
{
    const Annotations *from = &p->annotations;
    TRY(buffer_reserve(&p->items, (size_t)from->n_items * sizeof(Sa1bAnnotation)));
    Sa1bAnnotation *items = p->items.data;
    for (int64_t i = 0; i < from->n_items; i++)
        items[i] = (Sa1bAnnotation){.mask = from->items[i].mask,
                                    .point = {NAN, NAN},
                                    .predicted_iou = from->items[i].predicted_iou,
                                    .stability_score = from->items[i].stability};
    Sa1bImage image = {.id = sample + 1,
                       .height = from->height,
                       .width = from->width,
                       .annotations = items,
                       .n_annotations = from->n_items};
    return sa1b_encode_masks(p->encoder, &image, path_base_name(p->image.below), json);
}

static Status put_masks(Packer *p, int64_t sample)
{
    char name[ROOT_NAME_BYTES];
    const char *dot = strrchr(p->image.below, '.');
    Sa1bFile json = {.bytes = p->masks.bytes, .n_bytes = p->masks.n_bytes};
    if (json.n_bytes == 0) TRY(make_masks(p, sample, &json));
    snprintf(name, sizeof name, "%.*s.json", (int)(dot - p->image.below), p->image.below);
    return put_file(p, name, json.bytes, json.n_bytes);
}

static Status begin_shard(Packer *p)
{
    char name[40];
    snprintf(name, sizeof name, "sa_%06lld.tar", (long long)p->totals.n_shards++);
    char *path = file_join(p->partial, name);
    Status status = tar_open(p->config->ops, path, &p->tar);
    free(path);
    p->n_in_shard = 0;
    return status;
}

static Status end_shard(Packer *p)
{
    TarWriter *tar = p->tar;
    p->tar = NULL;
    return tar ? tar_commit(tar) : OK;
}

static Status pack_sample(Packer *p, int64_t sample)
{
    bool masks = source_has_masks(p->source);
    if (masks) TRY(source_read_masks(p->source, sample, &p->masks, &p->annotations));
    if (masks && p->annotations.n_items == 0) {
        p->totals.n_left_out++;
        return OK;
    }
    TRY(source_read_image(p->source, sample, &p->image));
    if (p->tar == NULL) TRY(begin_shard(p));
    TRY(put_file(p, p->image.below, p->image.bytes, p->image.n_bytes));
    if (masks) TRY(put_masks(p, sample));
    p->totals.n_images++;
    return ++p->n_in_shard < p->config->shard_images ? OK : end_shard(p);
}

/* ---- the folder ---- */

/* What a killed process left of shards; anything else is not ours. */
static Status clear_partial(const char *folder)
{
    DIR *stream = opendir(folder);
    if (!stream) return status_fail(E_FILE, "%s: cannot be listed: %s", folder, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(stream));)
        if (fnmatch("sa_[0-9]*.tar", entry->d_name, 0) == 0 ||
            fnmatch("sa_[0-9]*.tar.tmp", entry->d_name, 0) == 0)
            unlinkat(dirfd(stream), entry->d_name, 0);
    closedir(stream);
    return OK;
}

static Status open_folder(Packer *p)
{
    const char *folder = p->config->folder;
    if (file_exists(folder))
        return status_fail(E_CONFIG, "%s is there already; name a folder that is not", folder);
    if (asprintf(&p->partial, "%s.partial", folder) < 0) {
        p->partial = NULL;
        return status_fail(E_MEMORY, "out of memory: packing");
    }
    TRY(file_make_folders(p->partial));
    TRY(clear_partial(p->partial));
    return sa1b_encoder_create(&p->encoder);
}

static Status publish_folder(const Packer *p)
{
    const FileOps *ops = p->config->ops;
    if (p->totals.n_images == 0)
        return status_fail(E_CONFIG, "the filters leave none of the masks of %lld images",
                           (long long)p->totals.n_left_out);
    if (ops->rename(ops->context, p->partial, p->config->folder) == 0) return OK;
    return status_fail(E_FILE, "%s: cannot be renamed to %s: %s", p->partial, p->config->folder,
                       strerror(errno));
}

static void close_packer(Packer *p)
{
    tar_discard(p->tar);
    root_reader_free(&p->image);
    root_reader_free(&p->masks);
    annotations_free(&p->annotations);
    sa1b_encoder_destroy(p->encoder);
    buffer_free(&p->items);
    free(p->partial);
}

Status pack_source(const Source *source, const PackConfig *config, PackTotals *out)
{
    Packer p = {.config = config, .source = source};
    Status status = open_folder(&p);
    for (int64_t i = 0; i < source_size(source) && status == OK; i++) status = pack_sample(&p, i);
    if (status == OK) status = end_shard(&p);
    if (status == OK) status = publish_folder(&p);
    close_packer(&p);
    *out = p.totals;
    return status;
}
