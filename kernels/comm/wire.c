/* Messages of the hub over TCP, and the client's side. See wire.h. */
#include "kernels/comm/wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum { RETRY_MS = 100 };

/* ---- messages ---- */

static Status send_all(int fd, const void *data, size_t n_bytes)
{
    for (size_t sent = 0; sent < n_bytes;) {
        ssize_t n = send(fd, (const char *)data + sent, n_bytes - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return status_fail(E_NETWORK, "hub: cannot send: %s", strerror(errno));
        sent += (size_t)n;
    }
    return OK;
}

Status wire_send(int fd, MessageKind kind, const char *key, const void *value, size_t n_bytes)
{
    size_t key_bytes = key ? strlen(key) : 0, total = sizeof(MessageHeader) + key_bytes + n_bytes;
    MessageHeader header = {.magic = WIRE_MAGIC,
                            .kind = kind,
                            .key_bytes = (uint32_t)key_bytes,
                            .value_bytes = (uint32_t)n_bytes};
    char *message = mem_alloc(total);
    memcpy(message, &header, sizeof header);
    if (key_bytes) memcpy(message + sizeof header, key, key_bytes);
    if (n_bytes) memcpy(message + sizeof header + key_bytes, value, n_bytes);
    Status status = send_all(fd, message, total); /* in one piece: no delay of its second half */
    free(message);
    return status;
}

static Status receive_all(int fd, int timeout_ms, void *data, size_t n_bytes)
{
    for (size_t got = 0; got < n_bytes;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int ready = poll(&wait, 1, timeout_ms);
        if (ready < 0 && errno == EINTR) continue;
        if (ready == 0)
            return status_fail(E_NETWORK, "hub: rank 0 gave no answer for %d s",
                               timeout_ms / 1000);
        ssize_t n = recv(fd, (char *)data + got, n_bytes - got, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return status_fail(E_NETWORK, "hub: rank 0 is gone (%s)",
                               n == 0 ? "connection closed" : strerror(errno));
        got += (size_t)n;
    }
    return OK;
}

Status wire_receive(int fd, int timeout_ms, MessageKind *kind, char **value, size_t *n_bytes)
{
    MessageHeader header;
    TRY(receive_all(fd, timeout_ms, &header, sizeof header));
    if (header.magic != WIRE_MAGIC || header.key_bytes != 0 ||
        header.value_bytes > WIRE_MAX_BYTES)
        return status_fail(E_NETWORK, "hub: what answers there is no hub of Retort");
    char *data = mem_alloc(header.value_bytes + 1);
    Status status = receive_all(fd, timeout_ms, data, header.value_bytes);
    if (status != OK) {
        free(data);
        return status;
    }
    *kind = header.kind;
    *value = data;
    *n_bytes = header.value_bytes;
    return OK;
}

/* ---- connecting ---- */

/* One try at all addresses of the host; -1 if none answers. */
static int try_connect(const struct addrinfo *addresses)
{
    for (const struct addrinfo *a = addresses; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) continue;
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
            int on = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            return fd;
        }
        close(fd);
    }
    return -1;
}

/* The hub may come later than we, and so may its name. */
static int keep_connecting(const Launch *launch, int timeout_ms)
{
    char port[16];
    snprintf(port, sizeof port, "%d", launch->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *addresses;
    for (int64_t end = clock_ms() + timeout_ms; clock_ms() < end;) {
        if (getaddrinfo(launch->host, port, &hints, &addresses) == 0) {
            int fd = try_connect(addresses);
            freeaddrinfo(addresses);
            if (fd >= 0) return fd;
        }
        struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
    return -1;
}

Status wire_connect(const Launch *launch, bool beats, int timeout_ms, int *out)
{
    int fd = keep_connecting(launch, timeout_ms);
    if (fd < 0)
        return status_fail(
            E_NETWORK,
            "rank %d: no answer from rank 0 at %s:%d within %d s; is rank 0 running, "
            "and are MASTER_ADDR and MASTER_PORT right?",
            launch->rank, launch->host, launch->port, timeout_ms / 1000);
    WireHello hello = {.rank = launch->rank, .world_size = launch->world_size, .beats = beats};
    snprintf(hello.job, sizeof hello.job, "%s", launch->job);
    Status status = wire_send(fd, MESSAGE_HELLO, NULL, &hello, sizeof hello);
    if (status != OK) {
        close(fd);
        return status;
    }
    *out = fd;
    return OK;
}

void wire_address(int fd, bool far, char *out, size_t out_bytes)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int got = far ? getpeername(fd, (struct sockaddr *)&address, &length)
                  : getsockname(fd, (struct sockaddr *)&address, &length);
    if (got != 0 || getnameinfo((struct sockaddr *)&address, length, out, (socklen_t)out_bytes,
                                NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(out, out_bytes, "127.0.0.1");
    /* What came by IPv4 to a socket for both is IPv4. */
    if (strncmp(out, "::ffff:", 7) == 0) memmove(out, out + 7, strlen(out + 7) + 1);
}

/* ---- values ---- */

Status wire_set(int fd, const char *key, const void *value, size_t n_bytes)
{
    return wire_send(fd, MESSAGE_SET, key, value, n_bytes);
}

Status wire_get(int fd, const char *key, int timeout_ms, char **value, size_t *n_bytes)
{
    MessageKind kind = 0;
    TRY(wire_send(fd, MESSAGE_GET, key, NULL, 0));
    TRY(wire_receive(fd, timeout_ms, &kind, value, n_bytes));
    if (kind == MESSAGE_VALUE) return OK;
    Status status = status_fail(E_NETWORK, "%s", *value); /* a verdict or a refusal */
    free(*value);
    return status;
}
