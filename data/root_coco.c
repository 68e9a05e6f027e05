/* A COCO or LVIS instance file and its images as a root. See root.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/root.h"

static const int64_t max_file_bytes = (int64_t)1 << 30;

typedef struct CocoRoot {
    Coco *coco;
    size_t folder_length;
    int64_t *images; /* (n) of the file's list that are samples */
    int64_t n;
} CocoRoot;

static void close_coco(void *self)
{
    CocoRoot *root = self;
    coco_close(root->coco);
    free(root->images);
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
    const char *below = image_path(root, index) + root->folder_length;
    while (*below == '/') below++;
    return root_sample_id(below);
}

static void image_name(const void *self, int64_t index, char name[ROOT_NAME_BYTES])
{
    snprintf(name, ROOT_NAME_BYTES, "%s", image_path(self, index));
}

static Status read_image(const void *self, int64_t index, RootReader *reader, size_t *n_bytes)
{
    return buffer_read_file(&reader->file, image_path(self, index), max_file_bytes, n_bytes);
}

static Status read_masks(const void *self, int64_t index, RootReader *reader, Annotations *out)
{
    const CocoRoot *root = self;
    return coco_annotations(root->coco, root->images[index], &reader->coco, out);
}

static const RootOps ops = {close_coco, sample_id, image_name, read_image, read_masks};

static bool is_sample(const Coco *coco, int64_t image, bool masks, bool crowds)
{
    if (!masks) return true;
    return crowds ? coco_annotation_count(coco, image) > 0 : coco_has_object(coco, image);
}

static Status choose_images(CocoRoot *root, const char *file, bool masks, bool crowds)
{
    int64_t n = coco_size(root->coco);
    root->images = calloc((size_t)n, sizeof *root->images);
    if (root->images == NULL) return status_fail(E_MEMORY, "out of memory: list of images");
    for (int64_t i = 0; i < n; i++)
        if (is_sample(root->coco, i, masks, crowds)) root->images[root->n++] = i;
    if (root->n > 0) return OK;
    return status_fail(E_CONFIG, "%s: none of its %lld images has a mask", file, (long long)n);
}

Status root_open_coco(const char *images, const char *file, bool masks, bool crowds, Root *out)
{
    CocoRoot *root = calloc(1, sizeof *root);
    if (root == NULL) return status_fail(E_MEMORY, "out of memory: list of images");
    root->folder_length = strlen(images);
    Status status = coco_open(file, images, &root->coco);
    if (status == OK) status = choose_images(root, file, masks, crowds);
    if (status == OK)
        *out = (Root){.ops = &ops, .self = root, .n_samples = root->n};
    else
        close_coco(root);
    return status;
}
