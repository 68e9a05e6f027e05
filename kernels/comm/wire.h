/* The run's TCP hub: named values, and a heartbeat from every rank to rank 0.
 *
 * Rank 0 serves it (hub.h); every rank, rank 0 too, holds two connections: one for values
 * (how the ranks find each other's addresses) and one for beats (comm_watch.c). This header is the
 * wire: messages, and the client's side of values.
 *
 * A message is a MessageHeader, then key, then value. All ranks run the same build on machines of
 * one byte order; the greeting checks both.
 */
#ifndef RETORT_KERNELS_COMM_WIRE_H
#define RETORT_KERNELS_COMM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/comm/launch.h"

enum {
    WIRE_MAGIC = 0x52544f31, /* "RTO1" */
    WIRE_MAX_BYTES = 1 << 20,
    WIRE_TEXT_BYTES = 1024,
};

typedef enum MessageKind {
    MESSAGE_HELLO = 1, /* rank, WireHello */
    MESSAGE_SET,       /* key, value */
    MESSAGE_GET,       /* key; answered by a VALUE as soon as there is one */
    MESSAGE_VALUE,     /* value */
    MESSAGE_BEAT,      /* WirePosition; answered by rank 0's position */
    MESSAGE_FAILED,    /* text: this rank stops, and why */
    MESSAGE_SYMPTOM,   /* text: a collective failed here; the cause may be elsewhere */
    MESSAGE_BYE,       /* this rank has finished */
    MESSAGE_VERDICT,   /* text: the run is over, and whose fault it is */
} MessageKind;

typedef struct MessageHeader {
    uint32_t magic, kind;
    uint32_t key_bytes, value_bytes;
} MessageHeader;

typedef struct WireHello {
    int32_t rank, world_size, beats; /* beats 1: the heartbeat's connection */
    char job[128];
} WireHello;

/* What a rank says of itself with each beat. */
typedef struct WirePosition {
    uint64_t progress;        /* grows with every op and phase */
    int64_t step;             /* of training */
    char doing[128];          /* module and op, or a phase */
    uint64_t sequence;        /* collectives entered so far; the last one: */
    int64_t collective_step;  /*   the step it belongs to */
    char collective[128];     /*   what it is */
    int64_t collective_bytes; /*   its size */
    uint32_t waiting;         /* 1: it has not finished */
    uint32_t excused;         /* 1: in a phase that may take long: loading, saving */
} WirePosition;

/* wire_send: one message. errors  E_NETWORK */
Status wire_send(int fd, MessageKind kind, const char *key, const void *value, size_t n_bytes);

/* wire_receive: the next message, whole, with a zero byte behind the value; free *value. Waits up
 * to timeout_ms. errors  E_NETWORK */
Status wire_receive(int fd, int timeout_ms, MessageKind *kind, char **value, size_t *n_bytes);

/* wire_connect: a connection to rank 0's hub, greeted; tries again until it is there.
 * errors  E_NETWORK naming host, port and for how long it was tried */
Status wire_connect(const Launch *launch, bool beats, int timeout_ms, int *fd);

/* wire_set, wire_get: a value by name; get waits until some rank has set it.
 * errors  E_NETWORK */
Status wire_set(int fd, const char *key, const void *value, size_t n_bytes);
Status wire_get(int fd, const char *key, int timeout_ms, char **value, size_t *n_bytes);

/* wire_address: the numeric address of a connection's near or far end. */
void wire_address(int fd, bool far, char *out, size_t out_bytes);

#endif
