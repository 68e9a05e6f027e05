/* Event files: known CRCs, and every record read back by a parser of its own. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "tests/support.h"
#include "train/tensorboard.h"

static char folder[256];

/* ---- a parser ---- */

typedef struct Bytes {
    const uint8_t *at, *end;
} Bytes;

typedef struct Field {
    int number, wire;
    uint64_t integer; /* varint and fixed */
    Bytes block;
} Field;

typedef struct Event {
    double wall_time;
    int64_t step;
    char version[32];
    int session_status, n_scalars;
    char tags[8][64];
    float values[8];
} Event;

static uint64_t take_fixed(Bytes *bytes, int n)
{
    uint64_t value = 0;
    cr_assert(bytes->end - bytes->at >= n, "the file ends inside a number");
    for (int i = 0; i < n; i++) value |= (uint64_t)*bytes->at++ << 8 * i;
    return value;
}

static uint64_t take_varint(Bytes *bytes)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        uint64_t byte = take_fixed(bytes, 1);
        value |= (byte & 127) << shift;
        if (byte < 128) return value;
    }
}

static bool take_field(Bytes *bytes, Field *field)
{
    if (bytes->at == bytes->end) return false;
    uint64_t key = take_varint(bytes);
    *field = (Field){.number = (int)(key >> 3), .wire = (int)(key & 7)};
    switch (field->wire) {
    case 0: field->integer = take_varint(bytes); break;
    case 1: field->integer = take_fixed(bytes, 8); break;
    case 5: field->integer = take_fixed(bytes, 4); break;
    case 2: {
        size_t n = take_varint(bytes);
        cr_assert((size_t)(bytes->end - bytes->at) >= n);
        field->block = (Bytes){bytes->at, bytes->at + n};
        bytes->at += n;
        break;
    }
    default: cr_assert_fail("wire type %d", field->wire);
    }
    return true;
}

static void copy_text(Bytes block, char *out, size_t room)
{
    size_t n = (size_t)(block.end - block.at);
    cr_assert(n < room);
    memcpy(out, block.at, n);
    out[n] = '\0';
}

static void read_value(Bytes block, Event *event)
{
    Field field;
    int i = event->n_scalars++;
    while (take_field(&block, &field)) {
        uint32_t bits = (uint32_t)field.integer;
        if (field.number == 1)
            copy_text(field.block, event->tags[i], 64);
        else if (field.number == 2)
            memcpy(&event->values[i], &bits, 4);
        else
            cr_assert_fail("field %d of a value", field.number);
    }
}

static void read_event(Bytes block, Event *event)
{
    Field field, inner;
    *event = (Event){0};
    while (take_field(&block, &field)) {
        switch (field.number) {
        case 1: memcpy(&event->wall_time, &field.integer, 8); break;
        case 2: event->step = (int64_t)field.integer; break;
        case 3: copy_text(field.block, event->version, sizeof event->version); break;
        case 5:
            while (take_field(&field.block, &inner)) read_value(inner.block, event);
            break;
        case 7:
            while (take_field(&field.block, &inner)) event->session_status = (int)inner.integer;
            break;
        default: cr_assert_fail("field %d of an event", field.number);
        }
    }
}

static uint32_t masked(const uint8_t *data, size_t n)
{
    uint32_t crc = tensorboard_crc32c(data, n);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static Bytes take_record(Bytes *file)
{
    const uint8_t *start = file->at;
    size_t n = take_fixed(file, 8);
    cr_assert_eq(take_fixed(file, 4), masked(start, 8), "CRC of a length");
    cr_assert((size_t)(file->end - file->at) >= n + 4);
    Bytes data = {file->at, file->at + n};
    file->at += n;
    cr_assert_eq(take_fixed(file, 4), masked(data.at, n), "CRC of a record");
    return data;
}

/* All events of a file; their number. */
static int read_file(const char *path, int room, Event *events)
{
    char *text;
    size_t n_bytes;
    int n = 0;
    cr_assert_eq(file_read(path, 1 << 20, &text, &n_bytes), OK, "%s", status_message());
    Bytes file = {(uint8_t *)text, (uint8_t *)text + n_bytes};
    while (file.at < file.end) {
        cr_assert(n < room);
        read_event(take_record(&file), &events[n++]);
    }
    free(text);
    return n;
}

/* The event files of the folder, in order of their names; their number. */
static int list_files(int room, char paths[][512])
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort), kept = 0;
    for (int i = 0; i < n; i++) {
        if (strstr(entries[i]->d_name, "tfevents")) {
            cr_assert(kept < room);
            snprintf(paths[kept++], 512, "%s/%s", folder, entries[i]->d_name);
        }
        free(entries[i]);
    }
    free(entries);
    return kept;
}

/* ---- tests ---- */

Test(tensorboard, crc32c_known_answers)
{
    /* RFC 3720, B.4, and the check value of the CRC catalogues. */
    uint8_t bytes[32];
    cr_assert_eq(tensorboard_crc32c("123456789", 9), 0xE3069283u);
    cr_assert_eq(tensorboard_crc32c("", 0), 0);
    memset(bytes, 0, 32);
    cr_assert_eq(tensorboard_crc32c(bytes, 32), 0x8A9136AAu);
    memset(bytes, 0xFF, 32);
    cr_assert_eq(tensorboard_crc32c(bytes, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++) bytes[i] = (uint8_t)i;
    cr_assert_eq(tensorboard_crc32c(bytes, 32), 0x46DD794Eu);
    for (int i = 0; i < 32; i++) bytes[i] = (uint8_t)(31 - i);
    cr_assert_eq(tensorboard_crc32c(bytes, 32), 0x113FDB5Cu);
}

Test(tensorboard, a_run_reads_back)
{
    static Event events[8];
    char paths[4][512];
    Tensorboard *board;
    test_folder("tensorboard_run", folder, sizeof folder);
    cr_assert_eq(tensorboard_open(folder, 0, &board), OK, "%s", status_message());
    TensorboardScalar first[] = {{"loss", 0.125}, {"lr", 1e-30}};
    TensorboardScalar second[] = {{"loss", NAN}, {"data_wait_ms", -3.5}, {"img_per_s", 1e9}};
    cr_assert_eq(tensorboard_add(board, 0, 2, first), OK);
    cr_assert_eq(tensorboard_add(board, 1234567890123, 3, second), OK);

    /* Flushed: read while it is still open. */
    cr_assert_eq(list_files(4, paths), 1);
    cr_assert_eq(read_file(paths[0], 8, events), 4);
    tensorboard_close(board);

    cr_assert_str_eq(events[0].version, "brain.Event:2");
    cr_assert_float_eq(events[0].wall_time, (double)time(NULL), 60);
    cr_assert_eq(events[1].session_status, 1);
    cr_assert_eq(events[1].step, 0);
    cr_assert_eq(events[2].step, 0);
    cr_assert_eq(events[2].n_scalars, 2);
    cr_assert_str_eq(events[2].tags[0], "loss");
    cr_assert_eq(events[2].values[0], 0.125f);
    cr_assert_str_eq(events[2].tags[1], "lr");
    cr_assert_eq(events[2].values[1], 1e-30f);
    cr_assert_eq(events[3].step, 1234567890123);
    cr_assert_eq(events[3].n_scalars, 3);
    cr_assert(isnan(events[3].values[0]));
    cr_assert_eq(events[3].values[1], -3.5f);
    cr_assert_eq(events[3].values[2], 1e9f);
}

Test(tensorboard, going_on_opens_a_new_file_behind_the_first)
{
    static Event events[8];
    char paths[4][512];
    TensorboardScalar loss[] = {{"loss", 1}};
    test_folder("tensorboard_resume", folder, sizeof folder);
    for (int64_t step = 0; step < 30; step += 10) { /* all within a second */
        Tensorboard *board;
        cr_assert_eq(tensorboard_open(folder, step, &board), OK);
        cr_assert_eq(tensorboard_add(board, step, 1, loss), OK);
        tensorboard_close(board);
    }
    cr_assert_eq(list_files(4, paths), 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(read_file(paths[i], 8, events), 3);
        cr_assert_eq(events[1].session_status, 1);
        cr_assert_eq(events[1].step, 10 * i, "the start that withdraws later steps");
        cr_assert_eq(events[2].step, 10 * i);
    }
}

Test(tensorboard, a_folder_that_cannot_be_made_is_named)
{
    Tensorboard *board;
    char path[300];
    test_folder("tensorboard_blocked", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/file", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, "x", 1), OK);
    cr_assert_eq(tensorboard_open(path, 0, &board), E_FILE);
    cr_assert_not_null(strstr(status_message(), path));
}
