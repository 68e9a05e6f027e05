/* Loose files in a folder as a root. See root.h.
 *
 * Must hold: a path is an offset into one text, which moves while the folder is listed.
 */
#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/rng.h"
#include "data/root.h"

static const int64_t max_file_bytes = (int64_t)1 << 30;

typedef struct File {
    size_t path; /* where it begins in the text */
    uint64_t id;
    bool masks_apart; /* its masks lie in the folder masks beside images */
} File;

typedef struct Folder {
    Buffer text_memory, file_memory;
    size_t n_text, root_length;
    File *files;
    int64_t n_files;
} Folder;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool is_jpeg(const char *path)
{
    const char *dot = strrchr(base_name(path), '.');
    return dot != NULL && (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0);
}

static size_t stem_length(const char *path)
{
    const char *dot = strrchr(base_name(path), '.');
    return dot ? (size_t)(dot - path) : strlen(path);
}

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
    const char *name = base_name(path_below_root);
    size_t length = stem_length(path_below_root) - (size_t)(name - path_below_root);
    uint64_t number;
    return sa_number(name, length, &number) ? number : rng_name_hash(path_below_root);
}

void root_reader_free(RootReader *reader)
{
    buffer_free(&reader->file);
    coco_scratch_free(&reader->coco);
    *reader = (RootReader){0};
}

/* ---- listing ---- */

static const char *path_of(const Folder *folder, const File *file)
{
    return (const char *)folder->text_memory.data + file->path;
}

/* The path of an image's masks: ROOT/../NAME.json, or with the last folder "images" as "masks". */
static Status mask_path(const char *image, bool apart, char path[ROOT_NAME_BYTES])
{
    static const char from[] = "/images/", to[] = "/masks/";
    size_t stem = stem_length(image);
    size_t folder = (size_t)(base_name(image) - image); /* with its slash */
    int n = apart ? snprintf(path, ROOT_NAME_BYTES, "%.*s%s%.*s.json", (int)(folder - strlen(from)),
                             image, to, (int)(stem - folder), image + folder)
                  : snprintf(path, ROOT_NAME_BYTES, "%.*s.json", (int)stem, image);
    if (n < ROOT_NAME_BYTES) return OK;
    return status_fail(E_FILE, "%s: a path of more than %d characters", image, ROOT_NAME_BYTES - 1);
}

static bool lies_in_images(const char *image)
{
    static const char folder[] = "/images/";
    size_t before = (size_t)(base_name(image) - image), length = strlen(folder);
    return before >= length && memcmp(image + before - length, folder, length) == 0;
}

static Status find_masks(const char *image, bool *apart)
{
    char path[ROOT_NAME_BYTES];
    *apart = false;
    TRY(mask_path(image, false, path));
    if (access(path, R_OK) == 0) return OK;
    Status beside = status_fail(E_FILE, "%s: cannot read %s with its masks: %s", image,
                                base_name(path), strerror(errno));
    if (!lies_in_images(image)) return beside;
    *apart = true;
    TRY(mask_path(image, true, path));
    if (access(path, R_OK) == 0) return OK;
    return status_fail(E_FILE, "%s: cannot read %s with its masks: %s", image, path,
                       strerror(errno));
}

static Status add_file(Folder *folder, const char *path, bool masks)
{
    if (!is_jpeg(path)) return OK;
    size_t n = strlen(path) + 1;
    TRY(buffer_grow(&folder->text_memory, folder->n_text + n));
    TRY(buffer_grow(&folder->file_memory, (size_t)(folder->n_files + 1) * sizeof(File)));
    memcpy((char *)folder->text_memory.data + folder->n_text, path, n);
    const char *below = path + folder->root_length;
    while (*below == '/') below++;
    folder->files = folder->file_memory.data;
    File *file = &folder->files[folder->n_files++];
    *file = (File){.path = folder->n_text, .id = root_sample_id(below)};
    folder->n_text += n;
    return masks ? find_masks(path, &file->masks_apart) : OK;
}

static Status add_entry(Folder *folder, const FTSENT *entry, bool masks)
{
    switch (entry->fts_info) {
    case FTS_F: return add_file(folder, entry->fts_path, masks);
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        return status_fail(E_FILE, "%s: cannot read: %s", entry->fts_path,
                           strerror(entry->fts_errno));
    case FTS_DC: return status_fail(E_FILE, "%s: a link to a folder above itself", entry->fts_path);
    default: return OK;
    }
}

static Status walk(Folder *folder, const char *path, bool masks)
{
    char *roots[] = {(char *)path, NULL};
    FTS *entries = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, NULL);
    if (entries == NULL) return status_fail(E_FILE, "%s: cannot read: %s", path, strerror(errno));
    Status status = OK;
    for (FTSENT *entry; status == OK && (entry = fts_read(entries)) != NULL;)
        status = add_entry(folder, entry, masks);
    fts_close(entries);
    return status;
}

static int compare_names(const void *left, const void *right, void *text)
{
    const char *a = (const char *)text + ((const File *)left)->path,
               *b = (const char *)text + ((const File *)right)->path;
    int order = strcmp(base_name(a), base_name(b));
    return order ? order : strcmp(a, b);
}

static Status list_folder(Folder *folder, const char *path, bool masks)
{
    if (access(path, R_OK) != 0)
        return status_fail(E_FILE, "%s: cannot open the data folder: %s", path, strerror(errno));
    folder->root_length = strlen(path);
    TRY(walk(folder, path, masks));
    if (folder->n_files == 0)
        return status_fail(E_CONFIG, "%s: no sample; looked for *.jpg and *.jpeg%s at any depth",
                           path, masks ? " with a .json of the same name beside them" : "");
    qsort_r(folder->files, (size_t)folder->n_files, sizeof(File), compare_names,
            folder->text_memory.data);
    return OK;
}

/* ---- the root ---- */

static void close_folder(void *self)
{
    Folder *folder = self;
    buffer_free(&folder->text_memory);
    buffer_free(&folder->file_memory);
    free(folder);
}

static uint64_t sample_id(const void *self, int64_t index)
{
    return ((const Folder *)self)->files[index].id;
}

static void image_name(const void *self, int64_t index, char name[ROOT_NAME_BYTES])
{
    const Folder *folder = self;
    snprintf(name, ROOT_NAME_BYTES, "%s", path_of(folder, &folder->files[index]));
}

static Status read_image(const void *self, int64_t index, RootReader *reader, size_t *n_bytes)
{
    const Folder *folder = self;
    return buffer_read_file(&reader->file, path_of(folder, &folder->files[index]), max_file_bytes,
                            n_bytes);
}

static Status read_masks(const void *self, int64_t index, RootReader *reader, Annotations *out)
{
    const Folder *folder = self;
    const File *file = &folder->files[index];
    char path[ROOT_NAME_BYTES];
    size_t n_bytes;
    TRY(mask_path(path_of(folder, file), file->masks_apart, path));
    TRY(buffer_read_file(&reader->file, path, max_file_bytes, &n_bytes));
    return annotations_parse(path, reader->file.data, n_bytes, out);
}

static const RootOps ops = {close_folder, sample_id, image_name, read_image, read_masks};

Status root_open_folder(const char *path, bool masks, Root *out)
{
    Folder *folder = calloc(1, sizeof *folder);
    if (folder == NULL) return status_fail(E_MEMORY, "out of memory: list of samples");
    Status status = list_folder(folder, path, masks);
    if (status == OK)
        *out = (Root){.ops = &ops, .self = folder, .n_samples = folder->n_files};
    else
        close_folder(folder);
    return status;
}
