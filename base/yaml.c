/* YAML files as a small tree. See yaml.h.
 *
 * libyaml turns the file into events; read_node turns them into nodes, one call per level of
 * nesting.
 */
#include "base/yaml.h"

#include <yaml.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { MAX_DEPTH = 32 }; /* bounds the recursion, whatever the file holds */

typedef struct Reader {
    yaml_parser_t parser;
    FILE *file;
    const char *path; /* becomes the root's */
} Reader;

/* ---- from file to tree ---- */

static Status next_event(Reader *reader, yaml_event_t *event)
{
    const yaml_parser_t *parser = &reader->parser;
    if (yaml_parser_parse(&reader->parser, event)) return OK;
    if (ferror(reader->file))
        return status_fail(E_FILE, "%s: cannot be read: %s", reader->path, strerror(errno));
    /* The reader stage (encoding) knows an offset only, the later stages know the line. */
    if (parser->error == YAML_READER_ERROR)
        return status_fail(E_FORMAT, "%s: byte %zu: %s", reader->path, parser->problem_offset,
                           parser->problem);
    return status_fail(E_FORMAT, "%s:%zu: not valid YAML: %s", reader->path,
                       parser->problem_mark.line + 1,
                       parser->problem ? parser->problem : "parse error");
}

static void node_free(Yaml *node)
{
    if (!node) return;
    for (int i = 0; i < node->n_items; i++) node_free(node->items[i]);
    for (int i = 0; i < node->n_asked; i++) free(node->asked[i]);
    free(node->items);
    free(node->asked);
    free(node->key);
    free(node->text);
    free(node);
}

static Yaml *node_create(const Reader *reader, YamlKind kind, int line)
{
    Yaml *node = mem_alloc(sizeof *node);
    node->kind = kind;
    node->line = line;
    node->path = reader->path;
    return node;
}

static void node_append(Yaml *parent, Yaml *child)
{
    parent->items = realloc(parent->items, (size_t)(parent->n_items + 1) * sizeof *parent->items);
    assert(parent->items);
    parent->items[parent->n_items++] = child;
}

static Yaml *find_child(const Yaml *map, const char *key)
{
    if (!map || map->kind != YAML_MAP) return NULL;
    for (int i = 0; i < map->n_items; i++)
        if (!strcmp(map->items[i]->key, key)) return map->items[i];
    return NULL;
}

static Status scalar_text(const Reader *reader, const yaml_event_t *event, int line, char **out)
{
    const char *value = (const char *)event->data.scalar.value;
    if (strlen(value) != event->data.scalar.length)
        return status_fail(E_FORMAT, "%s:%d: a value holds a zero byte", reader->path, line);
    *out = mem_string(value);
    return OK;
}

/* What is legal YAML but not wanted in a config: names that point elsewhere, and types beside
 * the value. */
static Status refuse_extras(const Reader *reader, const yaml_event_t *event, int line)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (event->type) {
    case YAML_ALIAS_EVENT: anchor = event->data.alias.anchor; break;
    case YAML_SCALAR_EVENT: anchor = event->data.scalar.anchor, tag = event->data.scalar.tag; break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor, tag = event->data.mapping_start.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor, tag = event->data.sequence_start.tag;
        break;
    default: break;
    }
    if (anchor)
        return status_fail(E_FORMAT,
                           "%s:%d: anchors and aliases ('%s') are not supported here; "
                           "write the value out",
                           reader->path, line, (const char *)anchor);
    if (tag)
        return status_fail(E_FORMAT, "%s:%d: tags ('%s') are not supported here; remove it",
                           reader->path, line, (const char *)tag);
    return OK;
}

static Status read_node(Reader *reader, const yaml_event_t *start, int depth, Yaml **out);

static Status read_key(Reader *reader, const Yaml *map, const yaml_event_t *event, char **out)
{
    int line = (int)event->start_mark.line + 1;
    if (event->type != YAML_SCALAR_EVENT)
        return status_fail(E_FORMAT, "%s:%d: a key must be plain text", reader->path, line);
    TRY(refuse_extras(reader, event, line));
    TRY(scalar_text(reader, event, line, out));
    const Yaml *first = find_child(map, *out);
    if (!first) return OK;
    Status status = status_fail(E_FORMAT, "%s:%d: key '%s' was already given at line %d; keep one",
                                reader->path, line, *out, first->line);
    free(*out);
    *out = NULL;
    return status;
}

/* Reads one value whose first event is still to come, and appends it with `key` (taken over;
 * NULL in lists). */
static Status read_child(Reader *reader, Yaml *parent, const yaml_event_t *event, char *key,
                         int depth)
{
    Yaml *child = NULL;
    Status status = read_node(reader, event, depth, &child);
    if (status != OK) {
        free(key);
        return status;
    }
    child->key = key;
    node_append(parent, child);
    return OK;
}

static Status read_items(Reader *reader, Yaml *parent, int depth)
{
    yaml_event_type_t end = parent->kind == YAML_MAP ? YAML_MAPPING_END_EVENT
                                                     : YAML_SEQUENCE_END_EVENT;
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        bool done = event.type == end;
        Status status = OK;
        char *key = NULL;
        if (!done && parent->kind == YAML_MAP) {
            status = read_key(reader, parent, &event, &key);
            yaml_event_delete(&event);
            if (status == OK) status = next_event(reader, &event);
            if (status != OK) {
                free(key);
                return status;
            }
        }
        if (!done) status = read_child(reader, parent, &event, key, depth);
        yaml_event_delete(&event);
        if (done || status != OK) return status;
    }
}

static Status read_node(Reader *reader, const yaml_event_t *start, int depth, Yaml **out)
{
    int line = (int)start->start_mark.line + 1;
    TRY(refuse_extras(reader, start, line));
    if (depth > MAX_DEPTH)
        return status_fail(E_FORMAT, "%s:%d: nested deeper than %d levels", reader->path, line,
                           MAX_DEPTH);
    YamlKind kind = start->type == YAML_MAPPING_START_EVENT    ? YAML_MAP
                    : start->type == YAML_SEQUENCE_START_EVENT ? YAML_SEQUENCE
                                                               : YAML_SCALAR;
    Yaml *node = node_create(reader, kind, line);
    Status status = kind == YAML_SCALAR ? scalar_text(reader, start, line, &node->text)
                                        : read_items(reader, node, depth + 1);
    if (status != OK) {
        node_free(node);
        return status;
    }
    *out = node;
    return OK;
}

/* The first value of the file, or an empty map if there is none; a second document is an error. */
static Status read_document(Reader *reader, Yaml **root)
{
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        Status status = OK;
        bool done = event.type == YAML_STREAM_END_EVENT;
        int line = (int)event.start_mark.line + 1;
        switch (event.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_STREAM_END_EVENT:
        case YAML_DOCUMENT_END_EVENT: break;
        case YAML_DOCUMENT_START_EVENT:
            if (*root)
                status = status_fail(E_FORMAT, "%s:%d: a second document; keep one", reader->path,
                                     line);
            break;
        default: status = read_node(reader, &event, 0, root);
        }
        yaml_event_delete(&event);
        if (done && !*root) *root = node_create(reader, YAML_MAP, 1);
        if (done || status != OK) return status;
    }
}

/* `# only comments` and an empty file both give one empty scalar or nothing: an empty map. */
static Status require_map(Yaml *root)
{
    if (root->kind == YAML_MAP) return OK;
    if (root->kind == YAML_SCALAR && !*root->text) {
        root->kind = YAML_MAP;
        return OK;
    }
    return status_fail(E_FORMAT, "%s:%d: the file must hold 'key: value' lines", root->path,
                       root->line);
}

Status yaml_load(const char *path, Yaml **out)
{
    Reader reader = {.file = fopen(path, "rb")};
    if (!reader.file) return status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    int initialised = yaml_parser_initialize(&reader.parser);
    assert(initialised);
    (void)initialised;
    yaml_parser_set_input_file(&reader.parser, reader.file);
    reader.path = mem_string(path);
    Yaml *root = NULL;
    Status status = read_document(&reader, &root);
    if (status == OK) status = require_map(root);
    yaml_parser_delete(&reader.parser);
    fclose(reader.file);
    if (status != OK) {
        node_free(root);
        free((char *)reader.path);
        return status;
    }
    *out = root;
    return OK;
}

void yaml_destroy(Yaml *root)
{
    if (!root) return;
    free((char *)root->path);
    node_free(root);
}

/* ---- reading the tree ---- */

static void remember_asked(Yaml *map, const char *key)
{
    for (int i = 0; i < map->n_asked; i++)
        if (!strcmp(map->asked[i], key)) return;
    map->asked = realloc(map->asked, (size_t)(map->n_asked + 1) * sizeof *map->asked);
    assert(map->asked);
    map->asked[map->n_asked++] = mem_string(key);
}

Yaml *yaml_get(Yaml *map, const char *key)
{
    if (!map || map->kind != YAML_MAP) return NULL;
    remember_asked(map, key);
    Yaml *child = find_child(map, key);
    if (child) child->seen = true;
    return child;
}

static const char *kind_name(YamlKind kind)
{
    return kind == YAML_MAP ? "a map" : kind == YAML_SEQUENCE ? "a list" : "a single value";
}

static Status get_kind(Yaml *map, const char *key, YamlKind kind, Yaml **out)
{
    if (!map) return status_fail(E_CONFIG, "%s: missing, with the map that should hold it", key);
    if (map->kind != YAML_MAP)
        return status_fail(E_CONFIG, "%s:%d: a map with the key '%s' is needed here, not %s",
                           map->path, map->line, key, kind_name(map->kind));
    Yaml *child = yaml_get(map, key);
    if (!child)
        return status_fail(E_CONFIG, "%s:%d: %s: missing; add it", map->path, map->line, key);
    if (child->kind != kind)
        return status_fail(E_CONFIG, "%s:%d: %s: is %s, wanted %s", child->path, child->line, key,
                           kind_name(child->kind), kind_name(kind));
    *out = child;
    return OK;
}

static Status scalar_int(const Yaml *scalar, const char *key, int64_t min, int64_t max,
                         int64_t *out)
{
    int64_t value;
    if (scalar->kind != YAML_SCALAR || !text_to_int(scalar->text, &value))
        return status_fail(E_CONFIG, "%s:%d: %s: '%s' is not a whole number", scalar->path,
                           scalar->line, key,
                           scalar->kind == YAML_SCALAR ? scalar->text : kind_name(scalar->kind));
    if (value < min || value > max)
        return status_fail(E_CONFIG, "%s:%d: %s: %lld is out of range, wanted %lld to %lld",
                           scalar->path, scalar->line, key, (long long)value, (long long)min,
                           (long long)max);
    *out = value;
    return OK;
}

Status yaml_int(Yaml *map, const char *key, int64_t min, int64_t max, int64_t *out)
{
    Yaml *scalar = NULL;
    TRY(get_kind(map, key, YAML_SCALAR, &scalar));
    return scalar_int(scalar, key, min, max, out);
}

Status yaml_double(Yaml *map, const char *key, double min, double max, double *out)
{
    Yaml *scalar = NULL;
    double value;
    TRY(get_kind(map, key, YAML_SCALAR, &scalar));
    if (!text_to_double(scalar->text, &value))
        return status_fail(E_CONFIG, "%s:%d: %s: '%s' is not a number", scalar->path, scalar->line,
                           key, scalar->text);
    if (value < min || value > max)
        return status_fail(E_CONFIG, "%s:%d: %s: %g is out of range, wanted %g to %g", scalar->path,
                           scalar->line, key, value, min, max);
    *out = value;
    return OK;
}

Status yaml_text(Yaml *map, const char *key, const char **out)
{
    Yaml *scalar = NULL;
    TRY(get_kind(map, key, YAML_SCALAR, &scalar));
    *out = scalar->text;
    return OK;
}

Status yaml_choice(Yaml *map, const char *key, const char *const *choices, int *out)
{
    Yaml *scalar = NULL;
    char list[256] = "";
    TRY(get_kind(map, key, YAML_SCALAR, &scalar));
    for (int i = 0; choices[i]; i++) {
        if (!strcmp(scalar->text, choices[i])) {
            *out = i;
            return OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", choices[i]);
    }
    return status_fail(E_CONFIG, "%s:%d: %s: '%s' is none of: %s", scalar->path, scalar->line, key,
                       scalar->text, list);
}

Status yaml_int_list(Yaml *map, const char *key, int n, int64_t min, int64_t max, int64_t *out)
{
    Yaml *list = NULL;
    TRY(get_kind(map, key, YAML_SEQUENCE, &list));
    if (list->n_items != n)
        return status_fail(E_CONFIG, "%s:%d: %s: has %d values, wanted %d", list->path, list->line,
                           key, list->n_items, n);
    for (int i = 0; i < n; i++) TRY(scalar_int(list->items[i], key, min, max, &out[i]));
    return OK;
}

Status yaml_check_all_seen(const Yaml *node)
{
    for (int i = 0; i < node->n_items; i++) {
        const Yaml *child = node->items[i];
        if (node->kind == YAML_MAP && !child->seen) {
            const char *nearest = nearest_name(child->key, node->n_asked,
                                               (const char *const *)node->asked);
            return status_fail(E_CONFIG, "%s:%d: unknown key '%s'%s%s%s", child->path, child->line,
                               child->key, nearest ? "; nearest known: '" : "",
                               nearest ? nearest : "", nearest ? "'" : "");
        }
        TRY(yaml_check_all_seen(child));
    }
    return OK;
}
