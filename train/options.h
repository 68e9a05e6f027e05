/* The options of a run: defaults, config files and command line merged, validated and typed.
 *
 * Called by train/main.c and read by every command. All rows come from train/options.def.
 *
 * A config is YAML with nested keys (`optim: {lr: 1e-4}` is optim.lr); `base: FILE` in it names a
 * config that is read first, relative to the file that names it (all other paths are relative to
 * the working folder). Later wins: defaults, base, config, then --KEY=VALUE in order. Then each
 * option that still says "preset" takes the value that train.preset gives it (and train.micro_batch
 * 0 that of train.batch), and only then values are parsed; so struct Options never holds an open
 * choice, and what options_write writes gives the same Options again.
 */
#ifndef RETORT_TRAIN_OPTIONS_H
#define RETORT_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/file.h"
#include "base/status.h"

#include "train/options.def" /* the CHOICES_ lists */

/* OPT_LOSS_FOCAL and so on. */
#define ENUMERATOR(name, text) name,
typedef enum OptPreset { CHOICES_PRESET(ENUMERATOR) } OptPreset;
typedef enum OptMode { CHOICES_MODE(ENUMERATOR) } OptMode;
typedef enum OptSplit { CHOICES_SPLIT(ENUMERATOR) } OptSplit;
typedef enum OptLoss { CHOICES_LOSS(ENUMERATOR) } OptLoss;
typedef enum OptPoints { CHOICES_POINTS(ENUMERATOR) } OptPoints;
typedef enum OptSchedule { CHOICES_SCHEDULE(ENUMERATOR) } OptSchedule;
typedef enum OptClip { CHOICES_CLIP(ENUMERATOR) } OptClip;
typedef enum OptBn { CHOICES_BN(ENUMERATOR) } OptBn;
typedef enum OptBackend { CHOICES_BACKEND(ENUMERATOR) } OptBackend;
typedef enum OptEmbedding { CHOICES_EMBEDDING(ENUMERATOR) } OptEmbedding;
typedef enum OptPrecision { CHOICES_PRECISION(ENUMERATOR) } OptPrecision;
#undef ENUMERATOR

typedef struct OptionList {
    char **items;
    int n;
} OptionList;

typedef int64_t OptionINT, OptionBYTES;
typedef double OptionDOUBLE;
typedef bool OptionBOOL;
typedef char *OptionTEXT;
typedef int OptionCHOICE;
typedef OptionList OptionLIST;

/* OPTION_optim_lr and so on: the row numbers. */
#define OPTION(type, field, ...) OPTION_##field,
enum {
#include "train/options.def"
    OPTION_COUNT
};
#undef OPTION

/* One field per row: options.optim_lr is optim.lr. */
typedef struct Options {
#define OPTION(type, field, ...) Option##type field;
#include "train/options.def"
#undef OPTION
    char *text[OPTION_COUNT]; /* the values as written, presets resolved */
} Options;

/* options_load: merges and validates.
 * config_path  NULL: defaults and overrides only
 * overrides    "--KEY=VALUE"
 * errors  E_FILE, E_FORMAT; E_CONFIG saying where (file and line, or command line), which key,
 *         got and wanted; an unknown key comes with the nearest known one. *out is then empty */
Status options_load(const char *config_path, int n_overrides, char *const *overrides, Options *out);

/* options_set: pins a value that the run chose itself, so that the resolved config shows it; for
 * rows that are not TEXT. errors  E_CONFIG if it is out of range */
Status options_set(Options *options, int option, const char *text);
void options_free(Options *options);

/* options_text: all options as a config, to be freed. options_write: the same, replacing `path`.
 * errors  E_FILE */
char *options_text(const Options *options);
Status options_write(const FileOps *ops, const Options *options, const char *path);

/* options_print_help: every option by group, with type, unit, range, default. */
void options_print_help(FILE *out);

/* options_print_preset: "preset paper: loss.kind=focal, ...; overridden: optim.lr=1e-4", one
 * line. */
void options_print_preset(const Options *options, FILE *out);

/* options_print_changes: one line per option whose value is another, "optim.lr: 1e-4, was 2e-6".
 * returns their number */
int options_print_changes(const Options *before, const Options *now, FILE *out);

/* ---- the table itself ---- */

typedef enum OptionType {
    TYPE_INT,
    TYPE_DOUBLE,
    TYPE_BOOL,
    TYPE_TEXT,
    TYPE_CHOICE,
    TYPE_LIST,
    TYPE_BYTES,
} OptionType;

typedef struct OptionRow {
    OptionType type;
    size_t offset; /* of the field in struct Options */
    const char *key, *unit, *default_text;
    double min, max;
    const char *const *choices; /* NULL-ended; NULL for other types */
    const char *help;
} OptionRow;

const OptionRow *options_row(int option); /* 0 <= option < OPTION_COUNT */

/* options_preset: the value of a switch under a preset; NULL for options that are no switches. */
const char *options_preset(int option, OptPreset preset);

#endif
