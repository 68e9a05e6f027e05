/* The folder of a run. See run_folder.h. */
#include "train/run_folder.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

#define STATE_NAME "step_%09" PRId64 ".safetensors"

enum { MAX_NAME_BYTES = 256 };

/* ---- names ---- */

static void state_name(int64_t step, char name[MAX_NAME_BYTES])
{
    snprintf(name, MAX_NAME_BYTES, STATE_NAME, step);
}

/* The step of a state's file name; false for any other file. */
static bool step_of_name(const char *name, int64_t *step)
{
    char again[MAX_NAME_BYTES];
    if (sscanf(name, "step_%" SCNd64, step) != 1 || *step < 0) return false;
    state_name(*step, again);
    return !strcmp(name, again);
}

char *run_folder_state_path(const RunFolder *folder, int64_t step)
{
    char name[MAX_NAME_BYTES];
    state_name(step, name);
    return file_join(folder->checkpoints, name);
}

static int compare_falling(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? 1 : left > right ? -1 : 0;
}

/* The steps of all states up to `newest`, falling. */
static Status list_steps(const RunFolder *folder, int64_t newest, int64_t **out, int *out_n)
{
    DIR *stream = opendir(folder->checkpoints);
    int64_t *steps = NULL, step;
    int n = 0, capacity = 0;
    if (!stream)
        return status_fail(E_FILE, "%s: cannot be listed: %s", folder->checkpoints,
                           strerror(errno));
    for (const struct dirent *entry; (entry = readdir(stream));) {
        if (!step_of_name(entry->d_name, &step) || step > newest) continue;
        steps = mem_grow(steps, &capacity, n + 1, sizeof *steps);
        steps[n++] = step;
    }
    closedir(stream);
    if (n) qsort(steps, (size_t)n, sizeof *steps, compare_falling);
    *out = steps;
    *out_n = n;
    return OK;
}

/* ---- opening ---- */

static Status take_lock(RunFolder *folder)
{
    folder->lock = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->lock < 0)
        return status_fail(E_FILE, "%s: cannot be opened: %s", folder->path, strerror(errno));
    /* File systems without locks say other things than EWOULDBLOCK: a run there goes on
     * unlocked. */
    if (flock(folder->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return status_fail(E_CONFIG, "run.dir=%s is in use by another process", folder->path);
    return OK;
}

static bool has(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

/* A run that never made a step, because its weights did not fit, say, leaves its folder free. */
static bool holds_run(const RunFolder *folder)
{
    struct stat records;
    if (folder->n_resume_from > 0 || has(folder->checkpoints, "latest")) return true;
    return stat(folder->log_path, &records) == 0 && records.st_size > 0;
}

/* Files of one line; NULL if there is none. */
static Status read_line(const RunFolder *folder, const char *name, char **out)
{
    char *path = file_join(folder->checkpoints, name);
    size_t n_bytes;
    Status status = OK;
    *out = NULL;
    if (file_exists(path)) status = file_read(path, MAX_NAME_BYTES, out, &n_bytes);
    if (status == OK && *out) (*out)[strcspn(*out, "\n")] = '\0';
    free(path);
    return status;
}

static Status read_best(RunFolder *folder)
{
    char *line, *space;
    folder->best_step = -1;
    TRY(read_line(folder, "best", &line));
    if (!line) return OK;
    Status status = OK;
    if ((space = strchr(line, ' '))) *space = '\0';
    if (!space || !step_of_name(line, &folder->best_step) ||
        !text_to_double(space + 1, &folder->best_score))
        status = status_fail(E_FORMAT,
                             "%s/best: wanted the name of a state and its score; remove the file "
                             "to judge anew",
                             folder->checkpoints);
    free(line);
    return status;
}

static Status list_states(RunFolder *folder)
{
    int64_t *steps;
    TRY(list_steps(folder, INT64_MAX, &steps, &folder->n_resume_from));
    folder->resume_from = mem_alloc((size_t)(folder->n_resume_from + 1) * sizeof(char *));
    for (int i = 0; i < folder->n_resume_from; i++)
        folder->resume_from[i] = run_folder_state_path(folder, steps[i]);
    free(steps);
    return OK;
}

/* `latest` tells of a state that was there once and is not any more. A newer one than it names is
 * as good: the process was killed between the two. */
static Status check_latest(RunFolder *folder)
{
    char *name, *path;
    TRY(read_line(folder, "latest", &name));
    if (!name) return OK;
    path = file_join(folder->checkpoints, name);
    Status status = OK;
    if (!file_exists(path)) {
        if (asprintf(&folder->lost, "%s/latest names %.100s, which is not there any more",
                     folder->checkpoints, name) < 0)
            folder->lost = NULL;
        assert(folder->lost);
        if (folder->n_resume_from == 0)
            status = status_fail(E_FILE, "%s, nor is any other state; choose another folder",
                                 folder->lost);
    }
    free(path);
    free(name);
    return status;
}

static Status resume_only(RunFolder *folder, const char *path)
{
    folder->resume_from[0] = mem_string(path);
    folder->n_resume_from = 1;
    if (file_exists(path)) return OK;
    return status_fail(E_FILE, "%s: the state to resume from does not exist", path);
}

/* What to start from, or a refusal. */
static Status choose_start(RunFolder *folder, const char *resume)
{
    TRY(list_states(folder));
    if (!strcmp(resume, "auto")) return check_latest(folder);
    if (holds_run(folder))
        return status_fail(E_CONFIG,
                           "run.dir=%s holds a run; go on with it (--run.resume=auto) or choose "
                           "another folder",
                           folder->path);
    return strcmp(resume, "never") ? resume_only(folder, resume) : OK;
}

static Status open_folder(RunFolder *folder, const Options *options)
{
    TRY(file_make_folders(folder->checkpoints));
    TRY(take_lock(folder));
    TRY(choose_start(folder, options->run_resume));
    folder->done = has(folder->path, "DONE");
    return read_best(folder);
}

Status run_folder_open(const FileOps *ops, const Options *options, RunFolder **out)
{
    if (!*options->run_dir)
        return status_fail(E_CONFIG, "run.dir is not given; add --run.dir=FOLDER");
    RunFolder *folder = mem_alloc(sizeof *folder);
    folder->ops = ops;
    folder->lock = -1;
    folder->keep_last = options->run_keep_last;
    folder->milestone_every = options->run_milestone_every;
    folder->path = mem_string(options->run_dir);
    folder->checkpoints = file_join(folder->path, "checkpoints");
    folder->log_path = file_join(folder->path, "log.jsonl");
    Status status = open_folder(folder, options);
    if (status == OK)
        *out = folder;
    else
        run_folder_close(folder);
    return status;
}

void run_folder_close(RunFolder *folder)
{
    if (!folder) return;
    if (folder->lock >= 0) close(folder->lock);
    for (int i = 0; i < folder->n_resume_from; i++) free(folder->resume_from[i]);
    free(folder->resume_from);
    free(folder->path);
    free(folder->checkpoints);
    free(folder->log_path);
    free(folder->lost);
    free(folder->changes);
    free(folder);
}

/* ---- beginning ---- */

/* What killed runs may have left: temporaries of states. */
static void remove_leftovers(const RunFolder *folder)
{
    static const char suffix[] = ".safetensors.tmp";
    DIR *stream = opendir(folder->checkpoints);
    if (!stream) return;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        size_t length = strlen(entry->d_name);
        if (length < sizeof suffix || strcmp(entry->d_name + length - (sizeof suffix - 1), suffix))
            continue;
        unlinkat(dirfd(stream), entry->d_name, 0);
    }
    closedir(stream);
}

/* Remembers what differs from the config of the run that is taken up. */
static Status note_changes(RunFolder *folder, const char *config_path, const Options *options)
{
    size_t n_bytes;
    FILE *memory = open_memstream(&folder->changes, &n_bytes);
    assert(memory);
    Status status = OK;
    if (folder->n_resume_from > 0 && file_exists(config_path)) {
        Options before;
        status = options_load(config_path, 0, NULL, &before);
        if (status == OK) options_print_changes(&before, options, memory);
        options_free(&before);
    }
    fclose(memory);
    return status;
}

static Status write_config(RunFolder *folder, const Options *options)
{
    char *path = file_join(folder->path, "config.yaml");
    Status status = note_changes(folder, path, options);
    if (status == OK) status = options_write(folder->ops, options, path);
    free(path);
    return status;
}

static Status remove_done(RunFolder *folder)
{
    if (!folder->done) return OK;
    char *path = file_join(folder->path, "DONE");
    Status status = OK;
    if (unlink(path))
        status = status_fail(E_FILE, "%s: cannot be removed: %s", path, strerror(errno));
    free(path);
    folder->done = false;
    return status;
}

Status run_folder_begin(RunFolder *folder, const Options *options, int64_t first_step)
{
    if (folder->best_step > first_step) folder->best_step = -1;
    TRY(remove_done(folder));
    remove_leftovers(folder);
    return write_config(folder, options);
}

/* ---- publishing ---- */

static bool is_kept(const RunFolder *folder, int64_t step, int n_newer)
{
    if (n_newer < folder->keep_last || step == folder->best_step) return true;
    return folder->milestone_every > 0 && step % folder->milestone_every == 0;
}

static Status remove_old(const RunFolder *folder, int64_t newest)
{
    int64_t *steps = NULL;
    int n = 0;
    TRY(list_steps(folder, newest, &steps, &n));
    Status status = OK;
    for (int i = 0; i < n && status == OK; i++) {
        if (is_kept(folder, steps[i], i)) continue;
        char *path = run_folder_state_path(folder, steps[i]);
        if (unlink(path))
            status = status_fail(E_FILE, "%s: cannot be removed: %s", path, strerror(errno));
        free(path);
    }
    free(steps);
    return status;
}

static Status write_line(const RunFolder *folder, const char *where, const char *name,
                         const char *line)
{
    char *path = file_join(where, name);
    Status status = file_replace(folder->ops, path, line, strlen(line));
    free(path);
    return status;
}

Status run_folder_publish(RunFolder *folder, int64_t step, double score)
{
    char name[MAX_NAME_BYTES], line[MAX_NAME_BYTES + 64];
    state_name(step, name);
    snprintf(line, sizeof line, "%s\n", name);
    TRY(write_line(folder, folder->checkpoints, "latest", line));
    if (!isnan(score) && (folder->best_step < 0 || score > folder->best_score)) {
        snprintf(line, sizeof line, "%s %.17g\n", name, score);
        TRY(write_line(folder, folder->checkpoints, "best", line));
        folder->best_step = step;
        folder->best_score = score;
    }
    return remove_old(folder, step);
}

Status run_folder_finish(RunFolder *folder, int64_t n_steps)
{
    char line[64];
    snprintf(line, sizeof line, "%" PRId64 " steps\n", n_steps);
    return write_line(folder, folder->path, "DONE", line);
}
