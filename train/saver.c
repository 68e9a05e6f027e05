/* Checkpoints beside the training. See saver.h.
 *
 * Must hold: from `asked` set to `asked` cleared the copy, the header and the results are the
 * thread's; else they are the caller's. Only `asked`, `stopping` and that hand-over need the mutex.
 */
#include "train/saver.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"

struct Saver {
    RunFolder *folder;
    Log *log;
    Snapshot *snapshot;
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool asked, stopping;
    /* handed over with `asked` */
    StateHeader header;
    char *config;
    double score;
    Status status;
    char message[1024];
    double write_seconds;
    /* the caller's */
    bool unreported;      /* a write was asked for, and what became of it was not told */
    double stall_seconds; /* that the step waited for the copy */
    int64_t asked_step, saved_step;
};

/* ---- the thread ---- */

static void write_state(Saver *saver)
{
    double start = clock_seconds();
    char *path = run_folder_state_path(saver->folder, saver->header.step);
    saver->status = snapshot_write(saver->snapshot, saver->folder->ops, path, &saver->header);
    if (saver->status == OK)
        saver->status = run_folder_publish(saver->folder, saver->header.step, saver->score);
    if (saver->status != OK)
        snprintf(saver->message, sizeof saver->message, "%s", status_message());
    free(path);
    saver->write_seconds = clock_seconds() - start;
}

static void *write_states(void *argument)
{
    Saver *saver = argument;
    pthread_mutex_lock(&saver->mutex);
    for (;;) {
        while (!saver->asked && !saver->stopping) pthread_cond_wait(&saver->changed, &saver->mutex);
        if (!saver->asked) break;
        pthread_mutex_unlock(&saver->mutex);
        write_state(saver);
        pthread_mutex_lock(&saver->mutex);
        saver->asked = false;
        pthread_cond_signal(&saver->changed);
    }
    pthread_mutex_unlock(&saver->mutex);
    return NULL;
}

/* Signals are for the main thread, which knows how to stop a run. */
static Status start_thread(Saver *saver)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    saver->started = pthread_create(&saver->thread, NULL, write_states, saver) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return saver->started ? OK : status_fail(E_MEMORY, "cannot start the thread that saves");
}

/* ---- opening ---- */

Status saver_open(RunFolder *folder, const Store *store, Log *log, int64_t saved_step, Saver **out)
{
    Saver *saver = mem_alloc(sizeof *saver);
    saver->folder = folder;
    saver->log = log;
    saver->asked_step = saver->saved_step = saved_step;
    pthread_mutex_init(&saver->mutex, NULL);
    pthread_cond_init(&saver->changed, NULL);
    Status status = snapshot_create(store, &saver->snapshot);
    if (status == OK) status = start_thread(saver);
    if (status == OK)
        *out = saver;
    else
        saver_close(saver);
    return status;
}

/* What the last write became is not lost, even where another failure is under way to the user. */
static void tell_last(const Saver *saver)
{
    if (!saver->unreported) return;
    if (saver->status == OK)
        log_text(saver->log, LOG_INFO, "saved the state of step %" PRId64, saver->header.step);
    else
        log_text(saver->log, LOG_ERROR, "the state of step %" PRId64 " is not saved: %s",
                 saver->header.step, saver->message);
}

void saver_close(Saver *saver)
{
    if (!saver) return;
    pthread_mutex_lock(&saver->mutex);
    saver->stopping = true;
    pthread_cond_signal(&saver->changed);
    pthread_mutex_unlock(&saver->mutex);
    if (saver->started) pthread_join(saver->thread, NULL);
    tell_last(saver);
    pthread_cond_destroy(&saver->changed);
    pthread_mutex_destroy(&saver->mutex);
    snapshot_destroy(saver->snapshot);
    free(saver->config);
    free(saver);
}

/* ---- saving ---- */

/* Tells what became of a write that ended. */
static Status report(Saver *saver)
{
    saver->unreported = false;
    if (saver->status != OK)
        return status_fail(saver->status, "the state of step %" PRId64 " is not saved: %s",
                           saver->header.step, saver->message);
    saver->saved_step = saver->header.step;
    log_text(saver->log, LOG_INFO,
             "saved the state of step %" PRId64 " (%.0f ms beside the training, which waited %.1f "
             "ms)",
             saver->saved_step, 1e3 * saver->write_seconds, 1e3 * saver->stall_seconds);
    return OK;
}

Status saver_poll(Saver *saver)
{
    if (!saver->unreported) return OK;
    pthread_mutex_lock(&saver->mutex);
    bool ended = !saver->asked;
    pthread_mutex_unlock(&saver->mutex);
    return ended ? report(saver) : OK;
}

Status saver_wait(Saver *saver)
{
    if (!saver->unreported) return OK;
    pthread_mutex_lock(&saver->mutex);
    while (saver->asked) pthread_cond_wait(&saver->changed, &saver->mutex);
    pthread_mutex_unlock(&saver->mutex);
    return report(saver);
}

Status saver_save(Saver *saver, const StateHeader *header, double score)
{
    if (header->step == saver->asked_step && isnan(score)) return OK;
    double start = clock_seconds();
    TRY(saver_wait(saver));
    TRY(snapshot_take(saver->snapshot));
    free(saver->config);
    saver->config = mem_string(header->config);
    saver->header = *header;
    saver->header.config = saver->config;
    saver->score = score;
    saver->asked_step = header->step;
    saver->unreported = true;
    saver->stall_seconds = clock_seconds() - start;
    pthread_mutex_lock(&saver->mutex);
    saver->asked = true;
    pthread_cond_signal(&saver->changed);
    pthread_mutex_unlock(&saver->mutex);
    return OK;
}

int64_t saver_saved_step(const Saver *saver) { return saver->saved_step; }
