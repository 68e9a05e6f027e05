/* YAML trees: what is read, with which lines, and what is refused. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/yaml.h"
#include "tests/support.h"

static char folder[256], path[300];

static Status load_bytes(const char *text, size_t n_bytes, Yaml **out)
{
    test_folder("yaml", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/file.yaml", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, text, n_bytes), OK);
    return yaml_load(path, out);
}

static Yaml *load(const char *text)
{
    Yaml *root;
    cr_assert_eq(load_bytes(text, strlen(text), &root), OK, "%s", status_message());
    return root;
}

#define SAYS(status, code, part)                                                          \
    do {                                                                                  \
        cr_expect_eq(status, code);                                                       \
        cr_expect_not_null(strstr(status_message(), part), "said: %s", status_message()); \
    } while (0)

static const char sample[] = "name: l0   # comment\n"
                             "size: 512\n"
                             "scale: 1.5e-3\n"
                             "kind: fmb\n"
                             "widths: [32, 64, 128]\n"
                             "stages:\n"
                             "  - {block: conv, depth: 1}\n"
                             "  - {block: res}\n";

Test(yaml, typed_values_are_read)
{
    Yaml *root = load(sample);
    const char *const kinds[] = {"conv", "fmb", NULL};
    const char *name;
    int64_t size, widths[3];
    double scale;
    int kind;
    cr_assert_eq(yaml_text(root, "name", &name), OK);
    cr_assert_str_eq(name, "l0");
    cr_assert_eq(yaml_int(root, "size", 1, 512, &size), OK);
    cr_assert_eq(size, 512);
    cr_assert_eq(yaml_double(root, "scale", 0, 1, &scale), OK);
    cr_assert_eq(scale, 1.5e-3);
    cr_assert_eq(yaml_choice(root, "kind", kinds, &kind), OK);
    cr_assert_eq(kind, 1);
    cr_assert_eq(yaml_int_list(root, "widths", 3, 0, 128, widths), OK);
    cr_assert_eq(widths[2], 128);
    Yaml *stages = yaml_get(root, "stages");
    cr_assert_eq(stages->n_items, 2);
    cr_assert_eq(stages->items[1]->line, 8);
    cr_assert_null(yaml_get(NULL, "x"));
    SAYS(yaml_check_all_seen(root), E_CONFIG, "file.yaml:7: unknown key 'block'");
    for (int i = 0; i < 2; i++) {
        yaml_get(stages->items[i], "block");
        yaml_get(stages->items[i], "depth");
    }
    cr_assert_eq(yaml_check_all_seen(root), OK, "%s", status_message());
    yaml_destroy(root);
}

Test(yaml, wrong_values_say_file_line_and_key)
{
    Yaml *root = load(sample);
    const char *const kinds[] = {"conv", "res", NULL};
    const char *text;
    int64_t number, list[3];
    double real;
    int kind;
    SAYS(yaml_int(root, "size", 0, 511, &number), E_CONFIG,
         "file.yaml:2: size: 512 is out of range, wanted 0 to 511");
    SAYS(yaml_int(root, "scale", 0, 9, &number), E_CONFIG,
         "file.yaml:3: scale: '1.5e-3' is not a whole number");
    SAYS(yaml_int(root, "depth", 0, 9, &number), E_CONFIG, "file.yaml:1: depth: missing");
    SAYS(yaml_int(NULL, "depth", 0, 9, &number), E_CONFIG, "depth: missing");
    SAYS(yaml_double(root, "name", 0, 9, &real), E_CONFIG, "'l0' is not a number");
    SAYS(yaml_text(root, "widths", &text), E_CONFIG, "widths: is a list, wanted a single value");
    SAYS(yaml_choice(root, "kind", kinds, &kind), E_CONFIG, "'fmb' is none of: conv, res");
    SAYS(yaml_int_list(root, "widths", 2, 0, 128, list), E_CONFIG, "has 3 values, wanted 2");
    SAYS(yaml_int_list(root, "widths", 3, 0, 100, list), E_CONFIG, "128 is out of range");
    SAYS(yaml_int(yaml_get(root, "name"), "x", 0, 1, &number), E_CONFIG,
         "a map with the key 'x' is needed here");
    yaml_destroy(root);
}

Test(yaml, unknown_keys_get_the_nearest_asked_one)
{
    Yaml *root = load("block: {depht: 3}\n");
    yaml_get(yaml_get(root, "block"), "depth");
    yaml_get(yaml_get(root, "block"), "width");
    SAYS(yaml_check_all_seen(root), E_CONFIG,
         "file.yaml:1: unknown key 'depht'; nearest known: 'depth'");
    yaml_destroy(root);
}

Test(yaml, empty_files_are_empty_maps)
{
    const char *texts[] = {"", "# only a comment\n", "---\n"};
    for (int i = 0; i < 3; i++) {
        Yaml *root = load(texts[i]);
        cr_expect_eq(root->kind, YAML_MAP);
        cr_expect_eq(root->n_items, 0);
        yaml_destroy(root);
    }
}

Test(yaml, refuses_what_a_config_must_not_hold)
{
    const struct {
        const char *text, *message;
    } refused[] = {
        {"a: &x 1\nb: *x\n", "file.yaml:1: anchors"},
        {"a: !!int 3\n", "file.yaml:1: tags"},
        {"a: 1\nb: 2\na: 3\n", "file.yaml:3: key 'a' was already given at line 1"},
        {"a: {b: 1, b: 2}\n", "key 'b' was already given"},
        {"a: [1\n", "file.yaml:2: not valid YAML"},
        {"a:\n\tb: 1\n", "not valid YAML"},
        {"a: 1\n---\nb: 2\n", "file.yaml:2: a second document"},
        {"[1, 2]\n", "must hold 'key: value' lines"},
        {"? [a]\n: b\n", "a key must be plain text"},
        {"a: \"x\\0y\"\n", "holds a zero byte"},
        {"a: \xff\n", "byte "},
        {"a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
         "nested deeper"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        Yaml *root = NULL;
        SAYS(load_bytes(refused[i].text, strlen(refused[i].text), &root), E_FORMAT,
             refused[i].message);
        cr_expect_null(root);
    }
}

Test(yaml, every_truncation_is_read_or_refused)
{
    for (size_t n = 0; n < sizeof sample; n++) {
        Yaml *root;
        if (load_bytes(sample, n, &root) == OK) yaml_destroy(root);
    }
}

Test(yaml, missing_files_and_folders)
{
    Yaml *root;
    SAYS(yaml_load("no/such/file.yaml", &root), E_FILE, "no/such/file.yaml: cannot be opened");
    SAYS(yaml_load(test_folder("yaml", folder, sizeof folder), &root), E_FILE, "cannot be read");
}
