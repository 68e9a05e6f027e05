/* The option table: what is merged in which order, what is refused and how, and that the resolved
 * config gives the same options again.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"
#include "train/options.h"

static char folder[256];

static void set_up(const char *name) { test_folder(name, folder, sizeof folder); }

/* Writes folder/NAME; its path lies in a static buffer. */
static const char *config(const char *name, const char *text)
{
    static char path[320];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(file_replace(&file_ops_system, path, text, strlen(text)), OK);
    return path;
}

static Options load(const char *path, int n, char *const *overrides)
{
    Options options;
    cr_assert_eq(options_load(path, n, overrides, &options), OK, "%s", status_message());
    return options;
}

#define OVERRIDES(...) \
    (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), (char *[]) { __VA_ARGS__ }

static void refused(const char *path, int n, char *const *overrides, const char *message)
{
    Options options;
    cr_expect_eq(options_load(path, n, overrides, &options), E_CONFIG, "accepted; wanted: %s",
                 message);
    cr_expect_not_null(strstr(status_message(), message), "said: %s\nwanted: %s", status_message(),
                       message);
}

static void override_refused(char *override, const char *message)
{
    refused(NULL, 1, &override, message);
}

/* ---- defaults ---- */

Test(options, defaults_are_valid_and_typed)
{
    Options options = load(NULL, 0, NULL);
    cr_assert_eq(options.train_batch, 4);
    cr_assert_eq(options.train_micro_batch, 4);
    cr_assert_eq(options.optim_eps, 1e-8);
    cr_assert_eq(options.loss_unpadded_only, false);
    cr_assert_eq(options.optim_schedule, OPT_SCHEDULE_COSINE);
    cr_assert_eq(options.run_precision, OPT_PRECISION_F32);
    cr_assert_str_eq(options.init_weights, "");
    cr_assert_eq(options.optim_no_decay.n, 2);
    cr_assert_str_eq(options.optim_no_decay.items[1], "bias");
    cr_assert_eq(options.optim_freeze.n, 0);
    options_free(&options);
}

Test(options, rows_are_consistent)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        const OptionRow *row = options_row(i);
        bool is_switch = !strcmp(row->default_text, "preset");
        for (int k = 0; k < i; k++) cr_expect_str_neq(row->key, options_row(k)->key);
        cr_expect_eq(is_switch, options_preset(i, OPT_PRESET_PAPER) != NULL, "%s", row->key);
        cr_expect_eq(row->type == TYPE_CHOICE, row->choices != NULL, "%s", row->key);
        cr_expect(*row->help, "%s has no help", row->key);
        for (const char *c = row->key; *c; c++)
            cr_expect(*c == '.' || *c == '_' || (*c >= 'a' && *c <= 'z') ||
                      (*c >= '0' && *c <= '9'));
    }
}

/* ---- values ---- */

Test(options, values_are_parsed_to_their_last_character)
{
    override_refused("--optim.lr=1e-4x", "command line: optim.lr: '1e-4x' is not a number");
    override_refused("--optim.lr=", "'' is not a number");
    override_refused("--optim.lr= 1", "is not a number");
    override_refused("--optim.lr=nan", "is not a number");
    override_refused("--optim.lr=inf", "is not a number");
    override_refused("--optim.lr=0x1p-3", "is not a number");
    override_refused("--optim.lr=1e999", "is not a number");
    override_refused("--train.steps=10.5", "is not a whole number");
    override_refused("--train.steps=1e3", "is not a whole number");
    override_refused("--train.steps=99999999999999999999", "is not a whole number");
    override_refused("--run.profile=yes", "is not true or false");
    override_refused("--loss.kind=focl", "'focl' is none of: focal, bce_points");
    override_refused("--run.memory_budget=3gb", "is not a size");
    override_refused("--run.memory_budget=GB", "is not a size");
    override_refused("--optim.freeze=a,,b", "an item is empty");
    override_refused("--optim.freeze=a,", "an item is empty");
    override_refused("--optim.lr_scale=encoder", "is not PATTERN=FACTOR");
    override_refused("--optim.lr_scale==2", "is not PATTERN=FACTOR");
}

Test(options, ranges_include_their_ends)
{
    override_refused("--data.flip=1.0001", "1.0001 is out of range, wanted 0 to 1");
    override_refused("--data.flip=-1e-9", "out of range");
    override_refused("--data.max_points=0", "out of range, wanted 1 to 10");
    override_refused("--data.max_points=11", "out of range");
    Options options = load(NULL, OVERRIDES("--data.flip=1", "--data.max_points=1"));
    cr_assert_eq(options.data_flip, 1.0);
    cr_assert_eq(options.data_max_points, 1);
    options_free(&options);
}

Test(options, sizes_have_units)
{
    const struct {
        char *text;
        int64_t bytes;
    } sizes[] = {
        {"--run.memory_budget=4096", 4096},
        {"--run.memory_budget=3GB", 3000000000},
        {"--run.memory_budget=2GiB", 2147483648},
        {"--run.memory_budget=1.5kB", 1500},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Options options = load(NULL, 1, &sizes[i].text);
        cr_expect_eq(options.run_memory_budget, sizes[i].bytes, "%s", sizes[i].text);
        options_free(&options);
    }
}

Test(options, values_must_fit_together)
{
    refused(NULL, OVERRIDES("--train.batch=6", "--train.micro_batch=4"), "must divide");
    refused(NULL, OVERRIDES("--train.steps=6", "--train.epochs=4"), "both given");
}

/* ---- keys ---- */

Test(options, unknown_keys_get_the_nearest_known_one)
{
    set_up("options_unknown");
    override_refused("--optim.lrr=1", "unknown option 'optim.lrr'; nearest known: 'optim.lr'");
    override_refused("--optm.weight_decay=1", "nearest known: 'optim.weight_decay'");
    override_refused("-optim.lr=1", "wanted --KEY=VALUE");
    override_refused("--optim.lr", "wanted --KEY=VALUE");
    refused(config("a.yaml", "seed: 1\nlos:\n  kind: focal\n"), 0, NULL,
            "a.yaml:3: unknown option 'los.kind'");
    refused(config("b.yaml", "optim.lr: 1\n"), 0, NULL,
            "b.yaml:1: write 'optim.lr' as nested keys");
    refused(config("c.yaml", "optim: 1\n"), 0, NULL, "c.yaml:1: unknown option 'optim'");
    refused(config("d.yaml", "seed: {x: 1}\n"), 0, NULL, "unknown option 'seed.x'");
    refused(config("e.yaml", "seed: [1]\n"), 0, NULL, "is a list, wanted a single value");
    refused(config("f.yaml", "optim:\n  freeze: [\"a,b\"]\n"), 0, NULL, "without commas");
    refused(config("g.yaml", "optim:\n  lr: fast\n"), 0, NULL,
            "g.yaml:2: optim.lr: 'fast' is not a number");
}

/* ---- order ---- */

Test(options, later_wins_over_earlier)
{
    set_up("options_order");
    config("root.yaml", "optim: {lr: 1e-1, eps: 1e-1, beta1: 0.1, beta2: 0.1}\n");
    config("base.yaml", "base: root.yaml\noptim: {lr: 1e-2, eps: 1e-2, beta1: 0.2}\n");
    const char *path = config("run.yaml",
                              "optim: {lr: 1e-3, eps: 1e-3, freeze: [x.*, y]}\nbase: base.yaml\n");
    Options options = load(path, OVERRIDES("--optim.lr=1e-4", "--optim.lr=1e-5"));
    cr_assert_eq(options.optim_lr, 1e-5);          /* the last override */
    cr_assert_eq(options.optim_eps, 1e-3);         /* the config, wherever its `base` stands */
    cr_assert_eq(options.optim_beta1, 0.2);        /* its base */
    cr_assert_eq(options.optim_beta2, 0.1);        /* the base's base */
    cr_assert_eq(options.optim_weight_decay, 0.1); /* the default */
    cr_assert_eq(options.optim_freeze.n, 2);
    cr_assert_str_eq(options.optim_freeze.items[0], "x.*");
    options_free(&options);
}

Test(options, a_circle_of_bases_is_refused)
{
    set_up("options_circle");
    config("a.yaml", "base: b.yaml\n");
    refused(config("b.yaml", "base: a.yaml\n"), 0, NULL, "is it a circle?");
}

Test(options, a_missing_base_is_named)
{
    set_up("options_no_base");
    Options options;
    cr_assert_eq(options_load(config("a.yaml", "base: none.yaml\n"), 0, NULL, &options), E_FILE);
    cr_assert_not_null(strstr(status_message(), "none.yaml"));
}

/* ---- presets ---- */

Test(options, presets_fill_what_is_left_open)
{
    Options options = load(NULL, OVERRIDES("--optim.clip=norm", "--train.preset=released-code"));
    cr_assert_eq(options.loss_kind, OPT_LOSS_BCE_POINTS);
    cr_assert_eq(options.masks_repeat, true);
    cr_assert_eq(options.optim_lr, 8e-7);
    cr_assert_eq(options.optim_clip, OPT_CLIP_NORM);
    char *line = NULL;
    size_t n_bytes;
    FILE *memory = open_memstream(&line, &n_bytes);
    options_print_preset(&options, memory);
    fclose(memory);
    cr_assert_str_eq(line, "preset released-code: data.max_mask_fraction=1, data.decode_margin=0, "
                           "train.click_rounds=0, "
                           "loss.kind=bce_points, loss.iou_weight=0, masks.repeat=true, "
                           "prompts.points=released, prompts.box_noise=0, optim.lr=8e-7, "
                           "optim.lr_times_ranks=true, optim.warmup_steps=0; "
                           "overridden: optim.clip=norm\n");
    free(line);
    options_free(&options);
    options = load(NULL, 0, NULL);
    cr_assert_eq(options.loss_kind, OPT_LOSS_FOCAL);
    cr_assert_eq(options.optim_clip, OPT_CLIP_NONE);
    cr_assert_eq(options.loss_iou_weight, 0.0);
    cr_assert_eq(options.train_click_rounds, 0);
    options_free(&options);
    options = load(NULL, OVERRIDES("--train.preset=sam", "--train.click_rounds=5"));
    cr_assert_eq(options.loss_iou_weight, 1.0);
    cr_assert_eq(options.train_click_rounds, 5);
    cr_assert_eq(options.prompts_box_noise, 0.1);
    cr_assert_eq(options.optim_lr, 8e-4);
    cr_assert_eq(options.optim_warmup_steps, 250);
    options_free(&options);
    override_refused("--data.flip=preset", "is not a number"); /* no switch */
}

/* ---- the resolved config ---- */

Test(options, resolved_config_gives_the_same_options)
{
    set_up("options_resolved");
    char path[320];
    snprintf(path, sizeof path, "%s/resolved.yaml", folder);
    Options options = load(
        NULL,
        OVERRIDES("--train.preset=released-code", "--optim.lr_scale=a.*=0.1,b=2",
                  "--data.root=a,b\"c\"@d.json=2", "--run.dir=a \"b\" \\ #c: d\n\x01",
                  "--optim.no_decay=", "--run.memory_budget=1.5GiB", "--seed=9007199254740991"));
    cr_assert_eq(options_write(&file_ops_system, &options, path), OK, "%s", status_message());
    Options again = load(path, 0, NULL);
    cr_assert_str_eq(again.run_dir, options.run_dir);
    cr_assert_eq(again.data_root.n, 2);
    cr_assert_str_eq(again.data_root.items[1], options.data_root.items[1]);
    cr_assert_eq(again.optim_no_decay.n, 0);
    cr_assert_eq(again.loss_kind, OPT_LOSS_BCE_POINTS);
    cr_assert_eq(options_print_changes(&options, &again, stderr), 0);
    options_free(&again);
    again = load(path, OVERRIDES("--seed=1"));
    char *lines = NULL;
    size_t n_bytes;
    FILE *memory = open_memstream(&lines, &n_bytes);
    cr_assert_eq(options_print_changes(&options, &again, memory), 1);
    fclose(memory);
    cr_assert_str_eq(lines, "seed: 1, was 9007199254740991\n");
    free(lines);
    options_free(&again);
    options_free(&options);
}

Test(options, a_run_can_pin_what_it_chose)
{
    Options options = load(NULL, 0, NULL);
    cr_assert_eq(options_set(&options, OPTION_run_mask_chunk, "8"), OK);
    cr_assert_eq(options.run_mask_chunk, 8);
    cr_assert_str_eq(options.text[OPTION_run_mask_chunk], "8");
    cr_assert_eq(options_set(&options, OPTION_run_mask_chunk, "-1"), E_CONFIG);
    cr_assert_str_eq(options.text[OPTION_run_mask_chunk], "8");
    options_free(&options);
}

Test(options, help_names_every_option)
{
    char *help = NULL;
    size_t n_bytes;
    FILE *memory = open_memstream(&help, &n_bytes);
    options_print_help(memory);
    fclose(memory);
    for (int i = 0; i < OPTION_COUNT; i++) cr_expect_not_null(strstr(help, options_row(i)->key));
    cr_assert_not_null(strstr(help, "one of focal, bce_points"));
    free(help);
}
