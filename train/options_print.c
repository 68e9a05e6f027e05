/* Options as text: help, resolved config, and what was chosen or changed. See options.h. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "train/options.h"

static const char *const type_names[] = {
    [TYPE_INT] = "whole number", [TYPE_DOUBLE] = "number", [TYPE_BOOL] = "true or false",
    [TYPE_TEXT] = "text",        [TYPE_CHOICE] = "one of", [TYPE_LIST] = "list a,b,c",
    [TYPE_BYTES] = "size",
};

/* Length of "optim" in "optim.lr"; 0 for keys without a group. */
static size_t group_length(const char *key)
{
    const char *dot = strchr(key, '.');
    return dot ? (size_t)(dot - key) : 0;
}

/* Whether row `option` opens another group than the row before it. */
static bool opens_group(int option)
{
    const char *key = options_row(option)->key;
    if (option == 0) return true;
    const char *previous = options_row(option - 1)->key;
    size_t length = group_length(key);
    return length != group_length(previous) || strncmp(key, previous, length);
}

/* ---- help ---- */

/* Whole bounds in full, others in as few digits as they need. */
static void print_bound(double bound, FILE *out)
{
    fprintf(out, bound == (double)(int64_t)bound ? "%.0f" : "%g", bound);
}

static void print_row_help(const OptionRow *row, FILE *out)
{
    fprintf(out, "  --%-24s %s", row->key, type_names[row->type]);
    for (int i = 0; row->choices && row->choices[i]; i++)
        fprintf(out, "%s%s", i ? ", " : " ", row->choices[i]);
    if (row->max > row->min) {
        fputs(", ", out);
        print_bound(row->min, out);
        fputs(" to ", out);
        print_bound(row->max, out);
    }
    if (*row->unit) fprintf(out, " (%s)", row->unit);
    fprintf(out, "; default %s\n%30s%s\n", *row->default_text ? row->default_text : "empty", "",
            row->help);
}

void options_print_help(FILE *out)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *key = options_row(i)->key;
        if (opens_group(i)) fprintf(out, "%s%.*s\n", i ? "\n" : "", (int)group_length(key), key);
        print_row_help(options_row(i), out);
    }
    fprintf(out, "\nOptions whose default is `preset`:\n");
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options_preset(i, OPT_PRESET_PAPER))
            fprintf(out, "  %-26s paper: %s, released-code: %s, sam: %s\n", options_row(i)->key,
                    options_preset(i, OPT_PRESET_PAPER), options_preset(i, OPT_PRESET_RELEASED),
                    options_preset(i, OPT_PRESET_SAM));
}

/* ---- the resolved config ---- */

/* Double-quoted YAML: any text comes back as it was. */
static void print_quoted(const char *text, size_t n_bytes, FILE *out)
{
    fputc('"', out);
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\x%02x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void print_value(const OptionRow *row, const char *text, FILE *out)
{
    if (row->type == TYPE_TEXT) {
        print_quoted(text, strlen(text), out);
    } else if (row->type == TYPE_LIST) {
        fputc('[', out);
        for (const char *item = text; *item;) {
            size_t n_bytes = strcspn(item, ",");
            print_quoted(item, n_bytes, out);
            item += n_bytes;
            if (*item) item++, fputs(", ", out);
        }
        fputc(']', out);
    } else {
        fputs(text, out); /* numbers and words, as their parsers checked: they need no quotes */
    }
}

static void print_config(const Options *options, FILE *out)
{
    fputs("# The options of this run, complete: defaults, configs and command line merged.\n", out);
    for (int i = 0; i < OPTION_COUNT; i++) {
        const OptionRow *row = options_row(i);
        size_t group = group_length(row->key);
        if (group && opens_group(i)) fprintf(out, "\n%.*s:\n", (int)group, row->key);
        fprintf(out, group ? "  %s: " : "%s: ", row->key + (group ? group + 1 : 0));
        print_value(row, options->text[i], out);
        if (*row->unit) fprintf(out, "  # %s", row->unit);
        fputc('\n', out);
    }
}

char *options_text(const Options *options)
{
    char *content = NULL;
    size_t n_bytes = 0;
    FILE *memory = open_memstream(&content, &n_bytes);
    assert(memory);
    print_config(options, memory);
    fclose(memory);
    return content;
}

Status options_write(const FileOps *ops, const Options *options, const char *path)
{
    char *content = options_text(options);
    Status status = file_replace(ops, path, content, strlen(content));
    free(content);
    return status;
}

/* ---- one-line reports ---- */

static void print_switches(const Options *options, bool overridden, FILE *out)
{
    bool first = true;
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *value = options_preset(i, (OptPreset)options->train_preset);
        if (!value || !strcmp(value, options->text[i]) == overridden) continue;
        fprintf(out, "%s%s=%s", first ? "" : ", ", options_row(i)->key, options->text[i]);
        first = false;
    }
    if (first) fputs("nothing", out);
}

void options_print_preset(const Options *options, FILE *out)
{
    fprintf(out, "preset %s: ", options->text[OPTION_train_preset]);
    print_switches(options, false, out);
    fputs("; overridden: ", out);
    print_switches(options, true, out);
    fputc('\n', out);
}

int options_print_changes(const Options *before, const Options *now, FILE *out)
{
    int n_changes = 0;
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (!strcmp(before->text[i], now->text[i])) continue;
        fprintf(out, "%s: %s, was %s\n", options_row(i)->key, now->text[i], before->text[i]);
        n_changes++;
    }
    return n_changes;
}
