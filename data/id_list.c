/* See id_list.h. */
#include "data/id_list.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"

static Status out_of_memory(void) { return status_fail(E_MEMORY, "out of memory: list of ids"); }

/* ---- reading ---- */

static uint64_t parse_line(const char *line)
{
    int64_t number;
    return text_to_int(line, &number) && number >= 0 ? (uint64_t)number : root_sample_id(line);
}

static int64_t count_lines(const char *text)
{
    int64_t n = 1;
    for (; *text; text++) n += *text == '\n';
    return n;
}

static Status parse_lines(char *text, IdList *out)
{
    size_t n = (size_t)count_lines(text);
    out->ids = malloc(n * sizeof *out->ids);
    out->found = calloc(n, sizeof *out->found);
    if (out->ids == NULL || out->found == NULL) return out_of_memory();
    for (char *next, *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (*line) out->ids[out->n++] = parse_line(line);
    }
    return OK;
}

Status id_list_read(const char *path, IdList *out)
{
    static const size_t max_bytes = (size_t)1 << 32;
    char *text;
    size_t n_bytes;
    *out = (IdList){0};
    TRY(file_read(path, max_bytes, &text, &n_bytes));
    Status status = parse_lines(text, out);
    free(text);
    if (status == OK && out->n == 0) status = status_fail(E_CONFIG, "%s: holds no id", path);
    if (status != OK) id_list_free(out);
    return status;
}

void id_list_free(IdList *list)
{
    free(list->ids);
    free(list->found);
    *list = (IdList){0};
}

/* ---- choosing ---- */

typedef struct Entry {
    uint64_t id;
    int64_t index;
} Entry;

static int by_id(const void *left, const void *right)
{
    const Entry *a = left, *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

static Status sort_samples(const Root *root, Entry **out)
{
    Entry *all = malloc((size_t)root->n_samples * sizeof *all);
    if (all == NULL) return out_of_memory();
    for (int64_t i = 0; i < root->n_samples; i++)
        all[i] = (Entry){root->ops->sample_id(root->self, i), i};
    qsort(all, (size_t)root->n_samples, sizeof *all, by_id);
    *out = all;
    return OK;
}

/* The samples that the list names, in its order; `taken` marks those that were named. */
static Status find_ids(IdList *list, const char *path, const Root *root, const Entry *all,
                       bool *taken, int64_t *choice, int64_t *n)
{
    for (int64_t i = 0; i < list->n; i++) {
        Entry wanted = {.id = list->ids[i]};
        const Entry *entry = bsearch(&wanted, all, (size_t)root->n_samples, sizeof *all, by_id);
        if (entry == NULL) continue;
        if (taken[entry->index])
            return status_fail(E_CONFIG, "%s: holds the id %llu twice", path,
                               (unsigned long long)wanted.id);
        taken[entry->index] = list->found[i] = true;
        choice[(*n)++] = entry->index;
    }
    return OK;
}

Status id_list_choose(IdList *list, const char *path, const Root *root, int64_t **out, int64_t *n)
{
    size_t n_samples = (size_t)root->n_samples;
    Entry *all = NULL;
    int64_t *choice = malloc(n_samples * sizeof *choice);
    bool *taken = calloc(n_samples, sizeof *taken);
    *n = 0;
    Status status = choice && taken ? sort_samples(root, &all) : out_of_memory();
    if (status == OK) status = find_ids(list, path, root, all, taken, choice, n);
    free(all);
    free(taken);
    if (status == OK)
        *out = choice;
    else
        free(choice);
    return status;
}

Status id_list_check(const IdList *list, const char *path)
{
    int64_t n_missing = 0, first = 0;
    for (int64_t i = list->n - 1; i >= 0; i--)
        if (!list->found[i]) {
            n_missing++;
            first = i;
        }
    if (n_missing == 0) return OK;
    return status_fail(E_CONFIG, "%s: %lld of its %lld ids are in no root, the first is %llu", path,
                       (long long)n_missing, (long long)list->n,
                       (unsigned long long)list->ids[first]);
}

/* ---- twins ---- */

typedef struct Group { /* samples whose ids differ, and are in min .. max */
    uint64_t min, max;
    const Root *root;
    int64_t first, end;
} Group;

typedef struct Named {
    uint64_t id;
    const Root *root;
    int64_t index;
} Named;

static int by_min(const void *left, const void *right)
{
    const Group *a = left, *b = right;
    return (a->min > b->min) - (a->min < b->min);
}

static int by_named_id(const void *left, const void *right)
{
    const Named *a = left, *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

static Status list_groups(const Root *const *roots, int n_roots, Buffer *memory, int64_t *n)
{
    for (int r = 0; r < n_roots; r++) {
        const Root *root = roots[r];
        for (int64_t i = 0; i < root->n_samples;) {
            TRY(buffer_grow(memory, (size_t)(*n + 1) * sizeof(Group)));
            Group *group = (Group *)memory->data + (*n)++;
            *group = (Group){.root = root, .first = i};
            i = group->end = root->ops->id_group(root->self, i, &group->min, &group->max);
        }
    }
    return OK;
}

static Status fail_twins(const Named *a, const Named *b)
{
    char first[ROOT_NAME_BYTES], second[ROOT_NAME_BYTES];
    a->root->ops->image_name(a->root->self, a->index, first);
    b->root->ops->image_name(b->root->self, b->index, second);
    return status_fail(E_CONFIG, "%.400s and %.400s have the same sample id %llu; keep one of them",
                       first, second, (unsigned long long)a->id);
}

/* Groups whose ranges overlap: looks at every id. */
static Status check_overlap(const Group *groups, int64_t n)
{
    int64_t n_all = 0, k = 0;
    for (int64_t g = 0; g < n; g++) n_all += groups[g].end - groups[g].first;
    Named *all = malloc((size_t)n_all * sizeof *all);
    if (all == NULL) return out_of_memory();
    for (int64_t g = 0; g < n; g++)
        for (int64_t i = groups[g].first; i < groups[g].end; i++)
            all[k++] = (Named){groups[g].root->ops->sample_id(groups[g].root->self, i),
                               groups[g].root, i};
    qsort(all, (size_t)n_all, sizeof *all, by_named_id);
    Status status = OK;
    for (int64_t i = 1; i < n_all && status == OK; i++)
        if (all[i].id == all[i - 1].id) status = fail_twins(&all[i - 1], &all[i]);
    free(all);
    return status;
}

static Status check_groups(Group *groups, int64_t n)
{
    qsort(groups, (size_t)n, sizeof *groups, by_min);
    for (int64_t begin = 0, end; begin < n; begin = end) {
        uint64_t max = groups[begin].max;
        for (end = begin + 1; end < n && groups[end].min <= max; end++)
            if (groups[end].max > max) max = groups[end].max;
        if (end - begin > 1) TRY(check_overlap(groups + begin, end - begin));
    }
    return OK;
}

Status id_list_check_roots(const Root *const *roots, int n_roots)
{
    Buffer memory = {0};
    int64_t n = 0;
    Status status = list_groups(roots, n_roots, &memory, &n);
    if (status == OK && n > 1) status = check_groups(memory.data, n);
    buffer_free(&memory);
    return status;
}
