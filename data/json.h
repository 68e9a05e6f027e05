/* JSON files as a stream of events, each with the path of keys that leads to it. The only place
 * that knows the JSON library.
 *
 * Nothing of the file is kept, so annotation files of any size are read in constant memory. A path
 * names objects' keys and arrays: "annotations[].segmentation.size[]"; the top value has the path
 * "". Readers compare paths and let everything unknown pass.
 */
#ifndef RETORT_DATA_JSON_H
#define RETORT_DATA_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum JsonKind {
    JSON_NULL,
    JSON_BOOL, /* number: 0 or 1 */
    JSON_NUMBER,
    JSON_STRING, /* text, unescaped */
    JSON_OBJECT, /* begins; ends with JSON_END of the same path */
    JSON_ARRAY,
    JSON_END,
} JsonKind;

typedef struct JsonEvent { /* valid during the call */
    JsonKind kind;
    const char *path;
    int64_t index; /* place in the innermost array that holds the value directly, else 0 */
    double number;
    const char *text; /* not terminated */
    size_t n_chars;
} JsonEvent;

/* Returns OK to go on; anything else ends the reading and is what json_read returns. */
typedef Status (*JsonHandler)(void *user, const JsonEvent *event);

/* json_read: calls `handler` for every value of the file, in order.
 * units   keys beyond 63 characters have the path segment "?" (as have '.', '[' and ']' inside a
 *         key)
 * errors  E_FILE; E_FORMAT naming the file and the byte if it is no JSON, or nested deeper than 64;
 *         those of the handler */
Status json_read(const char *path, JsonHandler handler, void *user);

/* json_parse: the same of a file's content; `name` stands for it in messages. */
Status json_parse(const char *name, const void *bytes, size_t n_bytes, JsonHandler handler,
                  void *user);

#endif
