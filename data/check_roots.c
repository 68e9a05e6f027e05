/* The check of whole roots: what lies there, which samples go together. See check.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/check_parts.h"
#include "data/id_list.h"
#include "data/tar_index.h"
#include "data/walk.h"

typedef struct Check {
    const CheckConfig *config;
    CheckReport *report;
    CheckRoot *roots;
    int n_roots, room;
    int64_t n_samples, n_files; /* noted so far: the order of findings */
} Check;

#define NOTE_FILE(check, kind, ...) \
    check_note((check)->report, (check)->config->n_lines, kind, (check)->n_files++, __VA_ARGS__)

/* ---- opening ---- */

static void add_root(Check *check, Root root, CheckKind unmasked)
{
    CheckRoot *out;
    check->roots = mem_grow(check->roots, &check->room, check->n_roots + 1, sizeof *check->roots);
    out = &check->roots[check->n_roots++];
    *out = (CheckRoot){.root = root, .first = check->n_samples, .unmasked = unmasked};
    check->n_samples += root.n_samples;
}

static const RootConfig with_gaps = {.masks = true, .gaps = true, .crowds = true};

/* A failure to open what is there is a finding. */
static Status note_unless_memory(Check *check, Status status)
{
    if (status == OK || status == E_MEMORY) return status;
    NOTE_FILE(check, CHECK_SHARD, "%s", status_message());
    return OK;
}

static Status check_index(Check *check, const char *shard)
{
    char path[ROOT_NAME_BYTES];
    TarShard info;
    TarIndex index;
    if (check->config->index_folder == NULL) return OK;
    TRY(tar_index_path(check->config->index_folder, shard, path));
    if (!file_exists(path)) return OK;
    TRY(tar_shard_stat(shard, &info));
    Status status = tar_index_open(path, &info, &index);
    if (status == OK) tar_index_free(&index);
    if (status == OK || status == E_MEMORY) return status;
    NOTE_FILE(check, CHECK_INDEX, "%s", status_message());
    return OK;
}

static Status open_shard(Check *check, const char *path)
{
    PathList list = {0};
    TarIndex index;
    Root root;
    TRY(check_index(check, path));
    TRY(tar_index_build(path, &index));
    int64_t n_images = index.n_records;
    if (index.n_lone_masks > 0)
        NOTE_FILE(check, CHECK_LONE_MASKS, "%s: %lld of them, %s is the first", path,
                  (long long)index.n_lone_masks, index.lone_masks);
    tar_index_free(&index);
    check->report->n_shards++;
    if (n_images == 0) return OK;
    Status status = path_list_add(&list, path);
    if (status == OK) status = root_open_tar(&list, &with_gaps, &root);
    path_list_free(&list);
    if (status == OK) add_root(check, root, CHECK_NO_MASKS);
    return status;
}

static Status open_instances(Check *check, const RootText *text)
{
    Root root;
    TRY(root_open_coco(text->path, text->instances, &with_gaps, &root));
    add_root(check, root, CHECK_NO_OBJECT);
    return OK;
}

/* ---- folders ---- */

typedef struct Found {
    PathList images, shards, masks;
} Found;

static Status on_file(void *user, const char *path)
{
    Found *found = user;
    const char *dot = strrchr(path_base_name(path), '.');
    if (root_is_shard(path)) return path_list_add(&found->shards, path);
    if (root_is_image(path)) return path_list_add(&found->images, path);
    return dot && strcmp(dot, ".json") == 0 ? path_list_add(&found->masks, path) : OK;
}

/* Whether STEM.jpg, or whatever it may be called, is there. */
static bool has_image(const char *stem, size_t n_stem)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".JPG", ".JPEG"};
    char path[ROOT_NAME_BYTES];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        int n = snprintf(path, sizeof path, "%.*s%s", (int)n_stem, stem, ends[i]);
        if (n < (int)sizeof path && access(path, F_OK) == 0) return true;
    }
    return false;
}

/* Of FOLDER/NAME.json, and of masks/NAME.json, whose image is in the folder images beside it. */
static bool masks_have_image(const char *masks)
{
    static const char folder[] = "/masks/";
    char apart[ROOT_NAME_BYTES];
    const char *name = path_base_name(masks);
    size_t n_stem = (size_t)(strrchr(name, '.') - masks), before = (size_t)(name - masks);
    if (has_image(masks, n_stem)) return true;
    if (before < strlen(folder) || memcmp(name - strlen(folder), folder, strlen(folder)) != 0)
        return false;
    int n = snprintf(apart, sizeof apart, "%.*s/images/%.*s", (int)(before - strlen(folder)),
                     masks, (int)(n_stem - before), name);
    return n < (int)sizeof apart && has_image(apart, (size_t)n);
}

static Status open_images(Check *check, const char *path, Found *found)
{
    Root root;
    for (int64_t i = 0; i < found->masks.n; i++) {
        const char *masks = path_list_get(&found->masks, i);
        if (!masks_have_image(masks)) NOTE_FILE(check, CHECK_LONE_MASKS, "%s", masks);
    }
    if (found->images.n == 0) return OK;
    TRY(root_open_files(path, &found->images, &with_gaps, &root));
    add_root(check, root, CHECK_NO_MASKS);
    return OK;
}

static Status open_found(Check *check, const char *path, Found *found)
{
    Root none;
    if (found->images.n == 0 && found->shards.n == 0) /* says what was looked for */
        return root_open(path, &with_gaps, &none);
    path_list_sort(&found->images);
    path_list_sort(&found->shards);
    path_list_sort(&found->masks);
    if (found->images.n > 0 && found->shards.n > 0)
        NOTE_FILE(check, CHECK_MIXED, "%s: %s and %s", path, path_list_get(&found->shards, 0),
                  path_list_get(&found->images, 0));
    for (int64_t i = 0; i < found->shards.n; i++)
        TRY(note_unless_memory(check, open_shard(check, path_list_get(&found->shards, i))));
    return open_images(check, path, found);
}

static Status open_folder(Check *check, const char *path)
{
    Found found = {0};
    Status status = walk_folder(path, on_file, &found);
    if (status == OK) status = open_found(check, path, &found);
    path_list_free(&found.images);
    path_list_free(&found.shards);
    path_list_free(&found.masks);
    return status;
}

/* ---- ids ---- */

typedef struct Named {
    uint64_t id;
    const CheckRoot *root;
    int64_t index;
} Named;

static int by_id(const void *left, const void *right)
{
    const Named *a = left, *b = right;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    int64_t x = a->root->first + a->index, y = b->root->first + b->index;
    return (x > y) - (x < y);
}

static void note_twins(Check *check, const Named *a, const Named *b)
{
    char first[ROOT_NAME_BYTES], second[ROOT_NAME_BYTES];
    a->root->root.ops->image_name(a->root->root.self, a->index, first);
    b->root->root.ops->image_name(b->root->root.self, b->index, second);
    check_note(check->report, check->config->n_lines, CHECK_TWINS, b->root->first + b->index,
               "%.500s: id %llu, as %.500s", second, (unsigned long long)b->id, first);
}

/* All samples of the roots first .. n_roots - 1, by id. */
static Status sort_ids(const Check *check, int first, Named **out, int64_t *n)
{
    *n = 0;
    for (int r = first; r < check->n_roots; r++) *n += check->roots[r].root.n_samples;
    Named *all = malloc((size_t)(*n + 1) * sizeof *all);
    if (all == NULL) return status_fail(E_MEMORY, "out of memory: list of ids");
    Named *next = all;
    for (int r = first; r < check->n_roots; r++) {
        const CheckRoot *root = &check->roots[r];
        for (int64_t i = 0; i < root->root.n_samples; i++)
            *next++ = (Named){root->root.ops->sample_id(root->root.self, i), root, i};
    }
    qsort(all, (size_t)*n, sizeof *all, by_id);
    *out = all;
    return OK;
}

static Status check_twins(Check *check)
{
    Named *all;
    int64_t n;
    TRY(sort_ids(check, 0, &all, &n));
    for (int64_t i = 1; i < n; i++)
        if (all[i].id == all[i - 1].id) note_twins(check, &all[i - 1], &all[i]);
    free(all);
    return OK;
}

static int compare_id(const void *id, const void *named)
{
    uint64_t left = *(const uint64_t *)id, right = ((const Named *)named)->id;
    return left < right ? -1 : left > right;
}

static void check_listed(Check *check, const char *path, const IdList *list, Named *all, int64_t n)
{
    for (int64_t i = 0; i < list->n; i++) {
        Named *found = bsearch(&list->ids[i], all, (size_t)n, sizeof *all, compare_id);
        if (found != NULL && found->root != NULL) {
            found->root = NULL; /* named */
            continue;
        }
        NOTE_FILE(check, CHECK_LISTED, "%.700s: id %llu%s", path, (unsigned long long)list->ids[i],
                  found ? " a second time" : "");
    }
}

/* The list that a root may have of its own; `first`: the first root that was opened for it. */
static Status check_own_list(Check *check, const char *root, int first)
{
    IdList list = {0};
    Named *all = NULL;
    int64_t n;
    char *path = file_join(root, "sa_images_ids.txt");
    Status status = OK;
    if (file_exists(path)) {
        status = note_unless_memory(check, id_list_read(path, &list));
        if (status == OK) status = sort_ids(check, first, &all, &n);
        if (status == OK) check_listed(check, path, &list, all, n);
    }
    id_list_free(&list);
    free(all);
    free(path);
    return status;
}

/* ---- all of it ---- */

/* Whether any sample of the roots from `first` on has masks: then all of them want some. */
static void find_wants(Check *check, int first)
{
    bool any = false;
    for (int r = first; r < check->n_roots; r++) {
        const Root *root = &check->roots[r].root;
        for (int64_t i = 0; i < root->n_samples && !any; i++)
            any = root->ops->has_masks(root->self, i);
    }
    for (int r = first; r < check->n_roots; r++) check->roots[r].wants_masks = any;
}

static Status open_text(Check *check, const char *text)
{
    RootText parsed;
    TRY(root_text_parse(text, &parsed));
    int first = check->n_roots;
    Status status;
    if (parsed.instances)
        status = note_unless_memory(check, open_instances(check, &parsed));
    else if (root_is_shard(parsed.path))
        status = note_unless_memory(check, open_shard(check, parsed.path));
    else
        status = open_folder(check, parsed.path);
    find_wants(check, first);
    if (status == OK) status = check_own_list(check, parsed.path, first);
    free(parsed.path);
    return status;
}

typedef struct Team { /* threads that share the samples */
    Check *check;
    int64_t next; /* sample to take, under the report's mutex */
    Status failed;
} Team;

/* The next sample and its root; NULL: none is left. */
static const CheckRoot *take_sample(Team *team, int64_t *index)
{
    const Check *check = team->check;
    pthread_mutex_lock(&check->report->mutex);
    *index = team->failed == OK ? team->next++ : check->n_samples;
    pthread_mutex_unlock(&check->report->mutex);
    if (*index >= check->n_samples) return NULL;
    const CheckRoot *root = check->roots;
    while (*index >= root->first + root->root.n_samples) root++;
    *index -= root->first;
    return root;
}

static void *check_in_thread(void *argument)
{
    Team *team = argument;
    CheckReport *report = team->check->report;
    CheckWorker worker;
    const CheckRoot *root;
    int64_t index;
    Status status = check_worker_open(report, team->check->config->n_lines, &worker);
    while (status == OK && (root = take_sample(team, &index)) != NULL)
        status = check_sample(&worker, root, index);
    check_worker_close(&worker);
    if (status == OK) return NULL;
    pthread_mutex_lock(&report->mutex);
    team->failed = status;
    pthread_mutex_unlock(&report->mutex);
    return NULL;
}

static Status check_samples(Check *check)
{
    int wanted = check->config->n_threads, n_started = 0;
    Team team = {.check = check};
    if (wanted == 0) wanted = (int)sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t *threads = mem_alloc((size_t)wanted * sizeof *threads);
    while (n_started < wanted &&
           pthread_create(&threads[n_started], NULL, check_in_thread, &team) == 0)
        n_started++;
    for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    free(threads);
    if (n_started == wanted && team.failed == OK) return OK;
    return status_fail(E_MEMORY, "out of memory: check of samples on %d threads", wanted);
}

Status check_roots(const CheckConfig *config, CheckReport *out)
{
    Check check = {.config = config, .report = out};
    Status status = OK;
    *out = (CheckReport){.mutex = PTHREAD_MUTEX_INITIALIZER};
    for (int i = 0; i < config->n_roots && status == OK; i++)
        status = open_text(&check, config->roots[i]);
    out->n_images = check.n_samples;
    if (status == OK) status = check_twins(&check);
    if (status == OK) status = check_samples(&check);
    for (int i = 0; i < check.n_roots; i++)
        check.roots[i].root.ops->close(check.roots[i].root.self);
    free(check.roots);
    if (status != OK) check_report_free(out);
    return status;
}
