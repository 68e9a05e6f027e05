/* A COCO or LVIS instance file and its images as a root. See root.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/root.h"

typedef struct CocoRoot {
    Coco *coco;
    char *folder;
    int64_t *images; /* (n) of the file's list that are samples */
    int64_t n;
} CocoRoot;

static void close_coco(void *self)
{
    CocoRoot *root = self;
    coco_close(root->coco);
    free(root->images);
    free(root->folder);
    free(root);
}

static const char *image_path(const CocoRoot *root, int64_t index)
{
    return coco_image_path(root->coco, root->images[index]);
}

/* As the same images in a folder would have it, so that embeddings serve both. */
static uint64_t sample_id(const void *self, int64_t index)
{
    const CocoRoot *root = self;
    return root_sample_id(root_path_below(root->folder, image_path(root, index)));
}

static int64_t id_group(const void *self, int64_t index, uint64_t *min_id, uint64_t *max_id)
{
    *min_id = *max_id = sample_id(self, index);
    return index + 1;
}

static void image_name(const void *self, int64_t index, char name[ROOT_NAME_BYTES])
{
    snprintf(name, ROOT_NAME_BYTES, "%s", image_path(self, index));
}

static Status read_image(const void *self, int64_t index, RootReader *reader)
{
    const CocoRoot *root = self;
    return root_read_file(reader, root->folder, image_path(root, index));
}

static bool has_masks(const void *self, int64_t index)
{
    const CocoRoot *root = self;
    return coco_annotation_count(root->coco, root->images[index]) > 0;
}

static Status read_masks(const void *self, int64_t index, RootReader *reader, Annotations *out)
{
    const CocoRoot *root = self;
    reader->n_bytes = 0;
    return coco_annotations(root->coco, root->images[index], &reader->coco, out);
}

static const RootOps ops = {close_coco, sample_id, id_group,  image_name,
                            read_image, has_masks, read_masks};

static bool is_sample(const Coco *coco, int64_t image, const RootConfig *config)
{
    if (!config->masks || config->gaps) return true;
    return config->crowds ? coco_annotation_count(coco, image) > 0 : coco_has_object(coco, image);
}

static Status choose_images(CocoRoot *root, const char *file, const RootConfig *config)
{
    int64_t n = coco_size(root->coco);
    root->images = calloc((size_t)n, sizeof *root->images);
    if (root->images == NULL) return status_fail(E_MEMORY, "out of memory: list of images");
    for (int64_t i = 0; i < n; i++)
        if (is_sample(root->coco, i, config)) root->images[root->n++] = i;
    if (root->n > 0) return OK;
    return status_fail(E_CONFIG, "%s: none of its %lld images has a mask", file, (long long)n);
}

Status root_open_coco(const char *images, const char *file, const RootConfig *config, Root *out)
{
    CocoRoot *root = calloc(1, sizeof *root);
    if (root == NULL) return status_fail(E_MEMORY, "out of memory: list of images");
    root->folder = strdup(images);
    Status status = OK;
    if (root->folder == NULL) status = status_fail(E_MEMORY, "out of memory: list of images");
    if (status == OK) status = coco_open(file, images, &root->coco);
    if (status == OK) status = choose_images(root, file, config);
    if (status == OK)
        *out = (Root){.ops = &ops, .self = root, .n_samples = root->n};
    else
        close_coco(root);
    return status;
}
