/* The watcher thread of a rank: beats once a second, and hears the verdict. See comm.h.
 *
 * Silence of rank 0 is counted as the server counts that of others: in wake-ups of our own, so that
 * a process that was stopped and goes on does not accuse rank 0.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/comm/comm_parts.h"
#include "kernels/comm/verdict.h"

enum { BEAT_MS = 1000, LONGEST_TICK_MS = 1500 };

typedef struct Watch {
    Comm *comm;
    WirePosition zero; /* where rank 0 was last */
    int64_t silent_ms, since_beat_ms;
    bool judged;
} Watch;

/* Our position, and a symptom if there is a new one. */
static Status beat(Watch *watch)
{
    Comm *comm = watch->comm;
    char symptom[WIRE_TEXT_BYTES];
    pthread_mutex_lock(&comm->mutex);
    WirePosition position = comm->position;
    memcpy(symptom, comm->symptom, sizeof symptom);
    comm->symptom[0] = '\0';
    pthread_mutex_unlock(&comm->mutex);
    watch->since_beat_ms = 0;
    TRY(wire_send(comm->beats_fd, MESSAGE_BEAT, NULL, &position, sizeof position));
    if (symptom[0] == '\0') return OK;
    return wire_send(comm->beats_fd, MESSAGE_SYMPTOM, NULL, symptom, strlen(symptom));
}

static void accuse_zero(Watch *watch, const char *what)
{
    char place[256], why[WIRE_TEXT_BYTES];
    verdict_place(&watch->zero, place, sizeof place);
    snprintf(why, sizeof why, "rank 0 %s (last seen in %s)", what, place);
    comm_break(watch->comm, why);
    watch->judged = true;
}

static void hear(Watch *watch)
{
    MessageKind kind;
    char *value;
    size_t n_bytes;
    if (wire_receive(watch->comm->beats_fd, BEAT_MS, &kind, &value, &n_bytes) != OK) {
        accuse_zero(watch, "died: the connection to its hub broke");
        return;
    }
    watch->silent_ms = 0;
    if (kind == MESSAGE_BEAT && n_bytes == sizeof watch->zero)
        memcpy(&watch->zero, value, sizeof watch->zero);
    if (kind == MESSAGE_VERDICT) {
        comm_break(watch->comm, value);
        watch->judged = true;
    }
    free(value);
}

static bool closing(Comm *comm)
{
    pthread_mutex_lock(&comm->mutex);
    bool closing = comm->closing;
    pthread_mutex_unlock(&comm->mutex);
    return closing;
}

/* Waits until something comes or a beat is due. */
static void tick(Watch *watch)
{
    Comm *comm = watch->comm;
    struct pollfd wait[2] = {{.fd = comm->beats_fd, .events = POLLIN},
                             {.fd = comm->wake_fd, .events = POLLIN}};
    int64_t start_ms = clock_ms(), due_ms = BEAT_MS - watch->since_beat_ms;
    int ready = poll(wait, 2, due_ms > 0 ? (int)due_ms : 0);
    int64_t elapsed_ms = clock_ms() - start_ms;
    if (elapsed_ms > LONGEST_TICK_MS) elapsed_ms = LONGEST_TICK_MS;
    watch->silent_ms += elapsed_ms;
    watch->since_beat_ms += elapsed_ms;
    bool woken = ready > 0 && wait[1].revents;
    if (woken) {
        eventfd_t count;
        eventfd_read(comm->wake_fd, &count);
    }
    if (closing(comm)) return;
    if (ready > 0 && wait[0].revents) hear(watch);
    if (watch->judged) return;
    if ((woken || watch->since_beat_ms >= BEAT_MS) && beat(watch) != OK)
        accuse_zero(watch, "died: the connection to its hub broke");
}

void *comm_watch(void *argument)
{
    Watch watch = {.comm = argument, .zero.step = -1};
    snprintf(watch.zero.doing, sizeof watch.zero.doing, "its start");
    if (beat(&watch) != OK) accuse_zero(&watch, "died: the connection to its hub broke");
    while (!watch.judged && !closing(watch.comm)) {
        tick(&watch);
        if (!watch.judged && watch.silent_ms > watch.comm->timeout_ms) {
            char what[96];
            snprintf(what, sizeof what, "hangs: no sign of life for %lld s",
                     (long long)watch.comm->timeout_ms / 1000);
            accuse_zero(&watch, what);
        }
    }
    return NULL;
}
