/* Run lengths, JSON and annotation files. Sample files are read where they lie; where they are
 * missing the tests that need them are skipped by name. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data/json.h"
#include "data/source.h"
#include "tests/support.h"

static void write_file(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, n_bytes, file), n_bytes);
    fclose(file);
}

static bool message_has(const char *part) { return strstr(status_message(), part) != NULL; }

/* ---- Run lengths ---- */

Test(rle, hostile_strings_are_refused)
{
    uint32_t counts[64];
    int64_t n;
    cr_expect_eq(rle_parse("5 5", 3, counts, &n), E_FORMAT);
    cr_expect(message_has("character 1 has code 32"), "%s", status_message());
    cr_expect_eq(rle_parse("5p", 2, counts, &n), E_FORMAT);
    cr_expect_eq(rle_parse("5\xff", 2, counts, &n), E_FORMAT);
    cr_expect_eq(rle_parse("5P", 2, counts, &n), E_FORMAT, "ends inside a number");
    cr_expect(message_has("ends inside a number"), "%s", status_message());
    cr_expect_eq(rle_parse("oooooooo0", 9, counts, &n), E_FORMAT, "number of nine groups");
    cr_expect(message_has("more than 7"), "%s", status_message());
    cr_expect_eq(rle_parse("O", 1, counts, &n), E_FORMAT, "run of -1 px");
    cr_expect(message_has("-1 px"), "%s", status_message());
    cr_expect_eq(rle_parse("PPPPPP4", 7, counts, &n), E_FORMAT, "2^32 px");
    cr_expect_eq(rle_parse("", 0, counts, &n), OK);
    cr_expect_eq(n, 0);
}

Test(rle, sums_and_sizes_are_checked)
{
    uint32_t counts[] = {3, 2, 1};
    Rle mask = {.height = 2, .width = 3, .n = 3, .counts = counts};
    cr_expect_eq(rle_check(&mask), OK);
    mask.width = 4;
    cr_expect_eq(rle_check(&mask), E_FORMAT);
    cr_expect(message_has("sum to 6 px, wanted height 2 x width 4 = 8"), "%s", status_message());
    mask.height = 0;
    cr_expect_eq(rle_check(&mask), E_FORMAT);
    mask.height = mask.width = UINT32_MAX;
    cr_expect_eq(rle_check(&mask), E_FORMAT);
    uint32_t wrapping[] = {UINT32_MAX, UINT32_MAX, 8}; /* 6 modulo 2^32 */
    mask = (Rle){.height = 2, .width = 3, .n = 3, .counts = wrapping};
    cr_expect_eq(rle_check(&mask), E_FORMAT);
}

Test(rle, runs_go_down_the_columns)
{
    const uint8_t dense[] = {0, 1, 1, /* row 0 */
                             0, 1, 0};
    uint32_t counts[7];
    int64_t n = rle_encode(dense, 2, 3, counts), box[4];
    const uint32_t wanted[] = {2, 3, 1};
    cr_assert_eq(n, 3);
    cr_expect_arr_eq(counts, wanted, sizeof wanted);
    Rle mask = {.height = 2, .width = 3, .n = n, .counts = counts};
    uint8_t decoded[6];
    rle_decode(&mask, decoded);
    cr_expect_arr_eq(decoded, dense, sizeof dense);
    cr_expect_eq(rle_area(&mask), 3);
    rle_bbox(&mask, box);
    const int64_t wanted_box[] = {1, 0, 2, 2};
    cr_expect_arr_eq(box, wanted_box, sizeof box);
}

Test(rle, random_masks_survive_string_and_dense_form)
{
    enum { MAX_SIDE = 23 };
    for (uint64_t sample = 0; sample < 300; sample++) {
        RngKey key = {.seed = 7, .purpose = RNG_TEST, .sample = sample};
        int64_t height = 1 + (int64_t)rng_below(key, 0, MAX_SIDE),
                width = 1 + (int64_t)rng_below(key, 1, MAX_SIDE);
        uint8_t dense[MAX_SIDE * MAX_SIDE], decoded[MAX_SIDE * MAX_SIDE];
        double density = rng_uniform(key, 2);
        int64_t area = 0, left = width, right = -1, top = height, bottom = -1;
        for (int64_t i = 0; i < height * width; i++) {
            dense[i] = rng_uniform(key, 3 + (uint64_t)i) < density * density * density;
            if (!dense[i]) continue;
            area++;
            left = i % width < left ? i % width : left;
            right = i % width > right ? i % width : right;
            top = i / width < top ? i / width : top;
            bottom = i / width;
        }
        uint32_t counts[MAX_SIDE * MAX_SIDE + 1], parsed[7 * (MAX_SIDE * MAX_SIDE + 1)];
        char text[7 * (MAX_SIDE * MAX_SIDE + 1)];
        Rle mask = {.height = height, .width = width, .counts = counts};
        mask.n = rle_encode(dense, height, width, counts);
        cr_assert_eq(rle_check(&mask), OK, "%s", status_message());
        cr_assert_eq(rle_parse(text, rle_to_string(&mask, text), parsed, &mask.n), OK);
        mask.counts = parsed;
        rle_decode(&mask, decoded);
        cr_assert_arr_eq(decoded, dense, (size_t)(height * width));
        cr_assert_eq(rle_area(&mask), area);
        int64_t box[4], wanted[4] = {left, top, right - left + 1, bottom - top + 1};
        if (area == 0) memset(wanted, 0, sizeof wanted);
        rle_bbox(&mask, box);
        cr_assert_arr_eq(box, wanted, sizeof box);
    }
}

typedef struct RoundTrip { /* reads every compressed mask of any file, whatever leads to it */
    int64_t size[2];
    char *text;
    size_t n_chars;
    double area, bbox[4];
    bool has_area, has_bbox;
    int64_t n_masks, n_areas, n_boxes;
} RoundTrip;

static bool ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

static void check_round_trip(RoundTrip *trip)
{
    uint32_t *counts = malloc(trip->n_chars * sizeof *counts);
    char *text = malloc(7 * trip->n_chars);
    Rle mask = {.height = trip->size[0], .width = trip->size[1], .counts = counts};
    cr_assert_eq(rle_parse(trip->text, trip->n_chars, counts, &mask.n), OK, "%s", status_message());
    cr_assert_eq(rle_check(&mask), OK, "%s", status_message());
    cr_assert_eq(rle_to_string(&mask, text), trip->n_chars);
    cr_assert_arr_eq(text, trip->text, trip->n_chars);
    uint8_t *dense = malloc((size_t)(mask.height * mask.width));
    rle_decode(&mask, dense);
    uint32_t *again = malloc((size_t)(mask.height * mask.width + 1) * sizeof *again);
    cr_assert_eq(rle_encode(dense, mask.height, mask.width, again), mask.n);
    cr_assert_arr_eq(again, counts, (size_t)mask.n * sizeof *counts);
    int64_t box[4];
    rle_bbox(&mask, box);
    for (int i = 0; trip->has_bbox && i < 4; i++) cr_assert_eq((double)box[i], trip->bbox[i]);
    if (trip->has_area) cr_assert_eq((double)rle_area(&mask), trip->area);
    trip->n_masks++;
    trip->n_areas += trip->has_area;
    trip->n_boxes += trip->has_bbox;
    free(counts), free(text), free(dense), free(again);
}

/* In reference_masks the record holds all keys; elsewhere the mask record holds only size and
 * counts. */
static Status collect_mask(void *user, const JsonEvent *event)
{
    RoundTrip *trip = user;
    if (event->kind == JSON_OBJECT) trip->has_area = trip->has_bbox = false;
    if (ends_with(event->path, "size[]")) trip->size[event->index] = (int64_t)event->number;
    if (strcmp(event->path, "[].area") == 0) trip->area = event->number, trip->has_area = true;
    if (strcmp(event->path, "[].bbox[]") == 0)
        trip->bbox[event->index] = event->number, trip->has_bbox = true;
    if (ends_with(event->path, "counts") && event->kind == JSON_STRING) {
        free(trip->text);
        trip->text = memcpy(malloc(event->n_chars), event->text, event->n_chars);
        trip->n_chars = event->n_chars;
    }
    bool record = event->kind == JSON_END && !ends_with(event->path, "size") &&
                  !ends_with(event->path, "bbox");
    if (record && trip->text != NULL) {
        check_round_trip(trip);
        free(trip->text);
        trip->text = NULL;
    }
    return OK;
}

static RoundTrip round_trip_file(const char *path)
{
    RoundTrip trip = {0};
    cr_assert_eq(json_read(path, collect_mask, &trip), OK, "%s", status_message());
    return trip;
}

Test(rle, sample_files_round_trip)
{
    static const struct {
        const char *name;
        int64_t n_masks;
    } files[] = {
        {"data/sa1b/pairs/sa_1.json", 65},
        {"data/sa1b/sav/sav_000001_auto.json", 121 * 9},
        {"data/sa1b/sav/sav_000001_manual.json", 121 * 5},
        {"data/photos/sam_amg_demo/demo.json", 256},
        {"data/sa1b/annotations_only/sa_560.json", 1},
        {"data/sa1b/annotations_only/sa_3032002.json", 1},
    };
    char path[256];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        SKIP_WITHOUT(files[i].name, path);
        cr_expect_eq(round_trip_file(path).n_masks, files[i].n_masks, "%s: %lld masks", path,
                     (long long)round_trip_file(path).n_masks);
    }
}

Test(rle, area_and_box_agree_with_the_coco_api)
{
    char path[256];
    SKIP_WITHOUT("data/coco/mini/annotations/reference_masks_train2017.json", path);
    RoundTrip trip = round_trip_file(path);
    cr_expect_eq(trip.n_masks, 739);
    cr_expect_eq(trip.n_areas, 739);
    cr_expect_eq(trip.n_boxes, 739);
}

/* ---- JSON and annotations ---- */

static Status log_event(void *user, const JsonEvent *event)
{
    char *log = user;
    sprintf(log + strlen(log), "%d %s %lld %g\n", event->kind, event->path, (long long)event->index,
            event->number);
    return strcmp(event->path, "stop") == 0 ? E_NUMERIC : OK;
}

Test(json, events_carry_paths_and_places)
{
    char folder[256], path[300], log[4096] = "";
    snprintf(path, sizeof path, "%s/a.json", test_folder("json_events", folder, sizeof folder));
    const char text[] = "{\"a\": [1, [2.5], {\"b.c\": true}], \"d\": {}, \"stop\": null, \"e\": 1}";
    write_file(path, text, strlen(text));
    cr_expect_eq(json_read(path, log_event, log), E_NUMERIC);
    cr_expect_str_eq(log,
                     "4  0 0\n5 a 0 0\n2 a[] 0 1\n5 a[] 1 0\n2 a[][] 0 2.5\n6 a[] 0 0\n4 a[] 2 0\n"
                     "1 a[].b?c 0 1\n6 a[] 0 0\n6 a 0 0\n4 d 0 0\n6 d 0 0\n0 stop 0 0\n");
}

static Status ignore_event(void *user, const JsonEvent *event)
{
    (void)user, (void)event;
    return OK;
}

Test(json, broken_files_name_file_and_byte)
{
    char folder[256], path[300], deep[200];
    test_folder("json_broken", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/a.json", folder);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FILE);
    write_file(path, "{\"a\": 1,, }", 11);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FORMAT);
    cr_expect(message_has("a.json: byte 9"), "%s", status_message());
    cr_expect_null(strchr(status_message(), '\n'));
    write_file(path, "{\"a\": [1", 8);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FORMAT, "ends early");
    write_file(path, "", 0);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FORMAT, "empty");
    write_file(path, "[1e999]", 7);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FORMAT, "infinite");
    memset(deep, '[', sizeof deep);
    write_file(path, deep, sizeof deep);
    cr_expect_eq(json_read(path, ignore_event, NULL), E_FORMAT);
    cr_expect(message_has("nested deeper"), "%s", status_message());
}

#define IMAGE "\"image\": {\"image_id\": 1, \"width\": 3, \"height\": 2}, "
#define GOOD                                                      \
    "{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"x\": {\"y\": [1]}, " \
    "\"segmentation\": {\"counts\": [1, 2, 3], \"size\": [2, 3]}}"

Test(annotations, faults_are_named)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{" IMAGE "\"x\": 1}", "key annotations is missing"},
        {"{" IMAGE "\"annotations\": []}", "no annotation"},
        {"{" IMAGE "\"annotations\": {}}", "not a list"},
        {"{" IMAGE "\"annotations\": [3]}", "annotation 0: not an object"},
        {"{" IMAGE "\"annotations\": [" GOOD
         ", {\"area\": 2, \"segmentation\": {\"counts\": [6], \"size\": [2, 3]}}]}",
         "annotation 1: the key bbox is missing"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"segmentation\": {\"counts\": [6], "
         "\"size\": [2, 3]}}]}",
         "the key area is missing"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"size\": [2, 3]}}]}",
         "the key segmentation.counts is missing"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": \"6\"}}]}",
         "the key segmentation.size is missing"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": [6], \"size\": [2, 3]}}]}",
         "bbox has fewer"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 9, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": [6], \"size\": [2, 3]}}]}",
         "leaves the image"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": [5], \"size\": [2, 3]}}]}",
         "sum to 5 px, wanted height 2 x width 3"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": [-1, 7], \"size\": [2, 3]}}]}",
         "no run length"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": [6], \"size\": [3, 2]}}]}",
         "the mask is 3 x 2 px"},
        {"{" IMAGE "\"annotations\": [{\"bbox\": [0, 0, 1, 1], \"area\": 2, \"segmentation\": "
         "{\"counts\": \"6 \", \"size\": [2, 3]}}]}",
         "annotation 0: run-length string: character 1"},
    };
    char folder[256], path[300];
    snprintf(path, sizeof path, "%s/a.json", test_folder("annotations", folder, sizeof folder));
    Annotations annotations = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(path, cases[i].text, strlen(cases[i].text));
        cr_expect_eq(annotations_read(path, &annotations), E_FORMAT, "%s", cases[i].text);
        cr_expect(message_has(cases[i].message) && message_has("a.json"), "%s", status_message());
    }
    static const char good[] = "{\"annotations\": [" GOOD "," GOOD "], " IMAGE "\"z\": 0}";
    write_file(path, good, strlen(good));
    cr_expect_eq(annotations_read(path, &annotations), OK, "%s", status_message());
    cr_expect_eq(annotations.n_items, 2);
    cr_expect_eq(annotations.items[1].mask.n, 3);
    cr_expect_eq(annotations.items[1].mask.counts[2], 3);
    annotations_free(&annotations);
}

Test(annotations, boxes_and_areas_of_sa_1_agree_with_its_masks)
{
    char path[256];
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", path);
    Annotations annotations = {0};
    cr_assert_eq(annotations_read(path, &annotations), OK, "%s", status_message());
    cr_expect_eq(annotations.n_items, 65);
    cr_expect_eq(annotations.height, 2060);
    cr_expect_eq(annotations.width, 1500);
    for (int64_t i = 0; i < annotations.n_items; i++) {
        const Annotation *item = &annotations.items[i];
        int64_t box[4];
        rle_bbox(&item->mask, box);
        cr_expect_eq((double)rle_area(&item->mask), item->area);
        cr_expect_eq((double)box[0], item->bbox[0]);
        cr_expect_eq((double)box[1], item->bbox[1]);
        cr_expect_eq((double)box[2], item->bbox[2] + 1); /* SA-1B counts from pixel to pixel */
        cr_expect_eq((double)box[3], item->bbox[3] + 1);
    }
    annotations_free(&annotations);
}
