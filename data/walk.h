/* All files below a folder, links followed. Called where roots are opened (data/root.c). */
#ifndef RETORT_DATA_WALK_H
#define RETORT_DATA_WALK_H

#include <stdint.h>

#include "data/buffer.h"

typedef struct PathList { /* zero-initialise; the text moves while paths are added */
    Buffer text_memory, offset_memory;
    size_t n_text;
    int64_t n;
} PathList;

/* path_list_add: appends a copy. errors  E_MEMORY. path_list_get: one of the paths.
 * path_list_sort: by file name, then by path. */
Status path_list_add(PathList *list, const char *path);
const char *path_list_get(const PathList *list, int64_t index);
void path_list_sort(PathList *list);
void path_list_free(PathList *list);

const char *path_base_name(const char *path); /* what follows the last slash */

/* walk_folder: calls `on_file` for every regular file, in no particular order.
 * errors  E_FILE naming what cannot be read, or a link to a folder above itself; those of on_file,
 *         which end the walk */
Status walk_folder(const char *folder, Status (*on_file)(void *user, const char *path), void *user);

#endif
