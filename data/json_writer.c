/* JSON files written from begin to end. See json_writer.h. */
#include "data/json_writer.h"

#include <yajl/yajl_gen.h>

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

enum { MAX_DEPTH = 16 };

struct JsonWriter {
    yajl_gen gen;
    yajl_gen_status status; /* the first that was not ok */
    bool is_list[MAX_DEPTH];
    int depth;
};

JsonWriter *json_writer_create(void)
{
    JsonWriter *writer = mem_alloc(sizeof *writer);
    writer->gen = yajl_gen_alloc(NULL);
    assert(writer->gen);
    yajl_gen_config(writer->gen, yajl_gen_beautify, 1);
    yajl_gen_config(writer->gen, yajl_gen_indent_string, "  ");
    yajl_gen_config(writer->gen, yajl_gen_validate_utf8, 1);
    return writer;
}

static void keep(JsonWriter *writer, yajl_gen_status status)
{
    if (writer->status == yajl_gen_status_ok) writer->status = status;
}

static yajl_gen_status put_text(JsonWriter *writer, const char *text)
{
    return yajl_gen_string(writer->gen, (const unsigned char *)text, strlen(text));
}

static void put_key(JsonWriter *writer, const char *key)
{
    bool in_object = writer->depth > 0 && !writer->is_list[writer->depth - 1];
    assert((key != NULL) == in_object);
    if (key) keep(writer, put_text(writer, key));
}

static void open_level(JsonWriter *writer, const char *key, bool is_list)
{
    assert(writer->depth < MAX_DEPTH);
    put_key(writer, key);
    writer->is_list[writer->depth++] = is_list;
    keep(writer, is_list ? yajl_gen_array_open(writer->gen) : yajl_gen_map_open(writer->gen));
}

void json_writer_object(JsonWriter *writer, const char *key) { open_level(writer, key, false); }

void json_writer_list(JsonWriter *writer, const char *key) { open_level(writer, key, true); }

void json_writer_end(JsonWriter *writer)
{
    assert(writer->depth > 0);
    bool is_list = writer->is_list[--writer->depth];
    keep(writer, is_list ? yajl_gen_array_close(writer->gen) : yajl_gen_map_close(writer->gen));
}

void json_writer_integer(JsonWriter *writer, const char *key, int64_t value)
{
    put_key(writer, key);
    keep(writer, yajl_gen_integer(writer->gen, value));
}

void json_writer_text(JsonWriter *writer, const char *key, const char *text)
{
    put_key(writer, key);
    keep(writer, put_text(writer, text));
}

void json_writer_number(JsonWriter *writer, const char *key, double value)
{
    char text[32];
    put_key(writer, key);
    if (!isfinite(value)) {
        keep(writer, yajl_gen_null(writer->gen));
        return;
    }
    for (int digits = 6; digits <= 17; digits++) { /* as few as give the same double */
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    keep(writer, yajl_gen_number(writer->gen, text, strlen(text)));
}

Status json_writer_commit(JsonWriter *writer, const char *path)
{
    assert(writer->depth == 0);
    const unsigned char *json;
    size_t n_bytes;
    Status status;
    yajl_gen_get_buf(writer->gen, &json, &n_bytes);
    if (writer->status == yajl_gen_status_ok)
        status = file_replace(&file_ops_system, path, json, n_bytes);
    else
        status = status_fail(E_FORMAT, "%s: a text to be written is not UTF-8", path);
    yajl_gen_free(writer->gen);
    free(writer);
    return status;
}
