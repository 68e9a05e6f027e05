/* Options: from table, files and command line to one struct. See options.h.
 *
 * Values stay texts until everything is merged: one path for defaults, files, overrides and
 * presets, and only set_field, at its end, knows types.
 */
#include "train/options.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

enum { MAX_BASES = 8 };

/* ---- the table ---- */

#define CHOICE_TEXT(name, text) text,
#define CHOICE_LIST(suffix) \
    static const char *const choices_##suffix[] = {CHOICES_##suffix(CHOICE_TEXT) NULL};
CHOICE_LIST(PRESET)
CHOICE_LIST(MODE)
CHOICE_LIST(SPLIT)
CHOICE_LIST(LOSS)
CHOICE_LIST(POINTS)
CHOICE_LIST(SCHEDULE)
CHOICE_LIST(CLIP)
CHOICE_LIST(BN)
CHOICE_LIST(BACKEND)
CHOICE_LIST(EMBEDDING)
CHOICE_LIST(PRECISION)
#define choices_NONE NULL

static const struct {
    int option;
    const char *value[3];
} presets[] = {
#define PRESET(field, paper, released, sam) {OPTION_##field, {paper, released, sam}},
#include "train/options.def"
#undef PRESET
};

static const OptionRow rows[OPTION_COUNT] = {
#define OPTION(type, field, key, unit, default_text, min, max, choices, help) \
    {TYPE_##type, offsetof(Options, field), key, unit, default_text, min,     \
     max,         choices_##choices,        help},
#include "train/options.def"
#undef OPTION
};

const OptionRow *options_row(int option) { return &rows[option]; }

const char *options_preset(int option, OptPreset preset)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (presets[i].option == option) return presets[i].value[preset];
    return NULL;
}

/* ---- merging ---- */

typedef struct Merge {
    char *text[OPTION_COUNT];
    char *origin[OPTION_COUNT]; /* for messages: "FILE:LINE", "command line", "default", .. */
} Merge;

static void set_text(Merge *merge, int option, const char *text, const char *origin)
{
    free(merge->text[option]);
    free(merge->origin[option]);
    merge->text[option] = mem_string(text);
    merge->origin[option] = mem_string(origin);
}

static Status find_option(const char *key, const char *origin, int *out)
{
    const char *keys[OPTION_COUNT];
    for (int i = 0; i < OPTION_COUNT; i++) {
        keys[i] = rows[i].key;
        if (strcmp(key, keys[i])) continue;
        *out = i;
        return OK;
    }
    return status_fail(E_CONFIG, "%s: unknown option '%.100s'; nearest known: '%s'", origin, key,
                       nearest_name(key, OPTION_COUNT, keys));
}

static Status set_key(Merge *merge, const char *key, const char *text, const char *origin)
{
    int option = 0;
    TRY(find_option(key, origin, &option));
    set_text(merge, option, text, origin);
    return OK;
}

/* ["a", "b"] is the text "a,b". */
static Status join_list(const Yaml *list, const char *key, char **out)
{
    size_t bytes = 1, used = 0;
    for (int i = 0; i < list->n_items; i++) {
        const Yaml *item = list->items[i];
        if (item->kind != YAML_SCALAR || !*item->text || strchr(item->text, ','))
            return status_fail(E_CONFIG, "%s:%d: %s: each item must be a text without commas",
                               list->path, item->line, key);
        bytes += strlen(item->text) + 1;
    }
    char *text = mem_alloc(bytes);
    for (int i = 0; i < list->n_items; i++)
        used += (size_t)snprintf(text + used, bytes - used, i ? ",%s" : "%s", list->items[i]->text);
    *out = text;
    return OK;
}

static Status merge_value(Merge *merge, const Yaml *node, const char *key, const char *origin)
{
    int option = 0;
    char *joined = NULL;
    TRY(find_option(key, origin, &option));
    if (node->kind == YAML_SCALAR) {
        set_text(merge, option, node->text, origin);
        return OK;
    }
    if (rows[option].type != TYPE_LIST)
        return status_fail(E_CONFIG, "%s: %s: is a list, wanted a single value", origin, key);
    TRY(join_list(node, key, &joined));
    set_text(merge, option, joined, origin);
    free(joined);
    return OK;
}

static Status merge_map(Merge *merge, const Yaml *map, const char *prefix)
{
    for (int i = 0; i < map->n_items; i++) {
        const Yaml *node = map->items[i];
        char key[160], origin[512];
        snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "." : "", node->key);
        snprintf(origin, sizeof origin, "%s:%d", node->path, node->line);
        if (strchr(node->key, '.'))
            return status_fail(E_CONFIG, "%s: write '%.100s' as nested keys, without the dot",
                               origin, node->key);
        if (!*prefix && !strcmp(node->key, "base")) continue; /* was read by merge_file */
        if (node->kind == YAML_MAP)
            TRY(merge_map(merge, node, key));
        else
            TRY(merge_value(merge, node, key, origin));
    }
    return OK;
}

static Status merge_file(Merge *merge, const char *path, int depth);

static Status merge_base(Merge *merge, Yaml *root, const char *path, int depth)
{
    const char *base;
    if (!yaml_get(root, "base")) return OK;
    TRY(yaml_text(root, "base", &base));
    if (depth == MAX_BASES)
        return status_fail(E_CONFIG,
                           "%s: more than %d configs named by `base` in a row; is it a circle?",
                           path, MAX_BASES);
    char *folder = file_folder(path), *base_path = file_join(folder, base);
    Status status = merge_file(merge, base_path, depth + 1);
    free(folder);
    free(base_path);
    return status;
}

static Status merge_file(Merge *merge, const char *path, int depth)
{
    Yaml *root;
    TRY(yaml_load(path, &root));
    Status status = merge_base(merge, root, path, depth);
    if (status == OK) status = merge_map(merge, root, "");
    yaml_destroy(root);
    return status;
}

static Status merge_override(Merge *merge, const char *argument)
{
    const char *equals = strchr(argument, '=');
    char key[160];
    if (strncmp(argument, "--", 2) || !equals)
        return status_fail(E_CONFIG, "command line: got '%.100s', wanted --KEY=VALUE", argument);
    snprintf(key, sizeof key, "%.*s", (int)(equals - argument - 2), argument + 2);
    return set_key(merge, key, equals + 1, "command line");
}

static Status find_choice(const OptionRow *row, const char *text, const char *origin, int *out)
{
    char list[256] = "";
    for (int i = 0; row->choices[i]; i++) {
        if (!strcmp(row->choices[i], text)) {
            *out = i;
            return OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", row->choices[i]);
    }
    return status_fail(E_CONFIG, "%s: %s: '%.100s' is none of: %s", origin, row->key, text, list);
}

/* Gives every switch that still says "preset" the value of train.preset. */
static Status resolve_presets(Merge *merge)
{
    int preset = 0;
    char origin[64];
    TRY(find_choice(&rows[OPTION_train_preset], merge->text[OPTION_train_preset],
                    merge->origin[OPTION_train_preset], &preset));
    snprintf(origin, sizeof origin, "preset %s", choices_PRESET[preset]);
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *value = options_preset(i, (OptPreset)preset);
        if (value && !strcmp(merge->text[i], "preset")) set_text(merge, i, value, origin);
    }
    return OK;
}

/* ---- from text to value ---- */

static Status wrong_value(const OptionRow *row, const char *text, const char *origin,
                          const char *wanted)
{
    return status_fail(E_CONFIG, "%s: %s: '%.100s' is not %s", origin, row->key, text, wanted);
}

static Status check_range(const OptionRow *row, double value, const char *text, const char *origin)
{
    if (value >= row->min && value <= row->max) return OK;
    return status_fail(E_CONFIG, "%s: %s: %.100s is out of range, wanted %g to %g", origin,
                       row->key, text, row->min, row->max);
}

static Status parse_int(const OptionRow *row, const char *text, const char *origin, int64_t *out)
{
    if (!text_to_int(text, out)) return wrong_value(row, text, origin, "a whole number");
    return check_range(row, (double)*out, text, origin);
}

static Status parse_double(const OptionRow *row, const char *text, const char *origin, double *out)
{
    if (!text_to_double(text, out)) return wrong_value(row, text, origin, "a number");
    return check_range(row, *out, text, origin);
}

static Status parse_bool(const OptionRow *row, const char *text, const char *origin, bool *out)
{
    *out = !strcmp(text, "true");
    if (*out || !strcmp(text, "false")) return OK;
    return wrong_value(row, text, origin, "true or false");
}

/* "3GB", "1.5GiB", "4096": decimal and binary units, as they are commonly meant. */
static Status parse_bytes(const OptionRow *row, const char *text, const char *origin, int64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},      {"B", 1},        {"kB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    char number[64];
    double value;
    size_t digits = strspn(text, "0123456789.");
    snprintf(number, sizeof number, "%.*s", (int)digits, text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(text + digits, units[i].name) || !text_to_double(number, &value)) continue;
        value *= units[i].bytes;
        TRY(check_range(row, value, text, origin));
        *out = (int64_t)value;
        return OK;
    }
    return wrong_value(row, text, origin, "a size such as 4096, 3GB or 2GiB");
}

static Status parse_list(const OptionRow *row, const char *text, const char *origin,
                         OptionList *out)
{
    *out = (OptionList){0};
    if (!*text) return OK;
    int capacity = 0;
    for (const char *item = text;; item++) {
        size_t bytes = strcspn(item, ",");
        if (bytes == 0)
            return wrong_value(row, text, origin, "a list as in a,b,c (an item is empty)");
        out->items = mem_grow(out->items, &capacity, out->n + 1, sizeof *out->items);
        out->items[out->n] = mem_alloc(bytes + 1);
        memcpy(out->items[out->n++], item, bytes);
        item += bytes;
        if (!*item) return OK;
    }
}

static Status set_field(Options *options, int option, const char *text, const char *origin)
{
    const OptionRow *row = &rows[option];
    void *field = (char *)options + row->offset;
    switch (row->type) {
    case TYPE_INT: return parse_int(row, text, origin, field);
    case TYPE_DOUBLE: return parse_double(row, text, origin, field);
    case TYPE_BOOL: return parse_bool(row, text, origin, field);
    case TYPE_CHOICE: return find_choice(row, text, origin, field);
    case TYPE_BYTES: return parse_bytes(row, text, origin, field);
    case TYPE_LIST: return parse_list(row, text, origin, field);
    case TYPE_TEXT: *(char **)field = mem_string(text); return OK;
    }
    return OK;
}

static void free_list(OptionList *list)
{
    for (int i = 0; i < list->n; i++) free(list->items[i]);
    free(list->items);
    *list = (OptionList){0};
}

Status options_set(Options *options, int option, const char *text)
{
    assert(rows[option].type != TYPE_TEXT);
    if (rows[option].type == TYPE_LIST)
        free_list((OptionList *)((char *)options + rows[option].offset));
    TRY(set_field(options, option, text, "the run"));
    free(options->text[option]);
    options->text[option] = mem_string(text);
    return OK;
}

/* ---- the whole ---- */

/* What no single row can say. */
static Status check_together(const Options *options)
{
    if (options->train_batch % options->train_micro_batch)
        return status_fail(E_CONFIG, "train.micro_batch=%lld must divide train.batch=%lld",
                           (long long)options->train_micro_batch, (long long)options->train_batch);
    if (options->train_steps > 0 && options->train_epochs > 0)
        return status_fail(E_CONFIG,
                           "train.steps=%lld and train.epochs=%g are both given; keep one",
                           (long long)options->train_steps, options->train_epochs);
    for (int i = 0; i < options->optim_lr_scale.n; i++) {
        double factor;
        const char *item = options->optim_lr_scale.items[i], *equals = strrchr(item, '=');
        if (!equals || equals == item || !text_to_double(equals + 1, &factor) || factor < 0)
            return status_fail(E_CONFIG, "optim.lr_scale: '%.100s' is not PATTERN=FACTOR", item);
    }
    return OK;
}

static Status merge_all(Merge *merge, const char *config_path, int n_overrides,
                        char *const *overrides)
{
    for (int i = 0; i < OPTION_COUNT; i++) set_text(merge, i, rows[i].default_text, "default");
    if (config_path) TRY(merge_file(merge, config_path, 0));
    for (int i = 0; i < n_overrides; i++) TRY(merge_override(merge, overrides[i]));
    if (!strcmp(merge->text[OPTION_train_micro_batch], "0"))
        set_text(merge, OPTION_train_micro_batch, merge->text[OPTION_train_batch],
                 merge->origin[OPTION_train_batch]);
    return resolve_presets(merge);
}

Status options_load(const char *config_path, int n_overrides, char *const *overrides, Options *out)
{
    Merge merge = {0};
    *out = (Options){0};
    Status status = merge_all(&merge, config_path, n_overrides, overrides);
    for (int i = 0; i < OPTION_COUNT && status == OK; i++) {
        status = set_field(out, i, merge.text[i], merge.origin[i]);
        out->text[i] = mem_string(merge.text[i]);
    }
    if (status == OK) status = check_together(out);
    for (int i = 0; i < OPTION_COUNT; i++) {
        free(merge.text[i]);
        free(merge.origin[i]);
    }
    if (status != OK) options_free(out);
    return status;
}

void options_free(Options *options)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        void *field = (char *)options + rows[i].offset;
        free(options->text[i]);
        if (rows[i].type == TYPE_TEXT) free(*(char **)field);
        if (rows[i].type == TYPE_LIST) free_list(field);
    }
    *options = (Options){0};
}
