/* What comm.c (opening, collectives) and comm_watch.c (the watcher thread) share; used there only.
 */
#ifndef RETORT_KERNELS_COMM_COMM_PARTS_H
#define RETORT_KERNELS_COMM_COMM_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/comm/comm.h"
#include "kernels/comm/gloo.h"
#include "kernels/comm/hub.h"

enum { COMM_MAX_JOBS = 256 };

typedef enum JobKind { JOB_CONNECT, JOB_ALL_REDUCE, JOB_BROADCAST, JOB_BARRIER } JobKind;

typedef struct Job { /* one collective */
    JobKind kind;
    char name[128];
    int64_t step;
    void *data;
    int64_t n_bytes;
    int root;
} Job;

struct Comm {
    Launch launch;
    int64_t timeout_ms;
    int local_size;
    char *map;
    Hub *hub; /* rank 0 only */
    int values_fd, beats_fd;
    Gloo *gloo; /* the worker's */
    pthread_t worker, watcher;
    bool has_worker, has_watcher;
    atomic_bool broken; /* why[] is set; read without the mutex between ops */

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    Job jobs[COMM_MAX_JOBS];     /* a ring: job i in place i % COMM_MAX_JOBS */
    uint64_t n_started, n_done;
    char why[WIRE_TEXT_BYTES];     /* the verdict */
    char symptom[WIRE_TEXT_BYTES]; /* of a failed collective, until the watcher has sent it */
    bool closing;
    WirePosition position;
    int wake_fd; /* an eventfd: the watcher shall beat now */
};

/* comm_break: the run is over; the first reason stays. */
void comm_break(Comm *comm, const char *why);

/* comm_watch: the watcher thread; argument: the Comm. */
void *comm_watch(void *argument);

#endif
