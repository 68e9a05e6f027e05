/* `retort data check`: every fault is found, once, and under its name; true reports on real data.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/check_parts.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

static void check_one(const char *root, int n_threads, CheckReport *out)
{
    CheckConfig config = {.roots = &root, .n_roots = 1, .n_lines = 3, .n_threads = n_threads};
    must(check_roots(&config, out));
}

typedef struct Wanted {
    CheckKind kind;
    int64_t n;
    const char *line; /* a part of the first line */
} Wanted;

/* These and no others. */
static void expect_findings(const CheckReport *report, int n, const Wanted *wanted)
{
    for (int kind = 0; kind < N_CHECK_KINDS; kind++) {
        const CheckFindings *findings = &report->kinds[kind];
        const char *first = findings->n > 0 ? findings->lines[0].text : "";
        const Wanted none = {.line = ""}, *match = &none;
        for (int i = 0; i < n; i++)
            if (wanted[i].kind == (CheckKind)kind) match = &wanted[i];
        cr_expect_eq(findings->n, match->n, "%s: %lld, wanted %lld; %s",
                     check_text((CheckKind)kind), (long long)findings->n, (long long)match->n,
                     first);
        cr_expect(strstr(first, match->line), "%s: %s", check_text((CheckKind)kind), first);
    }
}

/* ---- made-up faults ---- */

/* sa_10 with a mask of all pixels and one of none, as large as sa_1. */
static void write_odd_masks(const char *folder)
{
    char path[300], text[600];
    Annotations first = {0};
    snprintf(path, sizeof path, "%s/sa_1.json", folder);
    must(annotations_read(path, &first));
    int height = (int)first.height, width = (int)first.width;
    annotations_free(&first);
    snprintf(text, sizeof text,
             "{\"annotations\": [{\"bbox\": [0, 0, %d, %d], \"area\": %d, \"segmentation\": "
             "{\"size\": [%d, %d], \"counts\": [0, %d]}}, {\"bbox\": [0, 0, 0, 0], \"area\": 0, "
             "\"segmentation\": {\"size\": [%d, %d], \"counts\": [%d]}}]}",
             width - 1, height - 1, height * width, height, width, height * width, height, width,
             height * width);
    snprintf(path, sizeof path, "%s/sa_10.json", folder);
    must(file_replace(&file_ops_system, path, text, strlen(text)));
    shell("cp %s/sa_1.jpg %s/sa_10.jpg", folder, folder);
}

/* A fault of each kind that loose files can have; sa_1 is good. */
static void make_faults(const char *folder)
{
    make_scenes(folder, 9, 5);
    shell("cd %s; truncate -s 1000 sa_2.jpg; rm sa_3.json sa_9.jpg; cp sa_7.jpg sa_6.jpg;"
          "mkdir below; cp sa_1.jpg sa_1.json below; printf '1\\nsa_77\\n1\\n' >sa_images_ids.txt;"
          "sed -i 's/\"area\": [0-9]*/\"area\": 1/' sa_4.json;"
          "sed -i 's/\"bbox\": .[0-9]*, [0-9]*,/\"bbox\": [0, 0,/' sa_5.json;"
          "sed -i 's/\"counts\": \"/\"counts\": \"1/' sa_8.json",
          folder);
    write_odd_masks(folder);
}

Test(data_check, every_fault_of_files_is_found)
{
    char folder[256];
    CheckReport report;
    static const Wanted wanted[] = {
        {CHECK_BAD_IMAGE, 1, "sa_2.jpg: damaged or unsupported JPEG"},
        {CHECK_NO_MASKS, 1, "sa_3.jpg"},
        {CHECK_BAD_MASKS, 1, "sa_8.json: annotation 0: "},
        {CHECK_OTHER_SIZE, 1, "sa_6.jpg: "},
        {CHECK_TWINS, 1, ": id 1, as "},
        {CHECK_LISTED, 2, "sa_images_ids.txt: id 77"},
        {CHECK_LONE_MASKS, 1, "sa_9.json"},
        {CHECK_EMPTY, 1, "sa_10.jpg: mask 1: has no pixel"},
        {CHECK_LARGE, 1, "sa_10.jpg: mask 0: covers 100.0 %"},
        {CHECK_AREA, 1, "sa_4.jpg: mask 0: has "},
        {CHECK_BOX, 1, "sa_5.jpg: mask 0: lies in x "},
    };
    make_faults(test_folder("check_files", folder, sizeof folder));
    for (int n_threads = 1; n_threads <= 4; n_threads += 3) {
        check_one(folder, n_threads, &report);
        cr_expect_eq(report.n_images, 10);
        cr_expect_eq(report.n_with_masks, 8);
        expect_findings(&report, sizeof wanted / sizeof wanted[0], wanted);
        check_report_free(&report);
    }
}

/* Whichever thread comes first: the lines of the first samples are kept, in their order. */
Test(data_check, lines_are_those_of_the_first_samples)
{
    static const int64_t orders[] = {5, 1, 8, 3, 2, 4};
    CheckReport report = {0};
    for (int i = 0; i < 6; i++)
        check_note(&report, 3, CHECK_AREA, orders[i], "of %d", (int)orders[i]);
    const CheckFindings *findings = &report.kinds[CHECK_AREA];
    cr_assert(findings->n == 6 && findings->n_lines == 3);
    cr_expect_str_eq(findings->lines[0].text, "of 1");
    cr_expect_str_eq(findings->lines[1].text, "of 2");
    cr_expect_str_eq(findings->lines[2].text, "of 3");
    check_report_free(&report);
}

Test(data_check, every_fault_of_shards_is_found)
{
    char folder[256], index[300];
    CheckReport report;
    test_folder("check_shards", folder, sizeof folder);
    make_scenes(folder, 6, 3);
    shell("cd %s; tar -cf sa_000000.tar sa_1.* sa_2.* sa_6.json; tar -cf sa_000001.tar sa_2.*;"
          "tar -cf sa_000002.tar sa_3.*; truncate -s 2000 sa_000002.tar;"
          "tar -cf sa_000003.tar sa_4.jpg; rm sa_[1-46].*",
          folder);
    snprintf(index, sizeof index, "%s/index", folder);
    const char *shards[] = {folder};
    Source *source;
    SourceConfig open = {.roots = shards, .n_roots = 1, .index_folder = index};
    shell("cd %s; mkdir good; mv sa_000000.tar good; cp -p good/sa_000000.tar kept", folder);
    char good[300];
    snprintf(good, sizeof good, "%s/good/sa_000000.tar", folder);
    open.roots = (const char *const[]){good};
    must(source_open(&open, &source));
    source_close(source);
    shell("cd %s/good; touch -d 2001-01-01 sa_000000.tar", folder);
    static const Wanted wanted[] = {
        {CHECK_SHARD, 1, "sa_000002.tar: "},
        {CHECK_MIXED, 1, "sa_5.jpg"},
        {CHECK_NO_MASKS, 1, "sa_000003.tar: image 4"},
        {CHECK_TWINS, 1, ": id 2, as "},
        {CHECK_LONE_MASKS, 1, "1 of them, sa_6.json is the first"},
        {CHECK_INDEX, 1, "index of another state of the shard"},
    };
    CheckConfig config = {.roots = shards, .n_roots = 1, .n_lines = 3, .index_folder = index};
    must(check_roots(&config, &report));
    cr_expect_eq(report.n_shards, 3);
    cr_expect_eq(report.n_images, 5);
    expect_findings(&report, sizeof wanted / sizeof wanted[0], wanted);
    check_report_free(&report);
}

Test(data_check, every_fault_of_instance_files_is_found)
{
    static const char text[] =
        "{\"images\": [{\"id\": 1, \"height\": 60, \"width\": 80, \"file_name\": \"gone.jpg\"},"
        "{\"id\": 2, \"height\": 60, \"width\": 80, \"file_name\": \"gone_too.jpg\"},"
        "{\"id\": 3, \"height\": 60, \"width\": 80, \"file_name\": \"bad.jpg\"}],"
        "\"annotations\": [{\"image_id\": 1, \"area\": 1200, \"bbox\": [60, 10, 40, 30],"
        "\"segmentation\": [[60, 10, 100, 10, 100, 40, 60, 40]]},"
        "{\"image_id\": 1, \"area\": 100, \"bbox\": [10, 10, 10, 20], "
        "\"segmentation\": [[10, 10, 20, 10, 20, 20, 10, 20]]},"
        "{\"image_id\": 1, \"iscrowd\": 1, \"area\": 5, \"bbox\": [0, 0, 1, 5],"
        "\"segmentation\": {\"size\": [60, 80], \"counts\": [0, 6, 4794]}},"
        "{\"image_id\": 3, \"area\": 5, \"bbox\": [0, 0, 1, 5],"
        "\"segmentation\": {\"size\": [60, 80], \"counts\": [0, 5, 4]}}]}";
    static const Wanted wanted[] = {
        {CHECK_NO_IMAGE, 3, "gone.jpg: "},
        {CHECK_BAD_MASKS, 1, "annotation 3: "},
        {CHECK_NO_OBJECT, 1, "gone_too.jpg"},
        {CHECK_AREA, 1, "gone.jpg: mask 2: has 6 px, its area says 5.0"},
        {CHECK_BOX, 1, "gone.jpg: mask 1: its outline goes from (10.0, 10.0) to (20.0, 20.0)"},
        {CHECK_OUTSIDE, 1, "gone.jpg: mask 0: its outline goes from (60.0, 10.0) to (100.0, 40.0)"},
    };
    char folder[256], path[300], root[600];
    CheckReport report;
    test_folder("check_coco", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/instances.json", folder);
    must(file_replace(&file_ops_system, path, text, strlen(text)));
    snprintf(root, sizeof root, "%s@%s", folder, path);
    check_one(root, 1, &report);
    cr_expect_eq(report.n_crowds, 1);
    expect_findings(&report, sizeof wanted / sizeof wanted[0], wanted);
    check_report_free(&report);

    must(file_replace(&file_ops_system, path, "{\"images\": 3}", 13));
    static const Wanted unreadable[] = {{CHECK_SHARD, 1, "instances.json: "}};
    check_one(root, 1, &report);
    expect_findings(&report, 1, unreadable);
    check_report_free(&report);
}

/* ---- the command ---- */

Test(data_check, fails_only_if_something_is_broken)
{
    char folder[256];
    test_folder("check_command", folder, sizeof folder);
    make_scenes(folder, 3, 2);
    const ProgramResult *result = program_succeed("data check %s", folder);
    cr_expect(strstr(result->out, "3 images, 3 of them with masks that can be read: ") &&
                  strstr(result->out, "nothing is odd\nnothing is broken\n"),
              "%s", result->out);
    shell("cd %s; sed -i 's/\"area\": [0-9]*/\"area\": 1/g' *.json", folder);
    result = program_succeed("data check %s --lines=1", folder);
    cr_expect(strstr(result->out, "odd\n  4 masks whose area is not") &&
                  strstr(result->out, "\n    .. and 3 more\nnothing is broken\n"),
              "%s", result->out);
    shell("truncate -s 99 %s/sa_2.jpg", folder);
    result = program_run("data check %s", folder);
    cr_expect_eq(result->code, 1);
    cr_expect(strstr(result->out, "broken\n  1 images that are damaged\n    "), "%s", result->out);
    cr_expect(strstr(program_error(result), "1 faults"), "%s", result->err);
    cr_expect_eq(program_run("data check %s/none", folder)->code, 1);
    cr_expect_eq(program_run("data check")->code, 1);
}

/* ---- real data ---- */

typedef struct Sample {
    const char *needs, *root; /* root: with one %s for the folder of sample data */
    int64_t n_images, n_masks, n_crowds;
    Wanted wanted[4];
} Sample;

/* What the sample sets hold, counted apart from this code: numbers of masks and crowds, missing
 * files, and of the masks of the COCO API's own code those over 90 % and of another area or box. */
static const Sample samples[] = {
    {"data/sa1b/pairs/sa_1.jpg", "%s/sa1b/pairs", 1, 65, 0, {{0}}},
    {"data/sa1b/images", "%s/sa1b/images", 20, 0, 0, {{0}}},
    {"data/sa1b",
     "%s/sa1b",
     21,
     65,
     0,
     {{CHECK_NO_MASKS, 20, "sa_000001.jpg"}, {CHECK_LONE_MASKS, 4, "sa_3032002.json"}}},
    {"data/coco/mini",
     "%s/coco/mini/train2017@%s/coco/mini/annotations/instances_train2017.json",
     80,
     739,
     8,
     {{CHECK_LARGE, 3, "covers 9"}, {CHECK_AREA, 7, " px, its area says "}}},
    {"data/coco/mini",
     "%s/coco/mini/val2017@%s/coco/mini/annotations/instances_val2017.json",
     79,
     624,
     5,
     {{CHECK_LARGE, 3, "covers 9"}, {CHECK_AREA, 4, " px, its area says "}}},
    {"data/coco/val2014_100",
     "%s/coco/val2014_100/images@%s/coco/val2014_100/instances_val2014_100.json",
     100,
     839,
     9,
     {{CHECK_NO_IMAGE, 46, "cannot open"}, {CHECK_AREA, 8, " px, its area says "}}},
    {"data/coco/lvis_val_100",
     "%s/coco/lvis_val_100/images@%s/coco/lvis_val_100/lvis_val_100.json",
     100,
     977,
     0,
     {{CHECK_NO_IMAGE, 91, "cannot open"},
      {CHECK_NO_OBJECT, 7, ".jpg"},
      {CHECK_AREA, 2, "its outline encloses"},
      {CHECK_BOX, 13, "its outline goes"}}},
    {"data/photos/sam_amg_demo", "%s/photos/sam_amg_demo", 1, 256, 0, {{0}}},
};

Test(data_check, reports_on_real_data_are_true)
{
    char path[256], data[256], root[900];
    SKIP_WITHOUT("data", data);
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        const Sample *sample = &samples[i];
        CheckReport report;
        int n_wanted = 0;
        SKIP_WITHOUT(sample->needs, path);
        snprintf(root, sizeof root, sample->root, data, data);
        check_one(root, 2, &report);
        cr_expect_eq(report.n_images, sample->n_images, "%s", root);
        cr_expect_eq(report.n_masks, sample->n_masks, "%s", root);
        cr_expect_eq(report.n_crowds, sample->n_crowds, "%s", root);
        while (n_wanted < 4 && sample->wanted[n_wanted].n > 0) n_wanted++;
        expect_findings(&report, n_wanted, sample->wanted);
        check_report_free(&report);
    }
}
