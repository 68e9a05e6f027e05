/* The folder of a run. See run_folder.h. */
#include "train/run_folder.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

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

static Status read_latest(const RunFolder *folder, char **state_path)
{
    char *path = file_join(folder->checkpoints, "latest"), *name = NULL;
    size_t n_bytes;
    int64_t step;
    Status status = file_read(path, MAX_NAME_BYTES, &name, &n_bytes);
    if (status == OK) {
        name[strcspn(name, "\n")] = '\0';
        if (!step_of_name(name, &step))
            status = status_fail(E_FORMAT, "%s: names '%.100s', which is no training state", path,
                                 name);
        else
            *state_path = file_join(folder->checkpoints, name);
    }
    free(name);
    free(path);
    return status;
}

char *run_folder_state_path(const RunFolder *folder, int64_t step)
{
    char name[MAX_NAME_BYTES];
    state_name(step, name);
    return file_join(folder->checkpoints, name);
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
    if (has(folder->checkpoints, "latest")) return true;
    return stat(folder->log_path, &records) == 0 && records.st_size > 0;
}

/* Sets resume_from, or refuses. */
static Status choose_start(RunFolder *folder, const char *resume)
{
    if (!strcmp(resume, "never")) {
        if (!holds_run(folder)) return OK;
        return status_fail(E_CONFIG,
                           "run.dir=%s holds a run; go on with it (--run.resume=auto) or choose "
                           "another folder",
                           folder->path);
    }
    if (!strcmp(resume, "auto")) {
        if (!has(folder->checkpoints, "latest"))
            return OK; /* killed before its first checkpoint, or new */
        TRY(read_latest(folder, &folder->resume_from));
    } else {
        folder->resume_from = mem_string(resume);
    }
    if (file_exists(folder->resume_from)) return OK;
    return status_fail(E_FILE, "%s: the state to resume from does not exist", folder->resume_from);
}

/* Remembers what differs from the config of the run that is taken up. */
static Status note_changes(RunFolder *folder, const char *config_path, const Options *options)
{
    size_t n_bytes;
    FILE *memory = open_memstream(&folder->changes, &n_bytes);
    assert(memory);
    Status status = OK;
    if (folder->resume_from && file_exists(config_path)) {
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

Status run_folder_open(const FileOps *ops, const Options *options, RunFolder **out)
{
    if (!*options->run_dir)
        return status_fail(E_CONFIG, "run.dir is not given; add --run.dir=FOLDER");
    RunFolder *folder = mem_alloc(sizeof *folder);
    Status status;
    folder->ops = ops;
    folder->lock = -1;
    folder->keep_last = options->run_keep_last;
    folder->path = mem_string(options->run_dir);
    folder->checkpoints = file_join(folder->path, "checkpoints");
    folder->log_path = file_join(folder->path, "log.jsonl");
    TRY_GOTO(file_make_folders(folder->checkpoints), failed);
    TRY_GOTO(take_lock(folder), failed);
    TRY_GOTO(choose_start(folder, options->run_resume), failed);
    TRY_GOTO(write_config(folder, options), failed);
    remove_leftovers(folder);
    *out = folder;
    return OK;
failed:
    run_folder_close(folder);
    return status;
}

void run_folder_close(RunFolder *folder)
{
    if (!folder) return;
    if (folder->lock >= 0) close(folder->lock);
    free(folder->path);
    free(folder->checkpoints);
    free(folder->log_path);
    free(folder->resume_from);
    free(folder->changes);
    free(folder);
}

/* ---- publishing ---- */

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

static Status remove_old(const RunFolder *folder, int64_t newest)
{
    int64_t *steps = NULL;
    int n = 0;
    TRY(list_steps(folder, newest, &steps, &n));
    Status status = OK;
    for (int i = (int)folder->keep_last; i < n && status == OK; i++) {
        char *path = run_folder_state_path(folder, steps[i]);
        if (unlink(path))
            status = status_fail(E_FILE, "%s: cannot be removed: %s", path, strerror(errno));
        free(path);
    }
    free(steps);
    return status;
}

Status run_folder_publish(RunFolder *folder, int64_t step)
{
    char line[MAX_NAME_BYTES];
    state_name(step, line);
    strcat(line, "\n");
    char *path = file_join(folder->checkpoints, "latest");
    Status status = file_replace(folder->ops, path, line, strlen(line));
    free(path);
    return status == OK ? remove_old(folder, step) : status;
}
