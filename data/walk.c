/* See walk.h. */
#include "data/walk.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *path_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- lists ---- */

Status path_list_add(PathList *list, const char *path)
{
    size_t n = strlen(path) + 1;
    TRY(buffer_grow(&list->text_memory, list->n_text + n));
    TRY(buffer_grow(&list->offset_memory, (size_t)(list->n + 1) * sizeof(size_t)));
    memcpy((char *)list->text_memory.data + list->n_text, path, n);
    ((size_t *)list->offset_memory.data)[list->n++] = list->n_text;
    list->n_text += n;
    return OK;
}

const char *path_list_get(const PathList *list, int64_t index)
{
    return (const char *)list->text_memory.data + ((const size_t *)list->offset_memory.data)[index];
}

static int compare_names(const void *left, const void *right, void *text)
{
    const char *a = (const char *)text + *(const size_t *)left,
               *b = (const char *)text + *(const size_t *)right;
    int order = strcmp(path_base_name(a), path_base_name(b));
    return order ? order : strcmp(a, b);
}

void path_list_sort(PathList *list)
{
    if (list->n > 1)
        qsort_r(list->offset_memory.data, (size_t)list->n, sizeof(size_t), compare_names,
                list->text_memory.data);
}

void path_list_free(PathList *list)
{
    buffer_free(&list->text_memory);
    buffer_free(&list->offset_memory);
    *list = (PathList){0};
}

/* ---- folders ---- */

static Status on_entry(const FTSENT *entry, Status (*on_file)(void *user, const char *path),
                       void *user)
{
    switch (entry->fts_info) {
    case FTS_F: return on_file(user, entry->fts_path);
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        return status_fail(E_FILE, "%s: cannot read: %s", entry->fts_path,
                           strerror(entry->fts_errno));
    case FTS_DC: return status_fail(E_FILE, "%s: a link to a folder above itself", entry->fts_path);
    default: return OK;
    }
}

Status walk_folder(const char *folder, Status (*on_file)(void *user, const char *path), void *user)
{
    if (access(folder, R_OK) != 0)
        return status_fail(E_FILE, "%s: cannot open the data folder: %s", folder, strerror(errno));
    char *roots[] = {(char *)folder, NULL};
    FTS *entries = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, NULL);
    if (entries == NULL) return status_fail(E_FILE, "%s: cannot read: %s", folder, strerror(errno));
    Status status = OK;
    for (FTSENT *entry; status == OK && (entry = fts_read(entries)) != NULL;)
        status = on_entry(entry, on_file, user);
    fts_close(entries);
    return status;
}
