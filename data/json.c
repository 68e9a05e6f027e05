/* Streaming JSON with paths, over yajl. See json.h. */
#include "data/json.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

enum { MAX_DEPTH = 64, MAX_KEY = 63, MAX_NUMBER = 127, CHUNK_BYTES = 1 << 16 };

typedef struct Level { /* an open object or array */
    bool is_array;
    size_t path_length; /* of the container itself; a key or "[]" comes behind it */
    int64_t n_items;
} Level;

typedef struct Reader {
    const char *file;
    JsonHandler handler;
    void *user;
    Status status; /* of the handler or of a limit; yajl only knows that it was cancelled */
    Level levels[MAX_DEPTH];
    int depth;
    char path[MAX_DEPTH * (MAX_KEY + 3) + 1];
} Reader;

static int deliver(Reader *reader, JsonEvent event)
{
    event.path = reader->path;
    reader->status = reader->handler(reader->user, &event);
    return reader->status == OK;
}

/* A value inside an array: gives it its index and the path "...[]". Object members got theirs by
 * key. */
static void enter_value(Reader *reader, JsonEvent *event)
{
    if (reader->depth == 0) return;
    Level *level = &reader->levels[reader->depth - 1];
    if (!level->is_array) return;
    event->index = level->n_items++;
    memcpy(reader->path + level->path_length, "[]", 3);
}

static int value(Reader *reader, JsonEvent event)
{
    enter_value(reader, &event);
    return deliver(reader, event);
}

static int begin(Reader *reader, JsonKind kind)
{
    if (reader->depth == MAX_DEPTH) {
        reader->status = status_fail(E_FORMAT, "%s: JSON nested deeper than %d", reader->file,
                                     MAX_DEPTH);
        return 0;
    }
    if (!value(reader, (JsonEvent){.kind = kind})) return 0;
    reader->levels[reader->depth++] = (Level){.is_array = kind == JSON_ARRAY,
                                              .path_length = strlen(reader->path)};
    return 1;
}

static int end(void *context)
{
    Reader *reader = context;
    assert(reader->depth > 0);
    reader->path[reader->levels[--reader->depth].path_length] = '\0';
    return deliver(reader, (JsonEvent){.kind = JSON_END});
}

static int on_null(void *context) { return value(context, (JsonEvent){.kind = JSON_NULL}); }

static int on_bool(void *context, int truth)
{
    return value(context, (JsonEvent){.kind = JSON_BOOL, .number = truth});
}

static int on_number(void *context, const char *text, size_t n_chars)
{
    Reader *reader = context;
    char terminated[MAX_NUMBER + 1];
    size_t kept = n_chars < MAX_NUMBER ? n_chars : MAX_NUMBER;
    memcpy(terminated, text, kept);
    terminated[kept] = '\0';
    double number = strtod(terminated, NULL);
    if (n_chars > MAX_NUMBER || !isfinite(number)) {
        reader->status = status_fail(E_FORMAT,
                                     "%s: %s holds a number that is too long or too large",
                                     reader->file, reader->path);
        return 0;
    }
    return value(
        reader,
        (JsonEvent){.kind = JSON_NUMBER, .number = number, .text = text, .n_chars = n_chars});
}

static int on_string(void *context, const unsigned char *text, size_t n_chars)
{
    return value(context,
                 (JsonEvent){.kind = JSON_STRING, .text = (const char *)text, .n_chars = n_chars});
}

static int on_object(void *context) { return begin(context, JSON_OBJECT); }

static int on_array(void *context) { return begin(context, JSON_ARRAY); }

static int on_key(void *context, const unsigned char *key, size_t n_chars)
{
    Reader *reader = context;
    char *out = reader->path + reader->levels[reader->depth - 1].path_length;
    if (out != reader->path) *out++ = '.';
    if (n_chars > MAX_KEY) {
        memcpy(out, "?", 2);
        return 1;
    }
    for (size_t i = 0; i < n_chars; i++)
        *out++ = key[i] == '\0' || strchr(".[]", key[i]) ? '?' : (char)key[i];
    *out = '\0';
    return 1;
}

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_bool,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_start_map = on_object,
    .yajl_map_key = on_key,
    .yajl_end_map = end,
    .yajl_start_array = on_array,
    .yajl_end_array = end,
};

/* yajl's explanation without its line breaks and quotation of the text. */
static Status fail_parse(Reader *reader, yajl_handle parser, yajl_status result, long long byte)
{
    if (result == yajl_status_client_canceled) return reader->status;
    unsigned char *explanation = yajl_get_error(parser, 0, NULL, 0);
    int length = explanation ? (int)strcspn((const char *)explanation, "\n") : 0;
    Status status = status_fail(E_FORMAT, "%s: byte %lld: not valid JSON: %.*s", reader->file, byte,
                                length, explanation ? (const char *)explanation : "");
    if (explanation) yajl_free_error(parser, explanation);
    return status;
}

static Status parse_chunk(Reader *reader, yajl_handle parser, const void *chunk, size_t n,
                          long long before)
{
    yajl_status result = yajl_parse(parser, chunk, n);
    if (result == yajl_status_ok) return OK;
    return fail_parse(reader, parser, result, before + (long long)yajl_get_bytes_consumed(parser));
}

static Status parse_end(Reader *reader, yajl_handle parser, long long n_bytes)
{
    yajl_status result = yajl_complete_parse(parser);
    return result == yajl_status_ok ? OK : fail_parse(reader, parser, result, n_bytes);
}

static Status read_chunks(Reader *reader, FILE *file, yajl_handle parser, unsigned char *chunk)
{
    long long before = 0;
    size_t n;
    for (; (n = fread(chunk, 1, CHUNK_BYTES, file)) > 0; before += (long long)n)
        TRY(parse_chunk(reader, parser, chunk, n, before));
    if (ferror(file))
        return status_fail(E_FILE, "%s: cannot read: %s", reader->file, strerror(errno));
    return parse_end(reader, parser, before);
}

static Status read_open_file(Reader *reader, FILE *file)
{
    Status status = OK;
    yajl_handle parser = yajl_alloc(&callbacks, NULL, reader);
    unsigned char *chunk = malloc(CHUNK_BYTES);
    if (parser == NULL || chunk == NULL)
        status = status_fail(E_MEMORY, "%s: out of memory for reading JSON", reader->file);
    else
        status = read_chunks(reader, file, parser, chunk);
    free(chunk);
    if (parser != NULL) yajl_free(parser);
    return status;
}

Status json_read(const char *path, JsonHandler handler, void *user)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) return status_fail(E_FILE, "%s: cannot open: %s", path, strerror(errno));
    Reader reader = {.file = path, .handler = handler, .user = user};
    Status status = read_open_file(&reader, file);
    fclose(file);
    return status;
}

Status json_parse(const char *name, const void *bytes, size_t n_bytes, JsonHandler handler,
                  void *user)
{
    Reader reader = {.file = name, .handler = handler, .user = user};
    yajl_handle parser = yajl_alloc(&callbacks, NULL, &reader);
    if (parser == NULL) return status_fail(E_MEMORY, "%s: out of memory for reading JSON", name);
    Status status = parse_chunk(&reader, parser, bytes, n_bytes, 0);
    if (status == OK) status = parse_end(&reader, parser, (long long)n_bytes);
    yajl_free(parser);
    return status;
}
