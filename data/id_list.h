/* Lists of sample ids, one a line: what a data set is, wherever its files lie. Called by
 * data/source.c.
 *
 * A line is N or sa_N (with an extension or without), or, for other names, the path of the image
 * below its root. Empty lines do not count.
 */
#ifndef RETORT_DATA_ID_LIST_H
#define RETORT_DATA_ID_LIST_H

#include "data/root.h"

typedef struct IdList {
    uint64_t *ids;
    bool *found; /* by id_list_choose, of the id of the same place */
    int64_t n;
} IdList;

/* id_list_read: errors  E_FILE; E_CONFIG if it is empty; E_MEMORY */
Status id_list_read(const char *path, IdList *out);
void id_list_free(IdList *list);

/* id_list_choose: the samples of a root that the list names, in the order of the list.
 * out     (n) their indexes, to be freed
 * errors  E_CONFIG if the list holds an id twice; E_MEMORY */
Status id_list_choose(IdList *list, const char *path, const Root *root, int64_t **out, int64_t *n);

/* id_list_check: that all were found. errors  E_CONFIG counting and naming those that were not */
Status id_list_check(const IdList *list, const char *path);

/* id_list_check_roots: that no two samples of the roots have one id: they would get the same draws
 * and share a place in caches. Shards of tars whose ranges of ids are apart cost no time.
 * errors  E_CONFIG naming both; E_MEMORY */
Status id_list_check_roots(const Root *const *roots, int n_roots);

#endif
