/* COCO and LVIS files: every reference mask of the samples, made by the COCO API, run for run. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/coco.h"
#include "data/json.h"
#include "data/polygon.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- reference masks ---- */

typedef struct Reference {
    int64_t image_id, area;
    char *counts;
    bool taken;
} Reference;

typedef struct References {
    Reference *items;
    int n, capacity;
} References;

static Status on_reference(void *user, const JsonEvent *event)
{
    References *all = user;
    if (strcmp(event->path, "[]") == 0 && event->kind == JSON_OBJECT) {
        all->items = mem_grow(all->items, &all->capacity, all->n + 1, sizeof *all->items);
        all->n++;
        return OK;
    }
    Reference *last = all->n > 0 ? &all->items[all->n - 1] : NULL;
    if (strcmp(event->path, "[].image_id") == 0) last->image_id = (int64_t)event->number;
    if (strcmp(event->path, "[].area") == 0) last->area = (int64_t)event->number;
    if (strcmp(event->path, "[].counts") == 0) last->counts = strndup(event->text, event->n_chars);
    return OK;
}

/* The next reference of an image: both files have them in one order. */
static Reference *next_of_image(References *all, int64_t image_id)
{
    for (int i = 0; i < all->n; i++)
        if (!all->items[i].taken && all->items[i].image_id == image_id) {
            all->items[i].taken = true;
            return &all->items[i];
        }
    return NULL;
}

static int64_t check_image(Coco *coco, int64_t image, References *all, Annotations *annotations)
{
    CocoScratch scratch = {0};
    int64_t id = coco_image_id(coco, image);
    must(coco_annotations(coco, image, &scratch, annotations));
    cr_expect_eq(annotations->n_items, coco_annotation_count(coco, image));
    for (int64_t i = 0; i < annotations->n_items; i++) {
        const Rle *mask = &annotations->items[i].mask;
        const Reference *wanted = next_of_image(all, id);
        cr_assert_not_null(wanted, "image %lld has too many masks", (long long)id);
        char *text = mem_alloc((size_t)mask->n * RLE_MAX_CHARS_PER_RUN + 1);
        rle_to_string(mask, text);
        cr_expect_str_eq(text, wanted->counts, "image %lld, mask %lld", (long long)id,
                         (long long)i);
        cr_expect_eq(rle_area(mask), wanted->area);
        free(text);
    }
    coco_scratch_free(&scratch);
    return annotations->n_items;
}

static void check_set(const char *set, const char *reference, int64_t n_wanted)
{
    char path[256];
    Coco *coco = NULL;
    References all = {0};
    Annotations annotations = {0};
    SKIP_WITHOUT(set, path);
    must(coco_open(path, "images", &coco));
    SKIP_WITHOUT(reference, path);
    must(json_read(path, on_reference, &all));
    int64_t n = 0;
    for (int64_t image = 0; image < coco_size(coco); image++)
        n += check_image(coco, image, &all, &annotations);
    cr_expect_eq(n, n_wanted, "%lld masks", (long long)n);
    cr_expect_eq(all.n, n_wanted, "%d references", all.n);
    for (int i = 0; i < all.n; i++) free(all.items[i].counts);
    free(all.items);
    annotations_free(&annotations);
    coco_close(coco);
}

#define COCO "data/coco/"

Test(coco, masks_of_train2017)
{
    check_set(COCO "mini/annotations/instances_train2017.json",
              COCO "mini/annotations/reference_masks_train2017.json", 739);
}

Test(coco, masks_of_val2017)
{
    check_set(COCO "mini/annotations/instances_val2017.json",
              COCO "mini/annotations/reference_masks_val2017.json", 624);
}

Test(coco, masks_of_val2014)
{
    check_set(COCO "val2014_100/instances_val2014_100.json",
              COCO "val2014_100/reference_masks.json", 839);
}

Test(coco, masks_of_lvis)
{
    check_set(COCO "lvis_val_100/lvis_val_100.json", COCO "lvis_val_100/reference_masks.json", 977);
}

/* ---- polygons ---- */

static void expect_runs(const Polygon *polygons, int64_t n, const uint32_t *wanted,
                        int64_t n_wanted)
{
    PolygonScratch scratch = {0};
    Rle rle;
    must(polygons_to_rle(&scratch, polygons, n, 4, 5, &rle));
    must(rle_check(&rle));
    cr_assert_eq(rle.n, n_wanted, "%d runs", (int)rle.n);
    cr_expect_arr_eq(rle.counts, wanted, (size_t)n_wanted * sizeof *wanted);
    polygon_scratch_free(&scratch);
}

Test(polygon, unions_and_cuts)
{
    const double square[] = {1, 1, 3, 1, 3, 3, 1, 3}, beside[] = {3, 1, 4, 1, 4, 3, 3, 3};
    const double larger[] = {-9, -9, 99, -9, 99, 99, -9, 99};
    const Polygon one = {square, 4}, two[] = {{square, 4}, {beside, 4}}, all = {larger, 4};
    const Polygon twice[] = {{square, 4}, {square, 4}}, none = {square, 0};
    expect_runs(&one, 1, (uint32_t[]){5, 2, 2, 2, 9}, 5);
    expect_runs(two, 2, (uint32_t[]){5, 2, 2, 2, 2, 2, 5}, 7);
    expect_runs(twice, 2, (uint32_t[]){5, 2, 2, 2, 9}, 5);
    expect_runs(&all, 1, (uint32_t[]){0, 20}, 2);
    expect_runs(&none, 1, (uint32_t[]){20}, 1);
    expect_runs(NULL, 0, (uint32_t[]){20}, 1);
}

Test(polygon, corners_beyond_reason_are_refused)
{
    const double far[] = {0, 0, 1e9, 0, 0, 1e9};
    PolygonScratch scratch = {0};
    Rle rle;
    cr_expect_eq(polygons_to_rle(&scratch, &(Polygon){far, 3}, 1, 4, 5, &rle), E_FORMAT);
    cr_expect(strstr(status_message(), "1e+09"), "%s", status_message());
    polygon_scratch_free(&scratch);
}

/* ---- files ---- */

static Status open_text(const char *text, Coco **coco)
{
    char folder[256], path[300];
    test_folder("coco", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/instances.json", folder);
    must(file_replace(&file_ops_system, path, text, strlen(text)));
    return coco_open(path, "root", coco);
}

#define ANNOTATION "\"image_id\": 7, \"area\": 4, \"bbox\": [0, 0, 1, 1]"
#define IMAGE "{\"id\": 7, \"height\": 4, \"width\": 5, \"file_name\": \"a.jpg\"}"
#define FILE_WITH(images, annotation) \
    "{\"annotations\": [{" annotation "}], \"images\": [" images "]}"

Test(coco, images_may_follow_and_be_named_by_url)
{
    Coco *coco = NULL;
    CocoScratch scratch = {0};
    Annotations annotations = {0};
    must(open_text(FILE_WITH(IMAGE ", {\"coco_url\": \"http://c.org/val2017/b.jpg\", \"id\": 3, "
                                   "\"height\": 4, \"width\": 5}",
                             "\"segmentation\": {\"counts\": [6, 2, 12]}, " ANNOTATION),
                   &coco));
    cr_assert_eq(coco_size(coco), 2);
    cr_expect_str_eq(coco_image_path(coco, 0), "root/a.jpg");
    cr_expect_str_eq(coco_image_path(coco, 1), "root/val2017/b.jpg");
    cr_expect_eq(coco_annotation_count(coco, 0), 1);
    cr_expect_eq(coco_annotation_count(coco, 1), 0);
    must(coco_annotations(coco, 0, &scratch, &annotations));
    cr_expect_eq(annotations.items[0].mask.counts[1], 2);
    cr_expect_eq(annotations.items[0].area, 4);
    coco_scratch_free(&scratch);
    annotations_free(&annotations);
    coco_close(coco);
}

Test(coco, damaged_files_are_refused)
{
    static const char *const wrong[][2] = {
        {FILE_WITH(IMAGE, "\"segmentation\": [[1, 2, 3]], " ANNOTATION), "odd number"},
        {FILE_WITH(IMAGE, "\"segmentation\": [1, 2], " ANNOTATION), "not a list"},
        {FILE_WITH(IMAGE, ANNOTATION), "missing"},
        {FILE_WITH(IMAGE, "\"segmentation\": [[1, 2]], \"image_id\": 7"), "missing"},
        {FILE_WITH("{\"id\": 7}", "\"segmentation\": [[1, 2]], " ANNOTATION), "lacks id"},
        {FILE_WITH("", "\"segmentation\": [[1, 2]], " ANNOTATION), "missing or empty"},
        {FILE_WITH(IMAGE, "\"segmentation\": [[1, 2]], \"area\": 1, \"bbox\": [0, 0, 1, 1], "
                          "\"image_id\": 8"),
         "no image of the file"},
        {FILE_WITH(
             IMAGE,
             "\"segmentation\": {\"counts\": [1, 2]}, \"segmentation\": [[1, 2]], " ANNOTATION),
         "two segmentations"},
        {"{\"annotations\": [[1]]}", "no object"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        Coco *coco = NULL;
        cr_expect_eq(open_text(wrong[i][0], &coco), E_FORMAT, "%s", wrong[i][0]);
        cr_expect(strstr(status_message(), wrong[i][1]), "%s: %s", wrong[i][1], status_message());
        coco_close(coco);
    }
}

Test(coco, runs_that_make_no_mask_are_refused)
{
    Coco *coco = NULL;
    CocoScratch scratch = {0};
    Annotations annotations = {0};
    must(open_text(FILE_WITH(IMAGE, "\"segmentation\": {\"counts\": [6, 2, 1]}, " ANNOTATION),
                   &coco));
    cr_expect_eq(coco_annotations(coco, 0, &scratch, &annotations), E_FORMAT);
    cr_expect(strstr(status_message(), "annotation 0"), "%s", status_message());
    coco_scratch_free(&scratch);
    annotations_free(&annotations);
    coco_close(coco);
}
