/* The hub's thread on rank 0. See hub.h.
 *
 * Must hold: everything but `stopping`, `n_open` and `address` belongs to the thread.
 */
#include "kernels/comm/hub.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/comm/verdict.h"

enum { TICK_MS = 100, LONGEST_TICK_MS = 500, BACKLOG = 1024 };

typedef struct Connection {
    int fd, rank; /* rank -1: has not greeted yet */
    bool beats;
    char *input; /* bytes received and not yet understood */
    size_t n_input, capacity;
    char *wanted; /* key of an unanswered GET, or NULL */
} Connection;

typedef struct Entry {
    char *key, *value;
    size_t n_bytes;
} Entry;

struct Hub {
    Launch launch;
    int64_t timeout_ms;
    int listener;
    pthread_t thread;
    Connection *connections;
    int n_connections, connection_capacity;
    Entry *entries;
    int n_entries, entry_capacity;
    RankView *ranks;
    char verdict[WIRE_TEXT_BYTES];
    bool judged;
    pthread_mutex_t mutex; /* of what follows */
    bool stopping;
    int n_open; /* heartbeat connections of other ranks */
    char address[128];
};

/* ---- values ---- */

static Entry *find_entry(Hub *hub, const char *key)
{
    for (int i = 0; i < hub->n_entries; i++)
        if (strcmp(hub->entries[i].key, key) == 0) return &hub->entries[i];
    return NULL;
}

static void answer(Connection *c, const Entry *entry)
{
    wire_send(c->fd, MESSAGE_VALUE, NULL, entry->value, entry->n_bytes); /* a dead one shows */
    free(c->wanted);
    c->wanted = NULL;
}

static void set_value(Hub *hub, const char *key, const char *value, size_t n_bytes)
{
    Entry *entry = find_entry(hub, key);
    if (!entry) {
        hub->entries = mem_grow(hub->entries, &hub->entry_capacity, hub->n_entries + 1,
                                   sizeof(Entry));
        entry = &hub->entries[hub->n_entries++];
        entry->key = mem_string(key);
    }
    free(entry->value);
    entry->value = mem_alloc(n_bytes + 1);
    memcpy(entry->value, value, n_bytes);
    entry->n_bytes = n_bytes;
    for (int i = 0; i < hub->n_connections; i++) {
        Connection *c = &hub->connections[i];
        if (c->wanted && strcmp(c->wanted, key) == 0) answer(c, entry);
    }
}

/* ---- the verdict ---- */

static void tell_verdict(const Hub *hub, const Connection *c)
{
    wire_send(c->fd, MESSAGE_VERDICT, NULL, hub->verdict, strlen(hub->verdict));
}

static void judge(Hub *hub)
{
    if (hub->judged ||
        !verdict_find(hub->launch.world_size, hub->ranks, hub->timeout_ms,
                      hub->verdict, sizeof hub->verdict))
        return;
    hub->judged = true;
    for (int i = 0; i < hub->n_connections; i++)
        if (hub->connections[i].rank >= 0 &&
            (hub->connections[i].beats || hub->connections[i].wanted))
            tell_verdict(hub, &hub->connections[i]);
}

/* ---- messages ---- */

static void count_open(Hub *hub, int change)
{
    pthread_mutex_lock(&hub->mutex);
    hub->n_open += change;
    pthread_mutex_unlock(&hub->mutex);
}

static void note_address(Hub *hub, int fd)
{
    char near[128], far[128];
    wire_address(fd, false, near, sizeof near);
    wire_address(fd, true, far, sizeof far);
    if (strcmp(near, far) == 0 || strncmp(near, "127.", 4) == 0) return;
    pthread_mutex_lock(&hub->mutex);
    snprintf(hub->address, sizeof hub->address, "%s", near);
    pthread_mutex_unlock(&hub->mutex);
}

/* A rank of another run, or one that came twice, is refused by a text instead of a value. */
static bool greet(Hub *hub, Connection *c, const WireHello *hello)
{
    char why[WIRE_TEXT_BYTES] = "";
    if (hello->world_size != hub->launch.world_size ||
        strncmp(hello->job, hub->launch.job, sizeof hello->job) != 0)
        snprintf(why, sizeof why,
                 "port %d is used by another run (%.100s, %d ranks); set MASTER_PORT to a free one",
                 hub->launch.port, hub->launch.job, hub->launch.world_size);
    else if (hello->rank < 0 || hello->rank >= hello->world_size)
        snprintf(why, sizeof why, "rank %d of %d does not exist", hello->rank, hello->world_size);
    else if (hello->beats && hub->ranks[hello->rank].joined)
        snprintf(why, sizeof why, "there are two processes of rank %d", hello->rank);
    if (why[0] != '\0') {
        wire_send(c->fd, MESSAGE_VERDICT, NULL, why, strlen(why));
        return false;
    }
    c->rank = hello->rank;
    c->beats = hello->beats != 0;
    note_address(hub, c->fd);
    if (!c->beats) return true;
    hub->ranks[c->rank].joined = true;
    if (c->rank != 0) count_open(hub, 1);
    return true;
}

static void hear_beat(Hub *hub, const Connection *c, const WirePosition *position)
{
    RankView *view = &hub->ranks[c->rank];
    if (position->progress != view->position.progress) view->stuck_ms = 0;
    view->position = *position;
    view->silent_ms = 0;
    if (hub->judged)
        tell_verdict(hub, c);
    else
        wire_send(c->fd, MESSAGE_BEAT, NULL, &hub->ranks[0].position, sizeof(WirePosition));
}

/* One whole message; false: the connection is to be closed. */
static bool handle(Hub *hub, Connection *c, MessageKind kind, const char *key,
                   const char *value, size_t n_bytes)
{
    if (kind == MESSAGE_HELLO)
        return c->rank < 0 && n_bytes == sizeof(WireHello) &&
               greet(hub, c, (const WireHello *)value);
    if (c->rank < 0) return false;
    RankView *view = &hub->ranks[c->rank];
    switch (kind) {
    case MESSAGE_SET: set_value(hub, key, value, n_bytes); return true;
    case MESSAGE_GET:
        free(c->wanted);
        c->wanted = mem_string(key);
        if (find_entry(hub, key))
            answer(c, find_entry(hub, key));
        else if (hub->judged)
            tell_verdict(hub, c);
        return true;
    case MESSAGE_BEAT:
        if (n_bytes != sizeof(WirePosition)) return false;
        hear_beat(hub, c, (const WirePosition *)value);
        return true;
    case MESSAGE_FAILED: snprintf(view->failure, sizeof view->failure, "%s", value); return true;
    case MESSAGE_SYMPTOM: snprintf(view->symptom, sizeof view->symptom, "%s", value); return true;
    case MESSAGE_BYE: view->finished = true; return true;
    default: return false;
    }
}

/* Takes whole messages from the input; false: the other side speaks another language. */
static bool take_messages(Hub *hub, Connection *c)
{
    size_t at = 0;
    bool good = true;
    while (good && c->n_input - at >= sizeof(MessageHeader)) {
        MessageHeader header;
        memcpy(&header, c->input + at, sizeof header);
        good = header.magic == WIRE_MAGIC && header.key_bytes < WIRE_TEXT_BYTES &&
               header.value_bytes <= WIRE_MAX_BYTES;
        size_t total = sizeof header + header.key_bytes + header.value_bytes;
        if (!good || c->n_input - at < total) break;
        char key[WIRE_TEXT_BYTES] = "", *value = mem_alloc(header.value_bytes + 1);
        memcpy(key, c->input + at + sizeof header, header.key_bytes);
        memcpy(value, c->input + at + sizeof header + header.key_bytes, header.value_bytes);
        good = handle(hub, c, header.kind, key, value, header.value_bytes);
        free(value);
        at += total;
    }
    if (at > 0) memmove(c->input, c->input + at, c->n_input - at);
    c->n_input -= at;
    return good;
}

/* ---- connections ---- */

static void drop(Hub *hub, int index)
{
    Connection *c = &hub->connections[index];
    if (c->rank >= 0 && c->beats) {
        hub->ranks[c->rank].gone = true;
        if (c->rank != 0) count_open(hub, -1);
    }
    close(c->fd);
    free(c->input);
    free(c->wanted);
    *c = hub->connections[--hub->n_connections];
}

static void accept_one(Hub *hub)
{
    int fd = accept4(hub->listener, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0) return;
    /* A rank that does not read its answers must not hold up the others. */
    struct timeval patience = {.tv_sec = 1};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    hub->connections = mem_grow(hub->connections, &hub->connection_capacity,
                                   hub->n_connections + 1, sizeof(Connection));
    hub->connections[hub->n_connections++] = (Connection){.fd = fd, .rank = -1};
}

/* false: the connection has ended. */
static bool read_input(Connection *c)
{
    enum { ROOM = 4096 };
    if (c->capacity - c->n_input < ROOM) {
        c->capacity = 2 * c->capacity + ROOM;
        char *input = mem_alloc(c->capacity);
        if (c->n_input) memcpy(input, c->input, c->n_input);
        free(c->input);
        c->input = input;
    }
    ssize_t n = recv(c->fd, c->input + c->n_input, c->capacity - c->n_input, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) return false;
    c->n_input += (size_t)n;
    return true;
}

/* Waits a tick at most and handles what has come. */
static void serve(Hub *hub)
{
    int n = hub->n_connections;
    struct pollfd *wait = mem_alloc(((size_t)n + 1) * sizeof *wait);
    for (int i = 0; i < n; i++)
        wait[i] = (struct pollfd){.fd = hub->connections[i].fd, .events = POLLIN};
    wait[n] = (struct pollfd){.fd = hub->listener, .events = POLLIN};
    int ready = poll(wait, (nfds_t)n + 1, TICK_MS);
    for (int i = n - 1; i >= 0 && ready > 0; i--) { /* backwards: drop moves the last one here */
        if (!wait[i].revents) continue;
        Connection *c = &hub->connections[i];
        if (!read_input(c) || !take_messages(hub, c)) drop(hub, i);
    }
    if (ready > 0 && wait[n].revents) accept_one(hub);
    free(wait);
}

/* ---- the thread ---- */

static void pass_time(Hub *hub, int64_t elapsed_ms)
{
    if (elapsed_ms > LONGEST_TICK_MS) elapsed_ms = LONGEST_TICK_MS;
    for (int r = 0; r < hub->launch.world_size; r++) {
        RankView *view = &hub->ranks[r];
        *(view->joined ? &view->silent_ms : &view->absent_ms) += elapsed_ms;
        view->stuck_ms += elapsed_ms;
        if (view->symptom[0] != '\0') view->symptom_ms += elapsed_ms;
    }
}

static bool stopping(Hub *hub)
{
    pthread_mutex_lock(&hub->mutex);
    bool stop = hub->stopping;
    pthread_mutex_unlock(&hub->mutex);
    return stop;
}

static void *run_hub(void *argument)
{
    Hub *hub = argument;
    for (int64_t last_ms = clock_ms(); !stopping(hub);) {
        serve(hub);
        int64_t ms = clock_ms();
        pass_time(hub, ms - last_ms);
        last_ms = ms;
        judge(hub);
    }
    return NULL;
}

/* ---- life ---- */

static Status listen_on(int port, int *out)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0;
    bool six = fd >= 0;
    if (!six) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (six) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int bound = six ? bind(fd, (struct sockaddr *)&any6, sizeof any6)
                    : bind(fd, (struct sockaddr *)&any4, sizeof any4);
    if (bound == 0 && listen(fd, BACKLOG) == 0) {
        *out = fd;
        return OK;
    }
    Status status = status_fail(E_NETWORK,
                                "rank 0 cannot listen on port %d: %s; set MASTER_PORT to a free "
                                "one on all ranks",
                                port, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
}

/* Signals are for the main thread, which knows how to stop a run. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

Status hub_open(const Launch *launch, int64_t timeout_ms, Hub **out)
{
    int listener = -1;
    TRY(listen_on(launch->port, &listener));
    Hub *hub = mem_alloc(sizeof *hub);
    hub->launch = *launch;
    hub->timeout_ms = timeout_ms;
    hub->listener = listener;
    hub->ranks = mem_alloc((size_t)launch->world_size * sizeof(RankView));
    for (int r = 0; r < launch->world_size; r++) hub->ranks[r].position.step = -1;
    pthread_mutex_init(&hub->mutex, NULL);
    if (start_thread(&hub->thread, run_hub, hub) != 0) {
        close(listener);
        free(hub->ranks);
        free(hub);
        return status_fail(E_MEMORY, "cannot start the hub's thread");
    }
    *out = hub;
    return OK;
}

static int n_open(Hub *hub)
{
    pthread_mutex_lock(&hub->mutex);
    int n = hub->n_open;
    pthread_mutex_unlock(&hub->mutex);
    return n;
}

void hub_close(Hub *hub, int linger_ms)
{
    if (!hub) return;
    struct timespec pause = {.tv_nsec = 10 * 1000000L};
    for (int64_t end = clock_ms() + linger_ms; n_open(hub) > 0 && clock_ms() < end;)
        nanosleep(&pause, NULL);
    pthread_mutex_lock(&hub->mutex);
    hub->stopping = true;
    pthread_mutex_unlock(&hub->mutex);
    pthread_join(hub->thread, NULL);
    while (hub->n_connections > 0) drop(hub, 0);
    for (int i = 0; i < hub->n_entries; i++) {
        free(hub->entries[i].key);
        free(hub->entries[i].value);
    }
    close(hub->listener);
    pthread_mutex_destroy(&hub->mutex);
    free(hub->connections);
    free(hub->entries);
    free(hub->ranks);
    free(hub);
}

void hub_address(Hub *hub, char *out, size_t out_bytes)
{
    pthread_mutex_lock(&hub->mutex);
    snprintf(out, out_bytes, "%s", hub->address);
    pthread_mutex_unlock(&hub->mutex);
}
