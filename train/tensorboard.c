/* Event files. See tensorboard.h. */
#include "train/tensorboard.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

struct Tensorboard {
    int file;
    char *path;
};

/* ---- protobuf: a message under construction ---- */

enum { MAX_BYTES = TENSORBOARD_MAX_SCALARS * (TENSORBOARD_MAX_TAG + 16) + 64 };

typedef struct Message {
    uint8_t bytes[MAX_BYTES];
    size_t n_bytes;
} Message;

typedef enum Wire { WIRE_VARINT = 0, WIRE_64_BITS = 1, WIRE_BYTES = 2, WIRE_32_BITS = 5 } Wire;

static void put_bytes(Message *message, const void *data, size_t n_bytes)
{
    assert(message->n_bytes + n_bytes <= MAX_BYTES);
    memcpy(message->bytes + message->n_bytes, data, n_bytes);
    message->n_bytes += n_bytes;
}

static void put_varint(Message *message, uint64_t value)
{
    do {
        uint8_t low = value & 127;
        value >>= 7;
        if (value) low |= 128;
        put_bytes(message, &low, 1);
    } while (value);
}

static void put_key(Message *message, int field, Wire wire)
{
    put_varint(message, (uint64_t)field << 3 | wire);
}

/* The low n bytes of `value`, lowest first, whatever the machine's byte order. */
static void put_fixed(Message *message, uint64_t value, int n)
{
    for (int i = 0; i < n; i++, value >>= 8) {
        uint8_t byte = value & 255;
        put_bytes(message, &byte, 1);
    }
}

static void put_block(Message *message, int field, const void *data, size_t n_bytes)
{
    put_key(message, field, WIRE_BYTES);
    put_varint(message, n_bytes);
    put_bytes(message, data, n_bytes);
}

static void put_integer(Message *message, int field, int64_t value)
{
    put_key(message, field, WIRE_VARINT);
    put_varint(message, (uint64_t)value);
}

static void put_double(Message *message, int field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(message, field, WIRE_64_BITS);
    put_fixed(message, bits, 8);
}

static void put_float(Message *message, int field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(message, field, WIRE_32_BITS);
    put_fixed(message, bits, 4);
}

/* ---- messages of event.proto, by field number ---- */

enum { EVENT_WALL_TIME = 1, EVENT_STEP, EVENT_FILE_VERSION, EVENT_SUMMARY = 5, EVENT_SESSION = 7 };
enum { SUMMARY_VALUE = 1 };
enum { VALUE_TAG = 1, VALUE_SIMPLE };
enum { SESSION_STATUS = 1, SESSION_START = 1 };

static void start_event(Message *event, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    event->n_bytes = 0;
    put_double(event, EVENT_WALL_TIME, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (step != 0) put_integer(event, EVENT_STEP, step);
}

static void put_scalar(Message *summary, const TensorboardScalar *scalar)
{
    Message value = {.n_bytes = 0};
    size_t n_chars = strlen(scalar->tag);
    assert(n_chars <= TENSORBOARD_MAX_TAG);
    put_block(&value, VALUE_TAG, scalar->tag, n_chars);
    put_float(&value, VALUE_SIMPLE, (float)scalar->value);
    put_block(summary, SUMMARY_VALUE, value.bytes, value.n_bytes);
}

/* ---- records ---- */

uint32_t tensorboard_crc32c(const void *data, size_t n_bytes)
{
    const uint8_t *bytes = data;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < n_bytes; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

/* A CRC over data that holds CRCs is weak, hence the masking. */
static uint32_t masked_crc(const void *data, size_t n_bytes)
{
    uint32_t crc = tensorboard_crc32c(data, n_bytes);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static Status write_all(const Tensorboard *board, const uint8_t *data, size_t n_bytes)
{
    while (n_bytes > 0) {
        ssize_t n = write(board->file, data, n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return status_fail(E_FILE, "%s: cannot be written: %s", board->path, strerror(errno));
        data += n;
        n_bytes -= (size_t)n;
    }
    return OK;
}

/* One write, so that a killed run leaves whole records. */
static Status write_record(const Tensorboard *board, const Message *event)
{
    Message record = {.n_bytes = 0};
    put_fixed(&record, event->n_bytes, 8);
    put_fixed(&record, masked_crc(record.bytes, 8), 4);
    put_bytes(&record, event->bytes, event->n_bytes);
    put_fixed(&record, masked_crc(event->bytes, event->n_bytes), 4);
    return write_all(board, record.bytes, record.n_bytes);
}

Status tensorboard_add(Tensorboard *board, int64_t step, int n_scalars,
                       const TensorboardScalar *scalars)
{
    Message event, summary = {.n_bytes = 0};
    assert(n_scalars <= TENSORBOARD_MAX_SCALARS);
    for (int i = 0; i < n_scalars; i++) put_scalar(&summary, &scalars[i]);
    start_event(&event, step);
    put_block(&event, EVENT_SUMMARY, summary.bytes, summary.n_bytes);
    return write_record(board, &event);
}

/* ---- opening ---- */

/* The number distinguishes files of one second and keeps them in order. */
static Status create_file(Tensorboard *board, const char *folder)
{
    char name[64];
    long long seconds = (long long)time(NULL);
    for (int number = 0; board->file < 0; number++) {
        snprintf(name, sizeof name, "events.out.tfevents.%010lld.%06d", seconds, number);
        free(board->path);
        board->path = file_join(folder, name);
        board->file = open(board->path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (board->file < 0 && errno != EEXIST)
            return status_fail(E_FILE, "%s: cannot be created: %s", board->path, strerror(errno));
    }
    return OK;
}

/* The version comes first in a file; the start of a session withdraws what earlier files say of
 * first_step and later steps. */
static Status write_head(const Tensorboard *board, int64_t first_step)
{
    static const char version[] = "brain.Event:2";
    Message event, session = {.n_bytes = 0};
    start_event(&event, 0);
    put_block(&event, EVENT_FILE_VERSION, version, sizeof version - 1);
    TRY(write_record(board, &event));
    put_integer(&session, SESSION_STATUS, SESSION_START);
    start_event(&event, first_step);
    put_block(&event, EVENT_SESSION, session.bytes, session.n_bytes);
    return write_record(board, &event);
}

Status tensorboard_open(const char *folder, int64_t first_step, Tensorboard **out)
{
    Tensorboard *board = mem_alloc(sizeof *board);
    board->file = -1;
    Status status = file_make_folders(folder);
    if (status == OK) status = create_file(board, folder);
    if (status == OK) status = write_head(board, first_step);
    if (status == OK)
        *out = board;
    else
        tensorboard_close(board);
    return status;
}

void tensorboard_close(Tensorboard *board)
{
    if (!board) return;
    if (board->file >= 0) close(board->file);
    free(board->path);
    free(board);
}
