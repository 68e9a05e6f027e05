/* The store's thread on rank 0. See store_server.h.
 *
 * Must hold: everything but `stopping`, `n_open` and `address` belongs to the thread.
 */
#include "kernels/comm/store_server.h"

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

struct StoreServer {
    Launch launch;
    int64_t timeout_ms;
    int listener;
    pthread_t thread;
    Connection *connections;
    int n_connections, connection_capacity;
    Entry *entries;
    int n_entries, entry_capacity;
    RankView *ranks;
    char verdict[STORE_TEXT_BYTES];
    bool judged;
    pthread_mutex_t mutex; /* of what follows */
    bool stopping;
    int n_open; /* heartbeat connections of other ranks */
    char address[128];
};

/* ---- values ---- */

static Entry *find_entry(StoreServer *server, const char *key)
{
    for (int i = 0; i < server->n_entries; i++)
        if (strcmp(server->entries[i].key, key) == 0) return &server->entries[i];
    return NULL;
}

static void answer(Connection *c, const Entry *entry)
{
    store_send(c->fd, MESSAGE_VALUE, NULL, entry->value, entry->n_bytes); /* a dead one shows */
    free(c->wanted);
    c->wanted = NULL;
}

static void set_value(StoreServer *server, const char *key, const char *value, size_t n_bytes)
{
    Entry *entry = find_entry(server, key);
    if (!entry) {
        server->entries = mem_grow(server->entries, &server->entry_capacity, server->n_entries + 1,
                                   sizeof(Entry));
        entry = &server->entries[server->n_entries++];
        entry->key = mem_string(key);
    }
    free(entry->value);
    entry->value = mem_alloc(n_bytes + 1);
    memcpy(entry->value, value, n_bytes);
    entry->n_bytes = n_bytes;
    for (int i = 0; i < server->n_connections; i++) {
        Connection *c = &server->connections[i];
        if (c->wanted && strcmp(c->wanted, key) == 0) answer(c, entry);
    }
}

/* ---- the verdict ---- */

static void tell_verdict(const StoreServer *server, const Connection *c)
{
    store_send(c->fd, MESSAGE_VERDICT, NULL, server->verdict, strlen(server->verdict));
}

static void judge(StoreServer *server)
{
    if (server->judged ||
        !verdict_find(server->launch.world_size, server->ranks, server->timeout_ms,
                      server->verdict, sizeof server->verdict))
        return;
    server->judged = true;
    for (int i = 0; i < server->n_connections; i++)
        if (server->connections[i].rank >= 0 &&
            (server->connections[i].beats || server->connections[i].wanted))
            tell_verdict(server, &server->connections[i]);
}

/* ---- messages ---- */

static void count_open(StoreServer *server, int change)
{
    pthread_mutex_lock(&server->mutex);
    server->n_open += change;
    pthread_mutex_unlock(&server->mutex);
}

static void note_address(StoreServer *server, int fd)
{
    char near[128], far[128];
    store_address(fd, false, near, sizeof near);
    store_address(fd, true, far, sizeof far);
    if (strcmp(near, far) == 0 || strncmp(near, "127.", 4) == 0) return;
    pthread_mutex_lock(&server->mutex);
    snprintf(server->address, sizeof server->address, "%s", near);
    pthread_mutex_unlock(&server->mutex);
}

/* A rank of another run, or one that came twice, is refused by a text instead of a value. */
static bool greet(StoreServer *server, Connection *c, const StoreHello *hello)
{
    char why[STORE_TEXT_BYTES] = "";
    if (hello->world_size != server->launch.world_size ||
        strncmp(hello->job, server->launch.job, sizeof hello->job) != 0)
        snprintf(why, sizeof why,
                 "port %d is used by another run (%.100s, %d ranks); set MASTER_PORT to a free one",
                 server->launch.port, server->launch.job, server->launch.world_size);
    else if (hello->rank < 0 || hello->rank >= hello->world_size)
        snprintf(why, sizeof why, "rank %d of %d does not exist", hello->rank, hello->world_size);
    else if (hello->beats && server->ranks[hello->rank].joined)
        snprintf(why, sizeof why, "there are two processes of rank %d", hello->rank);
    if (why[0] != '\0') {
        store_send(c->fd, MESSAGE_VERDICT, NULL, why, strlen(why));
        return false;
    }
    c->rank = hello->rank;
    c->beats = hello->beats != 0;
    note_address(server, c->fd);
    if (!c->beats) return true;
    server->ranks[c->rank].joined = true;
    if (c->rank != 0) count_open(server, 1);
    return true;
}

static void hear_beat(StoreServer *server, const Connection *c, const StorePosition *position)
{
    RankView *view = &server->ranks[c->rank];
    if (position->progress != view->position.progress) view->stuck_ms = 0;
    view->position = *position;
    view->silent_ms = 0;
    if (server->judged)
        tell_verdict(server, c);
    else
        store_send(c->fd, MESSAGE_BEAT, NULL, &server->ranks[0].position, sizeof(StorePosition));
}

/* One whole message; false: the connection is to be closed. */
static bool handle(StoreServer *server, Connection *c, MessageKind kind, const char *key,
                   const char *value, size_t n_bytes)
{
    if (kind == MESSAGE_HELLO)
        return c->rank < 0 && n_bytes == sizeof(StoreHello) &&
               greet(server, c, (const StoreHello *)value);
    if (c->rank < 0) return false;
    RankView *view = &server->ranks[c->rank];
    switch (kind) {
    case MESSAGE_SET: set_value(server, key, value, n_bytes); return true;
    case MESSAGE_GET:
        free(c->wanted);
        c->wanted = mem_string(key);
        if (find_entry(server, key))
            answer(c, find_entry(server, key));
        else if (server->judged)
            tell_verdict(server, c);
        return true;
    case MESSAGE_BEAT:
        if (n_bytes != sizeof(StorePosition)) return false;
        hear_beat(server, c, (const StorePosition *)value);
        return true;
    case MESSAGE_FAILED: snprintf(view->failure, sizeof view->failure, "%s", value); return true;
    case MESSAGE_SYMPTOM: snprintf(view->symptom, sizeof view->symptom, "%s", value); return true;
    case MESSAGE_BYE: view->finished = true; return true;
    default: return false;
    }
}

/* Takes whole messages from the input; false: the other side speaks another language. */
static bool take_messages(StoreServer *server, Connection *c)
{
    size_t at = 0;
    bool good = true;
    while (good && c->n_input - at >= sizeof(MessageHeader)) {
        MessageHeader header;
        memcpy(&header, c->input + at, sizeof header);
        good = header.magic == STORE_MAGIC && header.key_bytes < STORE_TEXT_BYTES &&
               header.value_bytes <= STORE_MAX_BYTES;
        size_t total = sizeof header + header.key_bytes + header.value_bytes;
        if (!good || c->n_input - at < total) break;
        char key[STORE_TEXT_BYTES] = "", *value = mem_alloc(header.value_bytes + 1);
        memcpy(key, c->input + at + sizeof header, header.key_bytes);
        memcpy(value, c->input + at + sizeof header + header.key_bytes, header.value_bytes);
        good = handle(server, c, header.kind, key, value, header.value_bytes);
        free(value);
        at += total;
    }
    if (at > 0) memmove(c->input, c->input + at, c->n_input - at);
    c->n_input -= at;
    return good;
}

/* ---- connections ---- */

static void drop(StoreServer *server, int index)
{
    Connection *c = &server->connections[index];
    if (c->rank >= 0 && c->beats) {
        server->ranks[c->rank].gone = true;
        if (c->rank != 0) count_open(server, -1);
    }
    close(c->fd);
    free(c->input);
    free(c->wanted);
    *c = server->connections[--server->n_connections];
}

static void accept_one(StoreServer *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0) return;
    /* A rank that does not read its answers must not hold up the others. */
    struct timeval patience = {.tv_sec = 1};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    server->connections = mem_grow(server->connections, &server->connection_capacity,
                                   server->n_connections + 1, sizeof(Connection));
    server->connections[server->n_connections++] = (Connection){.fd = fd, .rank = -1};
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
static void serve(StoreServer *server)
{
    int n = server->n_connections;
    struct pollfd *wait = mem_alloc(((size_t)n + 1) * sizeof *wait);
    for (int i = 0; i < n; i++)
        wait[i] = (struct pollfd){.fd = server->connections[i].fd, .events = POLLIN};
    wait[n] = (struct pollfd){.fd = server->listener, .events = POLLIN};
    int ready = poll(wait, (nfds_t)n + 1, TICK_MS);
    for (int i = n - 1; i >= 0 && ready > 0; i--) { /* backwards: drop moves the last one here */
        if (!wait[i].revents) continue;
        Connection *c = &server->connections[i];
        if (!read_input(c) || !take_messages(server, c)) drop(server, i);
    }
    if (ready > 0 && wait[n].revents) accept_one(server);
    free(wait);
}

/* ---- the thread ---- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pass_time(StoreServer *server, int64_t elapsed_ms)
{
    if (elapsed_ms > LONGEST_TICK_MS) elapsed_ms = LONGEST_TICK_MS;
    for (int r = 0; r < server->launch.world_size; r++) {
        RankView *view = &server->ranks[r];
        *(view->joined ? &view->silent_ms : &view->absent_ms) += elapsed_ms;
        view->stuck_ms += elapsed_ms;
        if (view->symptom[0] != '\0') view->symptom_ms += elapsed_ms;
    }
}

static bool stopping(StoreServer *server)
{
    pthread_mutex_lock(&server->mutex);
    bool stop = server->stopping;
    pthread_mutex_unlock(&server->mutex);
    return stop;
}

static void *run_server(void *argument)
{
    StoreServer *server = argument;
    for (int64_t last_ms = now_ms(); !stopping(server);) {
        serve(server);
        int64_t ms = now_ms();
        pass_time(server, ms - last_ms);
        last_ms = ms;
        judge(server);
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

Status store_server_open(const Launch *launch, int64_t timeout_ms, StoreServer **out)
{
    int listener;
    TRY(listen_on(launch->port, &listener));
    StoreServer *server = mem_alloc(sizeof *server);
    server->launch = *launch;
    server->timeout_ms = timeout_ms;
    server->listener = listener;
    server->ranks = mem_alloc((size_t)launch->world_size * sizeof(RankView));
    for (int r = 0; r < launch->world_size; r++) server->ranks[r].position.step = -1;
    pthread_mutex_init(&server->mutex, NULL);
    if (start_thread(&server->thread, run_server, server) != 0) {
        close(listener);
        free(server->ranks);
        free(server);
        return status_fail(E_MEMORY, "cannot start the store's thread");
    }
    *out = server;
    return OK;
}

static int n_open(StoreServer *server)
{
    pthread_mutex_lock(&server->mutex);
    int n = server->n_open;
    pthread_mutex_unlock(&server->mutex);
    return n;
}

void store_server_close(StoreServer *server, int linger_ms)
{
    if (!server) return;
    struct timespec pause = {.tv_nsec = 10 * 1000000L};
    for (int64_t end = now_ms() + linger_ms; n_open(server) > 0 && now_ms() < end;)
        nanosleep(&pause, NULL);
    pthread_mutex_lock(&server->mutex);
    server->stopping = true;
    pthread_mutex_unlock(&server->mutex);
    pthread_join(server->thread, NULL);
    while (server->n_connections > 0) drop(server, 0);
    for (int i = 0; i < server->n_entries; i++) {
        free(server->entries[i].key);
        free(server->entries[i].value);
    }
    close(server->listener);
    pthread_mutex_destroy(&server->mutex);
    free(server->connections);
    free(server->entries);
    free(server->ranks);
    free(server);
}

void store_server_address(StoreServer *server, char *out, size_t out_bytes)
{
    pthread_mutex_lock(&server->mutex);
    snprintf(out, out_bytes, "%s", server->address);
    pthread_mutex_unlock(&server->mutex);
}
