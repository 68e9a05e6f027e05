/* JSON files written from begin to end: results of `eval` and `segment`.
 *
 * Calls follow the file's order. `key` names a member of the open object and is NULL for elements
 * of the open list and for the top value. A failure is kept and reported by json_writer_commit, so
 * writers read as the file does.
 */
#ifndef RETORT_DATA_JSON_WRITER_H
#define RETORT_DATA_JSON_WRITER_H

#include <stdint.h>

#include "base/status.h"

typedef struct JsonWriter JsonWriter;

JsonWriter *json_writer_create(void);

void json_writer_object(JsonWriter *writer, const char *key); /* until json_writer_end */
void json_writer_list(JsonWriter *writer, const char *key);   /* until json_writer_end */
void json_writer_end(JsonWriter *writer);
void json_writer_integer(JsonWriter *writer, const char *key, int64_t value);
void json_writer_text(JsonWriter *writer, const char *key, const char *text);
/* json_writer_number: reads back as the same double; what JSON cannot say (NaN) becomes null. */
void json_writer_number(JsonWriter *writer, const char *key, double value);

/* json_writer_commit: replaces the file `path`; frees the writer in any case.
 * errors  E_FILE; E_FORMAT if a text was not UTF-8 */
Status json_writer_commit(JsonWriter *writer, const char *path);

#endif
