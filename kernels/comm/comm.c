/* Opening and closing of a run's ranks, and their collectives. See comm.h. */
#include "kernels/comm/comm.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "kernels/comm/comm_parts.h"
#include "kernels/comm/verdict.h"

enum {
    VERDICT_PATIENCE_MS = SYMPTOM_PATIENCE_MS + 3000, /* for the hub's word on a symptom */
    FAREWELL_MS = 5000,                               /* for others to leave before rank 0 does */
    WORKER_PATIENCE_MS = 2000,
    GET_MARGIN_MS = 5000, /* the hub's word on who did not come shall be first */
};

int comm_rank(const Comm *comm) { return comm ? comm->launch.rank : 0; }
int comm_size(const Comm *comm) { return comm ? comm->launch.world_size : 1; }
int comm_local_rank(const Comm *comm) { return comm ? comm->launch.local_rank : 0; }
int comm_local_size(const Comm *comm) { return comm ? comm->local_size : 1; }
const char *comm_map(const Comm *comm) { return comm ? comm->map : ""; }

/* ---- the watch ---- */

void comm_break(Comm *comm, const char *why)
{
    pthread_mutex_lock(&comm->mutex);
    if (comm->why[0] == '\0') snprintf(comm->why, sizeof comm->why, "%s", why);
    atomic_store(&comm->broken, true);
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->mutex);
}

Status comm_check(Comm *comm)
{
    if (!comm || !atomic_load(&comm->broken)) return OK;
    pthread_mutex_lock(&comm->mutex);
    Status status = status_fail(E_NETWORK, "rank %d ends: %s", comm->launch.rank, comm->why);
    pthread_mutex_unlock(&comm->mutex);
    return status;
}

void comm_at_step(Comm *comm, int64_t step)
{
    if (!comm) return;
    pthread_mutex_lock(&comm->mutex);
    comm->position.step = step;
    comm->position.progress++;
    pthread_mutex_unlock(&comm->mutex);
}

void comm_doing(Comm *comm, const char *label, const char *what, bool excused)
{
    if (!comm) return;
    WirePosition *p = &comm->position;
    pthread_mutex_lock(&comm->mutex);
    snprintf(p->doing, sizeof p->doing, "%.90s%s%.30s", label, label[0] ? ": " : "", what);
    p->excused = excused;
    p->progress++;
    pthread_mutex_unlock(&comm->mutex);
}

/* ---- the worker ---- */

static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

/* Step, name and size before the data: a rank that differs must not spoil the sums of others. */
static Status agree(Comm *comm, const Job *job)
{
    bool equal;
    uint64_t words[4] = {(uint64_t)job->step, hash_text(job->name), (uint64_t)job->n_bytes,
                         (uint64_t)job->root};
    TRY(gloo_agree(comm->gloo, words, &equal));
    if (equal) return OK;
    return status_fail(E_NETWORK, "other ranks are not in %s of step %lld, %lld bytes", job->name,
                       (long long)job->step, (long long)job->n_bytes);
}

/* The address under which the others reach us is the one we reach the hub from. Rank 0 may have
 * come over the loopback, and asks its hub how the others came. */
static Status connect_all(Comm *comm)
{
    char address[128] = "";
    if (comm->hub) hub_address(comm->hub, address, sizeof address);
    if (address[0] == '\0') wire_address(comm->values_fd, false, address, sizeof address);
    return gloo_open(comm->launch.rank, comm->launch.world_size, address, comm->values_fd,
                     (int)comm->timeout_ms, &comm->gloo);
}

static Status do_job(Comm *comm, const Job *job)
{
    if (job->kind == JOB_CONNECT) return connect_all(comm);
    TRY(agree(comm, job));
    switch (job->kind) {
    case JOB_ALL_REDUCE:
        return gloo_all_reduce(comm->gloo, job->data, job->n_bytes / (int64_t)sizeof(float));
    case JOB_BROADCAST:
        return gloo_broadcast(comm->gloo, job->data, (size_t)job->n_bytes, job->root);
    default: return OK; /* a barrier: to agree is to have met */
    }
}

/* With the mutex: where the watch finds this rank while it is in a collective. */
static void enter(WirePosition *p, const char *name, int64_t step, int64_t n_bytes)
{
    p->sequence++;
    p->progress++;
    p->collective_step = step;
    p->collective_bytes = n_bytes;
    p->waiting = 1;
    snprintf(p->collective, sizeof p->collective, "%s", name);
}

static void leave(WirePosition *p)
{
    p->waiting = 0;
    p->progress++;
}

void comm_entered(Comm *comm, const char *name, int64_t n_bytes)
{
    pthread_mutex_lock(&comm->mutex);
    enter(&comm->position, name, comm->position.step, n_bytes);
    pthread_mutex_unlock(&comm->mutex);
}

void comm_left(Comm *comm)
{
    pthread_mutex_lock(&comm->mutex);
    leave(&comm->position);
    pthread_mutex_unlock(&comm->mutex);
}

/* With the mutex: the next job, or NULL when the worker shall end. */
static const Job *next_job(Comm *comm)
{
    while (comm->n_done == comm->n_started && !comm->closing && !comm->broken)
        pthread_cond_wait(&comm->changed, &comm->mutex);
    if (comm->closing || comm->broken) return NULL;
    const Job *job = &comm->jobs[comm->n_done % COMM_MAX_JOBS];
    enter(&comm->position, job->name, job->step, job->n_bytes);
    return job;
}

static void add_ms(struct timespec *t, int64_t ms)
{
    clock_gettime(CLOCK_REALTIME, t);
    t->tv_sec += ms / 1000;
    t->tv_nsec += ms % 1000 * 1000000;
    if (t->tv_nsec >= 1000000000) t->tv_sec++, t->tv_nsec -= 1000000000;
}

/* A failed collective is mostly another rank's fault: the hub is told, and given time to say
 * whose. */
Status comm_broken(Comm *comm, const char *why)
{
    struct timespec end;
    char what[WIRE_TEXT_BYTES];
    snprintf(what, sizeof what, "%s", why); /* it may be the status message, which changes */
    add_ms(&end, VERDICT_PATIENCE_MS);
    pthread_mutex_lock(&comm->mutex);
    snprintf(comm->symptom, sizeof comm->symptom, "%.200s failed: %.700s",
             comm->position.collective, what);
    eventfd_write(comm->wake_fd, 1);
    while (!comm->broken && !comm->closing)
        if (pthread_cond_timedwait(&comm->changed, &comm->mutex, &end) != 0) break;
    pthread_mutex_unlock(&comm->mutex);
    comm_break(comm, what);
    return comm_check(comm);
}

static void *run_worker(void *argument)
{
    Comm *comm = argument;
    Status status = OK;
    pthread_mutex_lock(&comm->mutex);
    for (const Job *job; status == OK && (job = next_job(comm)) != NULL;) {
        pthread_mutex_unlock(&comm->mutex);
        status = do_job(comm, job);
        pthread_mutex_lock(&comm->mutex);
        if (status != OK) break;
        leave(&comm->position);
        comm->n_done++;
        pthread_cond_broadcast(&comm->changed);
    }
    pthread_mutex_unlock(&comm->mutex);
    if (status != OK) (void)comm_broken(comm, status_message());
    return NULL;
}

/* ---- starting and waiting ---- */

/* Returns the job's number; with a broken run nothing is started. */
static uint64_t start_job(Comm *comm, Job job, const char *name)
{
    snprintf(job.name, sizeof job.name, "%s", name);
    pthread_mutex_lock(&comm->mutex);
    while (comm->n_started - comm->n_done == COMM_MAX_JOBS && !comm->broken)
        pthread_cond_wait(&comm->changed, &comm->mutex);
    job.step = comm->position.step;
    uint64_t number = comm->n_started;
    if (!comm->broken) comm->jobs[comm->n_started++ % COMM_MAX_JOBS] = job;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->mutex);
    return number;
}

static Status wait_job(Comm *comm, uint64_t number)
{
    pthread_mutex_lock(&comm->mutex);
    while (comm->n_done <= number && !comm->broken)
        pthread_cond_wait(&comm->changed, &comm->mutex);
    pthread_mutex_unlock(&comm->mutex);
    return comm_check(comm);
}

void comm_all_reduce_start(Comm *comm, const char *name, float *data, int64_t n_elems)
{
    if (!comm) return;
    start_job(comm,
              (Job){.kind = JOB_ALL_REDUCE,
                    .data = data,
                    .n_bytes = n_elems * (int64_t)sizeof *data},
              name);
}

Status comm_all_reduce_wait(Comm *comm, const float *data)
{
    if (!comm) return OK;
    pthread_mutex_lock(&comm->mutex);
    uint64_t number = comm->n_done;
    for (uint64_t i = comm->n_done; i < comm->n_started; i++)
        if (comm->jobs[i % COMM_MAX_JOBS].data == data) number = i + 1;
    pthread_mutex_unlock(&comm->mutex);
    return number == 0 ? comm_check(comm) : wait_job(comm, number - 1);
}

Status comm_broadcast(Comm *comm, const char *name, void *data, size_t n_bytes, int root)
{
    if (!comm) return OK;
    Job job = {.kind = JOB_BROADCAST, .data = data, .n_bytes = (int64_t)n_bytes, .root = root};
    return wait_job(comm, start_job(comm, job, name));
}

Status comm_barrier(Comm *comm, const char *name)
{
    if (!comm) return OK;
    return wait_job(comm, start_job(comm, (Job){.kind = JOB_BARRIER}, name));
}

/* ---- opening ---- */

/* Signals are for the main thread, which knows how to stop a run. */
static Status start_thread(pthread_t *thread, void *(*run)(void *), Comm *comm)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, run, comm);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error == 0 ? OK : status_fail(E_MEMORY, "cannot start a thread for the ranks");
}

/* Who the ranks are: each puts down its host and process, and reads all others'. */
static Status exchange_places(Comm *comm)
{
    char key[32], host[256] = "", place[320];
    gethostname(host, sizeof host - 1);
    snprintf(key, sizeof key, "rank/%d", comm->launch.rank);
    snprintf(place, sizeof place, "%s %d", host, (int)getpid());
    TRY(wire_set(comm->values_fd, key, place, strlen(place)));
    size_t used = 0, room = (size_t)comm->launch.world_size * 400;
    comm->map = mem_alloc(room);
    for (int r = 0; r < comm->launch.world_size; r++) {
        char *value;
        size_t n_bytes;
        snprintf(key, sizeof key, "rank/%d", r);
        TRY(wire_get(comm->values_fd, key, (int)comm->timeout_ms + GET_MARGIN_MS, &value,
                     &n_bytes));
        size_t host_length = strcspn(value, " ");
        bool here = host_length == strlen(host) && strncmp(value, host, host_length) == 0;
        comm->local_size += here;
        used += (size_t)snprintf(comm->map + used, room - used, "rank %d: %.*s, process %s\n", r,
                                 (int)host_length, value, value + host_length + 1);
        free(value);
    }
    return OK;
}

static Status join(Comm *comm)
{
    TRY(wire_connect(&comm->launch, true, (int)comm->timeout_ms, &comm->beats_fd));
    TRY(wire_connect(&comm->launch, false, (int)comm->timeout_ms, &comm->values_fd));
    TRY(start_thread(&comm->watcher, comm_watch, comm));
    comm->has_watcher = true;
    Status status = exchange_places(comm);
    if (status != OK) return comm_check(comm) != OK ? E_NETWORK : status;
    TRY(start_thread(&comm->worker, run_worker, comm));
    comm->has_worker = true;
    return wait_job(comm, start_job(comm, (Job){.kind = JOB_CONNECT}, "connecting the ranks"));
}

Status comm_open(const Launch *launch, int64_t timeout_ms, Comm **out)
{
    *out = NULL;
    if (launch->world_size == 1) return OK;
    Comm *comm = mem_alloc(sizeof *comm);
    comm->launch = *launch;
    comm->timeout_ms = timeout_ms;
    comm->values_fd = comm->beats_fd = -1;
    comm->position.step = -1;
    snprintf(comm->position.doing, sizeof comm->position.doing, "joining the run");
    comm->wake_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&comm->mutex, NULL);
    pthread_cond_init(&comm->changed, NULL);
    Status status = OK;
    if (launch->rank == 0) TRY_GOTO(hub_open(launch, timeout_ms, &comm->hub), failed);
    TRY_GOTO(join(comm), failed);
    *out = comm;
    return OK;
failed:
    (void)comm_close(comm, status); /* no collective has data of ours yet */
    return status;
}

/* ---- closing ---- */

/* The worker may sit inside Gloo, waiting for a rank that is gone; it is not waited for then. */
static bool end_worker(Comm *comm)
{
    struct timespec end;
    if (!comm->has_worker) return true;
    add_ms(&end, WORKER_PATIENCE_MS);
    return pthread_timedjoin_np(comm->worker, NULL, &end) == 0;
}

static void say_farewell(const Comm *comm, Status status, const char *message)
{
    if (comm->beats_fd < 0 || comm->broken) return;
    if (status == OK || status == E_INTERRUPTED)
        wire_send(comm->beats_fd, MESSAGE_BYE, NULL, NULL, 0);
    else
        wire_send(comm->beats_fd, MESSAGE_FAILED, NULL, message, strlen(message));
}

bool comm_close(Comm *comm, Status status)
{
    if (!comm) return true;
    char message[WIRE_TEXT_BYTES];
    snprintf(message, sizeof message, "%s", status_message());
    pthread_mutex_lock(&comm->mutex);
    comm->closing = true;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->mutex);
    eventfd_write(comm->wake_fd, 1);
    if (comm->has_watcher) pthread_join(comm->watcher, NULL);
    say_farewell(comm, status, message);
    bool worker_ended = end_worker(comm);
    if (comm->beats_fd >= 0) close(comm->beats_fd);
    if (comm->values_fd >= 0) close(comm->values_fd);
    hub_close(comm->hub, FAREWELL_MS);
    if (status != OK) status_fail(status, "%s", message); /* what went before stays the message */
    if (!worker_ended) return false; /* it still uses the rest: left to the end of the process */
    gloo_close(comm->gloo);
    close(comm->wake_fd);
    pthread_mutex_destroy(&comm->mutex);
    pthread_cond_destroy(&comm->changed);
    free(comm->map);
    free(comm);
    return true;
}
