/* A run folder, read for a report. See report.h. */
#include "train/report.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/json.h"

/* ---- results of retort eval ---- */

static char *copy_text(const JsonEvent *event)
{
    char *copy = mem_alloc(event->n_chars + 1);
    memcpy(copy, event->text, event->n_chars);
    return copy;
}

static void set_text(char **field, const JsonEvent *event)
{
    if (event->kind != JSON_STRING) return;
    free(*field);
    *field = copy_text(event);
}

static void add_score(ReportEval *eval, const char *prompt)
{
    int n = eval->n_scores++;
    eval->scores = mem_grow(eval->scores, &eval->capacity, n + 1, sizeof *eval->scores);
    ReportScore *score = &eval->scores[n];
    score->prompt = mem_string(prompt);
    for (int i = 0; i < N_AREA_CLASSES; i++) score->percent[i] = NAN;
}

/* `path` is behind "miou.": a kind of prompt, or one of its numbers, which come right after it. */
static void take_score(ReportEval *eval, const char *path, const JsonEvent *event)
{
    const char *dot = strchr(path, '.');
    if (!dot && event->kind == JSON_OBJECT) add_score(eval, path);
    if (!dot || event->kind != JSON_NUMBER || eval->n_scores == 0) return;
    for (int i = 0; i < N_AREA_CLASSES; i++)
        if (strcmp(dot + 1, area_class_names[i]) == 0)
            eval->scores[eval->n_scores - 1].percent[i] = event->number;
}

static Status take_value(void *user, const JsonEvent *event)
{
    ReportEval *eval = user;
    if (strcmp(event->path, "model") == 0)
        set_text(&eval->model, event);
    else if (strcmp(event->path, "data") == 0)
        set_text(&eval->data, event);
    else if (strcmp(event->path, "select") == 0)
        set_text(&eval->select, event);
    else if (strcmp(event->path, "images") == 0)
        eval->n_images = (int64_t)event->number;
    else if (strncmp(event->path, "miou.", 5) == 0)
        take_score(eval, event->path + 5, event);
    return OK;
}

Status report_eval_read(const char *path, ReportEval *out)
{
    TRY(json_read(path, take_value, out));
    if (out->n_scores > 0 && out->model && out->data && out->select) return OK;
    return status_fail(E_FORMAT,
                       "%s: is no result of retort eval: model, data, select or miou is "
                       "missing",
                       path);
}

void report_eval_free(ReportEval *eval)
{
    for (int i = 0; i < eval->n_scores; i++) free(eval->scores[i].prompt);
    free(eval->scores);
    free(eval->file);
    free(eval->model);
    free(eval->data);
    free(eval->select);
}

/* ---- the folder ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names in `folder` that match, sorted; none if there is no such folder. */
static Status list_names(const char *folder, const char *pattern, char ***out, int *out_n)
{
    char **names = NULL;
    int n = 0, capacity = 0;
    DIR *stream = opendir(folder);
    if (!stream && errno != ENOENT)
        return status_fail(E_FILE, "%s: cannot be listed: %s", folder, strerror(errno));
    for (const struct dirent *entry; stream && (entry = readdir(stream));) {
        if (fnmatch(pattern, entry->d_name, FNM_PERIOD) != 0) continue;
        names = mem_grow(names, &capacity, n + 1, sizeof *names);
        names[n++] = mem_string(entry->d_name);
    }
    if (stream) closedir(stream);
    if (n > 0) qsort(names, (size_t)n, sizeof *names, compare_names);
    *out = names;
    *out_n = n;
    return OK;
}

static void free_names(char **names, int n)
{
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

static Status read_evals(ReportRun *run)
{
    char **names = NULL;
    int n = 0;
    TRY(list_names(run->path, "eval*.json", &names, &n));
    run->evals = mem_alloc((size_t)(n + 1) * sizeof *run->evals);
    Status status = OK;
    for (int i = 0; i < n && status == OK; i++) {
        char *path = file_join(run->path, names[i]);
        ReportEval *eval = &run->evals[run->n_evals++];
        eval->file = mem_string(names[i]);
        status = report_eval_read(path, eval);
        free(path);
    }
    free_names(names, n);
    return status;
}

static Status read_training(ReportRun *run)
{
    char *log = file_join(run->path, "log.jsonl"), *config = file_join(run->path, "config.yaml");
    Status status = OK;
    run->trained = file_exists(log);
    if (run->trained) {
        status = report_log_read(log, &run->log);
        if (status == OK) status = options_load(config, 0, NULL, &run->options);
    }
    free(log);
    free(config);
    return status;
}

static Status list_pictures(ReportRun *run)
{
    char *folder = file_join(run->path, "pictures");
    Status status = list_names(folder, "*.png", &run->pictures, &run->n_pictures);
    free(folder);
    return status;
}

/* The last word of the path, if that says anything. */
static char *name_of(const char *path)
{
    char *copy = mem_string(path);
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/') copy[--n] = '\0';
    const char *slash = strrchr(copy, '/'), *last = slash ? slash + 1 : copy;
    bool says_nothing = !*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0;
    char *name = mem_string(says_nothing ? path : last);
    free(copy);
    return name;
}

static Status read_folder(ReportRun *run)
{
    if (!file_exists(run->path))
        return status_fail(E_FILE, "%s: there is no such run folder", run->path);
    TRY(read_training(run));
    TRY(read_evals(run));
    TRY(list_pictures(run));
    if (run->trained || run->n_evals > 0 || run->n_pictures > 0) return OK;
    return status_fail(E_FILE,
                       "%s: holds neither log.jsonl nor eval*.json nor pictures/*.png; "
                       "name the folder of a run",
                       run->path);
}

Status report_run_open(const char *path, ReportRun *out)
{
    *out = (ReportRun){.path = mem_string(path), .name = name_of(path)};
    Status status = read_folder(out);
    if (status != OK) report_run_close(out);
    return status;
}

void report_run_close(ReportRun *run)
{
    for (int i = 0; i < run->n_evals; i++) report_eval_free(&run->evals[i]);
    free(run->evals);
    free_names(run->pictures, run->n_pictures);
    report_log_free(&run->log);
    options_free(&run->options);
    free(run->path);
    free(run->name);
    *run = (ReportRun){0};
}
