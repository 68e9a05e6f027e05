/* Loose files as a root. See root.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/root.h"

/* Of an image: none, NAME.json beside it, or in the folder masks beside its folder images. */
typedef enum MasksPlace { MASKS_NONE, MASKS_BESIDE, MASKS_APART } MasksPlace;

typedef struct Files {
    char *root;
    PathList images;
    uint8_t *masks; /* (n) MasksPlace of each image; NULL: no masks */
} Files;

/* ---- where masks lie ---- */

static const char images_folder[] = "/images/", masks_folder[] = "/masks/";

/* The path of an image's masks: FOLDER/NAME.json, or with the last folder images as masks. */
static Status mask_path(const char *image, bool apart, char path[ROOT_NAME_BYTES])
{
    const char *name = path_base_name(image);
    int n_name = (int)(strrchr(name, '.') - name), n_folder = (int)(name - image);
    const char *between = apart ? masks_folder : "";
    if (apart) n_folder -= (int)strlen(images_folder);
    int n = snprintf(path, ROOT_NAME_BYTES, "%.*s%s%.*s.json", n_folder, image, between, n_name,
                     name);
    if (n < ROOT_NAME_BYTES) return OK;
    return status_fail(E_FILE, "%s: a path of more than %d characters", image, ROOT_NAME_BYTES - 1);
}

static bool lies_in_images(const char *image)
{
    size_t before = (size_t)(path_base_name(image) - image), length = strlen(images_folder);
    return before >= length && memcmp(image + before - length, images_folder, length) == 0;
}

static Status find_masks(const char *image, bool gaps, uint8_t *place)
{
    char path[ROOT_NAME_BYTES];
    *place = MASKS_BESIDE;
    TRY(mask_path(image, false, path));
    if (access(path, R_OK) == 0) return OK;
    if (lies_in_images(image)) {
        *place = MASKS_APART;
        TRY(mask_path(image, true, path));
        if (access(path, R_OK) == 0) return OK;
    }
    *place = MASKS_NONE;
    if (gaps) return OK;
    return status_fail(E_FILE, "%s: cannot read %s with its masks: %s", image, path,
                       strerror(errno));
}

static Status find_all_masks(Files *files, bool gaps)
{
    files->masks = calloc((size_t)files->images.n, sizeof *files->masks);
    if (files->masks == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    for (int64_t i = 0; i < files->images.n; i++)
        TRY(find_masks(path_list_get(&files->images, i), gaps, &files->masks[i]));
    return OK;
}

/* ---- the root ---- */

static void close_files(void *self)
{
    Files *files = self;
    path_list_free(&files->images);
    free(files->masks);
    free(files->root);
    free(files);
}

static uint64_t sample_id(const void *self, int64_t index)
{
    const Files *files = self;
    return root_sample_id(root_path_below(files->root, path_list_get(&files->images, index)));
}

static int64_t id_group(const void *self, int64_t index, uint64_t *min_id, uint64_t *max_id)
{
    *min_id = *max_id = sample_id(self, index);
    return index + 1;
}

static void image_name(const void *self, int64_t index, char name[ROOT_NAME_BYTES])
{
    snprintf(name, ROOT_NAME_BYTES, "%s", path_list_get(&((const Files *)self)->images, index));
}

static Status read_image(const void *self, int64_t index, RootReader *reader)
{
    const Files *files = self;
    return root_read_file(reader, files->root, path_list_get(&files->images, index));
}

static bool has_masks(const void *self, int64_t index)
{
    const Files *files = self;
    return files->masks != NULL && files->masks[index] != MASKS_NONE;
}

static Status read_masks(const void *self, int64_t index, RootReader *reader, Annotations *out)
{
    const Files *files = self;
    char path[ROOT_NAME_BYTES];
    bool apart = files->masks[index] == MASKS_APART;
    TRY(mask_path(path_list_get(&files->images, index), apart, path));
    TRY(root_read_file(reader, files->root, path));
    return annotations_parse(reader->name, reader->bytes, reader->n_bytes, out);
}

static const RootOps ops = {close_files, sample_id, id_group,  image_name,
                            read_image,  has_masks, read_masks};

Status root_open_files(const char *path, PathList *images, const RootConfig *config, Root *out)
{
    Files *files = calloc(1, sizeof *files);
    if (files == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    files->images = *images;
    *images = (PathList){0};
    files->root = strdup(path);
    Status status = OK;
    if (files->root == NULL) status = status_fail(E_MEMORY, "out of memory: list of samples");
    if (status == OK && config->masks) status = find_all_masks(files, config->gaps);
    if (status == OK)
        *out = (Root){.ops = &ops, .self = files, .n_samples = files->images.n};
    else
        close_files(files);
    return status;
}
