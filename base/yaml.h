/* YAML files as a small tree, read by the option table and by model configs.
 *
 * libyaml parses; this keeps maps, sequences and scalars with their line. A reader asks for keys
 * and marks them as seen, so that yaml_check_all_seen can name what nobody knows, with the nearest
 * key that was asked.
 */
#ifndef RETORT_BASE_YAML_H
#define RETORT_BASE_YAML_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h" /* nearest_name */

typedef enum YamlKind { YAML_SCALAR, YAML_MAP, YAML_SEQUENCE } YamlKind;

typedef struct Yaml Yaml;
struct Yaml {
    YamlKind kind;
    char *key;  /* in a map; NULL else */
    char *text; /* scalars */
    int line;   /* 1-based */
    bool seen;
    Yaml **items; /* of maps and sequences, in file order */
    int n_items;
    const char *path; /* file, for messages; owned by the root */
    char **asked;     /* keys asked of this map, for suggestions */
    int n_asked;
};

/* yaml_load: errors  E_FILE, E_FORMAT with file and line; anchors, tags and duplicate keys are
 * refused. */
Status yaml_load(const char *path, Yaml **out);
void yaml_destroy(Yaml *root);

/* yaml_get: child of a map, marked seen; NULL if absent. `map` may be NULL (gives NULL). */
Yaml *yaml_get(Yaml *map, const char *key);

/* Typed reading of a key. The whole scalar must be a value of the type.
 * errors  E_CONFIG "FILE:LINE: KEY: ..." if absent, of another type, or outside [min,max] */
Status yaml_int(Yaml *map, const char *key, int64_t min, int64_t max, int64_t *out);
Status yaml_double(Yaml *map, const char *key, double min, double max, double *out);
Status yaml_text(Yaml *map, const char *key, const char **out);
/* yaml_choice: index of the scalar in the NULL-ended list. errors  E_CONFIG listing the choices */
Status yaml_choice(Yaml *map, const char *key, const char *const *choices, int *out);
Status yaml_int_list(Yaml *map, const char *key, int n, int64_t min, int64_t max, int64_t *out);

/* yaml_check_all_seen: errors  E_CONFIG naming the first unseen key below `node` and the nearest
 * known one. */
Status yaml_check_all_seen(const Yaml *node);

#endif
