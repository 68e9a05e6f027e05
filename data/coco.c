/* Reader of COCO and LVIS instance files. See coco.h.
 *
 * Must hold: keys come in any order, so an annotation is complete only when its object ends, and
 * its image may be listed after it. Numbers of polygons and listed runs lie in one array,
 * compressed strings in another; annotations say where theirs begin.
 */
#include "data/coco.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/json.h"

typedef struct Image {
    int64_t id, height, width; /* px; -1: not seen */
    char *path;                /* NULL: not seen */
    bool has_file_name;
    int64_t first, n; /* its annotations, once they are sorted */
} Image;

typedef enum MaskKind { MASK_NONE, MASK_POLYGONS, MASK_LIST, MASK_TEXT } MaskKind;

typedef struct Item { /* an annotation */
    int64_t number;   /* in the file */
    int64_t image_id, image;
    double area, bbox[4];
    MaskKind kind;
    int64_t first, n; /* of the numbers, or of the characters */
    int64_t n_polygons;
    bool crowd;
    unsigned seen;
} Item;

enum { HAS_IMAGE = 1, HAS_AREA = 2, HAS_BBOX = 4 };

struct Coco {
    char *file, *folder;
    Image *images;
    Item *items;
    double *numbers; /* of a polygon: how many follow, then x and y in turn; of runs: the lengths */
    char *text;
    int64_t n_images, n_items, n_numbers, n_text;
    Buffer image_memory, item_memory, number_memory, text_memory;
    int64_t polygon_start; /* of the open polygon, in `numbers` */
};

/* ---- reading ---- */

static Status fail_item(const Coco *coco, const Item *item, const char *what)
{
    return status_fail(E_FORMAT, "%s: annotation %lld: %s", coco->file, (long long)item->number,
                       what);
}

static Status add_number(Coco *coco, double value)
{
    TRY(buffer_grow(&coco->number_memory, (size_t)(coco->n_numbers + 1) * sizeof(double)));
    coco->numbers = coco->number_memory.data;
    coco->numbers[coco->n_numbers++] = value;
    return OK;
}

static Status add_text(Coco *coco, const JsonEvent *event)
{
    TRY(buffer_grow(&coco->text_memory, (size_t)coco->n_text + event->n_chars + 1));
    coco->text = coco->text_memory.data;
    memcpy(coco->text + coco->n_text, event->text, event->n_chars);
    coco->n_text += (int64_t)event->n_chars;
    return OK;
}

static Status begin_image(Coco *coco)
{
    TRY(buffer_grow(&coco->image_memory, (size_t)(coco->n_images + 1) * sizeof(Image)));
    coco->images = coco->image_memory.data;
    coco->images[coco->n_images++] = (Image){.id = -1, .height = -1, .width = -1};
    return OK;
}

/* The last `n_parts` parts of a URL or path. */
static const char *last_parts(const char *text, int n_parts)
{
    const char *end = text + strlen(text);
    while (end > text && (end[-1] != '/' || --n_parts > 0)) end--;
    return end;
}

static Status take_name(Coco *coco, Image *image, const JsonEvent *event, bool is_file_name)
{
    if (image->has_file_name && !is_file_name) return OK;
    char *name = strndup(event->text, event->n_chars);
    if (!name) return status_fail(E_MEMORY, "out of memory: list of images");
    free(image->path);
    image->path = file_join(coco->folder, is_file_name ? name : last_parts(name, 2));
    image->has_file_name = is_file_name;
    free(name);
    return OK;
}

static Status end_image(const Coco *coco, const Image *image)
{
    if (image->id >= 0 && image->height > 0 && image->width > 0 && image->path &&
        image->height <= UINT32_MAX / image->width)
        return OK;
    return status_fail(E_FORMAT,
                       "%s: image %lld of the list lacks id, height, width, or both "
                       "file_name and coco_url, or is too large",
                       coco->file, (long long)(coco->n_images - 1));
}

/* -1, which no id or size is, for what does not fit. */
static int64_t whole_number(double number)
{
    static const double limit = 9007199254740992.0; /* 2^53 */
    return number >= 0 && number <= limit ? (int64_t)number : -1;
}

static Status on_image(Coco *coco, const char *key, const JsonEvent *event)
{
    if (*key == '\0' && event->kind == JSON_OBJECT) return begin_image(coco);
    Image *image = &coco->images[coco->n_images - 1];
    if (*key == '\0' && event->kind == JSON_END) return end_image(coco, image);
    if (strcmp(key, ".file_name") == 0 && event->kind == JSON_STRING)
        return take_name(coco, image, event, true);
    if (strcmp(key, ".coco_url") == 0 && event->kind == JSON_STRING)
        return take_name(coco, image, event, false);
    if (event->kind != JSON_NUMBER) return OK;
    if (strcmp(key, ".id") == 0) image->id = whole_number(event->number);
    if (strcmp(key, ".height") == 0) image->height = whole_number(event->number);
    if (strcmp(key, ".width") == 0) image->width = whole_number(event->number);
    return OK;
}

static Status begin_item(Coco *coco)
{
    TRY(buffer_grow(&coco->item_memory, (size_t)(coco->n_items + 1) * sizeof(Item)));
    coco->items = coco->item_memory.data;
    coco->items[coco->n_items] = (Item){.number = coco->n_items, .first = coco->n_numbers};
    coco->n_items++;
    return OK;
}

static Status end_item(const Coco *coco, const Item *item)
{
    if (item->seen != (HAS_IMAGE | HAS_AREA | HAS_BBOX) || item->kind == MASK_NONE)
        return fail_item(coco, item,
                         "one of image_id, area, bbox, segmentation is missing, or "
                         "the segmentation is neither polygons nor run lengths");
    return OK;
}

static Status set_kind(const Coco *coco, Item *item, MaskKind kind)
{
    if (item->kind != MASK_NONE && item->kind != kind)
        return fail_item(coco, item, "two segmentations");
    item->kind = kind;
    return OK;
}

/* segmentation[]: the polygon of the event begins or ends. */
static Status on_polygon(Coco *coco, Item *item, const JsonEvent *event)
{
    TRY(set_kind(coco, item, MASK_POLYGONS));
    if (event->kind == JSON_ARRAY) {
        coco->polygon_start = coco->n_numbers;
        item->n_polygons++;
        return add_number(coco, 0);
    }
    if (event->kind != JSON_END) return fail_item(coco, item, "a polygon is not a list");
    int64_t n = coco->n_numbers - coco->polygon_start - 1;
    if (n % 2 != 0) return fail_item(coco, item, "a polygon has an odd number of coordinates");
    coco->numbers[coco->polygon_start] = (double)n;
    return OK;
}

static Status on_segmentation(Coco *coco, Item *item, const char *key, const JsonEvent *event)
{
    if (strcmp(key, "[]") == 0) return on_polygon(coco, item, event);
    if (strcmp(key, ".counts") == 0 && event->kind == JSON_STRING) {
        TRY(set_kind(coco, item, MASK_TEXT));
        item->first = coco->n_text;
        item->n = (int64_t)event->n_chars;
        return add_text(coco, event);
    }
    bool is_run = strcmp(key, ".counts[]") == 0;
    if (!is_run && strcmp(key, "[][]") != 0) return OK;
    if (event->kind != JSON_NUMBER)
        return fail_item(coco, item, "the segmentation holds something that is no number");
    if (is_run) TRY(set_kind(coco, item, MASK_LIST));
    item->n += is_run;
    return add_number(coco, event->number);
}

static Status on_item(Coco *coco, const char *key, const JsonEvent *event)
{
    static const char segmentation[] = ".segmentation";
    if (*key == '\0' && event->kind == JSON_OBJECT) return begin_item(coco);
    Item *item = &coco->items[coco->n_items - 1];
    if (*key == '\0' && event->kind == JSON_END) return end_item(coco, item);
    if (strncmp(key, segmentation, strlen(segmentation)) == 0)
        return on_segmentation(coco, item, key + strlen(segmentation), event);
    if (strcmp(key, ".iscrowd") == 0) item->crowd = event->number != 0;
    if (event->kind != JSON_NUMBER) return OK;
    if (strcmp(key, ".image_id") == 0) {
        item->image_id = whole_number(event->number);
        item->seen |= HAS_IMAGE;
    } else if (strcmp(key, ".area") == 0) {
        item->area = event->number;
        item->seen |= HAS_AREA;
    } else if (strcmp(key, ".bbox[]") == 0 && event->index < 4) {
        item->bbox[event->index] = event->number;
        if (event->index == 3) item->seen |= HAS_BBOX;
    }
    return OK;
}

static Status on_event(void *user, const JsonEvent *event)
{
    static const char images[] = "images[]", items[] = "annotations[]";
    Coco *coco = user;
    bool is_image = strncmp(event->path, images, strlen(images)) == 0;
    bool is_item = strncmp(event->path, items, strlen(items)) == 0;
    if (!is_image && !is_item) return OK;
    const char *key = event->path + (is_image ? strlen(images) : strlen(items));
    bool is_top = *key == '\0';
    if (is_top && event->kind != JSON_OBJECT && event->kind != JSON_END)
        return status_fail(E_FORMAT, "%s: %s holds something that is no object", coco->file,
                           is_image ? "images" : "annotations");
    return is_image ? on_image(coco, key, event) : on_item(coco, key, event);
}

/* ---- which annotation belongs to which image ---- */

typedef struct IdIndex {
    int64_t id, index;
} IdIndex;

static int by_id(const void *a, const void *b)
{
    int64_t x = ((const IdIndex *)a)->id, y = ((const IdIndex *)b)->id;
    return (x > y) - (x < y);
}

static int by_image(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    if (x->image != y->image) return (x->image > y->image) - (x->image < y->image);
    return (x->number > y->number) - (x->number < y->number);
}

static Status find_images(Coco *coco, const IdIndex *ids)
{
    for (int64_t i = 0; i < coco->n_items; i++) {
        Item *item = &coco->items[i];
        IdIndex wanted = {.id = item->image_id};
        const IdIndex *found = bsearch(&wanted, ids, (size_t)coco->n_images, sizeof *ids, by_id);
        if (!found) return fail_item(coco, item, "its image_id is no image of the file");
        item->image = found->index;
        coco->images[item->image].n++;
    }
    return OK;
}

static Status sort_items(Coco *coco)
{
    IdIndex *ids = calloc((size_t)coco->n_images + 1, sizeof *ids);
    if (!ids) return status_fail(E_MEMORY, "out of memory: list of images");
    for (int64_t i = 0; i < coco->n_images; i++) ids[i] = (IdIndex){coco->images[i].id, i};
    qsort(ids, (size_t)coco->n_images, sizeof *ids, by_id);
    Status status = find_images(coco, ids);
    free(ids);
    TRY(status);
    if (coco->n_items > 0) qsort(coco->items, (size_t)coco->n_items, sizeof(Item), by_image);
    for (int64_t i = 1; i < coco->n_images; i++)
        coco->images[i].first = coco->images[i - 1].first + coco->images[i - 1].n;
    return OK;
}

static Status read_file(Coco *coco)
{
    if (!coco->file || !coco->folder) return status_fail(E_MEMORY, "out of memory: file names");
    TRY(json_read(coco->file, on_event, coco));
    if (coco->n_images == 0)
        return status_fail(E_FORMAT, "%s: the list images is missing or empty", coco->file);
    return sort_items(coco);
}

Status coco_open(const char *path, const char *images, Coco **out)
{
    Coco *coco = calloc(1, sizeof *coco);
    if (!coco) return status_fail(E_MEMORY, "out of memory: list of images");
    coco->file = strdup(path);
    coco->folder = strdup(images);
    Status status = read_file(coco);
    if (status == OK)
        *out = coco;
    else
        coco_close(coco);
    return status;
}

void coco_close(Coco *coco)
{
    if (!coco) return;
    for (int64_t i = 0; i < coco->n_images; i++) free(coco->images[i].path);
    Buffer *buffers[] = {&coco->image_memory, &coco->item_memory, &coco->number_memory,
                         &coco->text_memory};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) buffer_free(buffers[i]);
    free(coco->file);
    free(coco->folder);
    free(coco);
}

int64_t coco_size(const Coco *coco) { return coco->n_images; }

int64_t coco_image_id(const Coco *coco, int64_t image) { return coco->images[image].id; }

int64_t coco_annotation_count(const Coco *coco, int64_t image) { return coco->images[image].n; }

bool coco_has_object(const Coco *coco, int64_t image)
{
    const Item *item = coco->items + coco->images[image].first;
    for (int64_t i = 0; i < coco->images[image].n; i++)
        if (!item[i].crowd) return true;
    return false;
}

int64_t coco_image_px(const Coco *coco, int64_t image)
{
    return coco->images[image].height * coco->images[image].width;
}

const char *coco_image_path(const Coco *coco, int64_t image) { return coco->images[image].path; }

/* ---- masks ---- */

/* The masks of an image that are being made; runs are pointed to at the end, since they move. */
typedef struct MaskWriter {
    const Coco *coco;
    CocoScratch *scratch;
    const Image *image;
    Annotations *out;
    int64_t n_counts;
} MaskWriter;

static Status reserve_counts(MaskWriter *writer, int64_t more, uint32_t **place)
{
    Buffer *memory = &writer->out->count_memory;
    TRY(buffer_grow(memory, (size_t)(writer->n_counts + more + 1) * sizeof(uint32_t)));
    *place = (uint32_t *)memory->data + writer->n_counts;
    return OK;
}

static Status polygons_mask(MaskWriter *writer, const Item *item, Annotation *annotation)
{
    CocoScratch *scratch = writer->scratch;
    TRY(buffer_reserve(&scratch->polygons, (size_t)(item->n_polygons + 1) * sizeof(Polygon)));
    Polygon *polygons = scratch->polygons.data;
    const double *number = writer->coco->numbers + item->first;
    for (int64_t i = 0; i < item->n_polygons; i++) {
        polygons[i] = (Polygon){.xy = number + 1, .n = (int64_t)*number / 2};
        number += 1 + (int64_t)*number;
    }
    annotation->outlined = true;
    annotation->outline_area = polygons_area(polygons, item->n_polygons);
    polygons_extent(polygons, item->n_polygons, annotation->outline);
    Rle made, *mask = &annotation->mask;
    uint32_t *place;
    TRY(polygons_to_rle(&scratch->polygon, polygons, item->n_polygons, mask->height, mask->width,
                        &made));
    TRY(reserve_counts(writer, made.n, &place));
    memcpy(place, made.counts, (size_t)made.n * sizeof *place);
    mask->n = made.n;
    return OK;
}

static Status listed_mask(MaskWriter *writer, const Item *item, Rle *mask)
{
    uint32_t *place;
    TRY(reserve_counts(writer, item->n, &place));
    for (int64_t i = 0; i < item->n; i++) {
        double run = writer->coco->numbers[item->first + i];
        if (!(run >= 0 && run <= UINT32_MAX && run == (double)(uint32_t)run))
            return status_fail(E_FORMAT, "%g is no run length", run);
        place[i] = (uint32_t)run;
    }
    mask->n = item->n;
    return OK;
}

static Status text_mask(MaskWriter *writer, const Item *item, Rle *mask)
{
    uint32_t *place;
    TRY(reserve_counts(writer, item->n, &place));
    return rle_parse(writer->coco->text + item->first, (size_t)item->n, place, &mask->n);
}

static Status make_mask(MaskWriter *writer, const Item *item, Annotation *annotation)
{
    Rle *mask = &annotation->mask;
    *mask = (Rle){.height = writer->image->height, .width = writer->image->width};
    if (item->kind == MASK_POLYGONS) TRY(polygons_mask(writer, item, annotation));
    if (item->kind == MASK_LIST) TRY(listed_mask(writer, item, mask));
    if (item->kind == MASK_TEXT) TRY(text_mask(writer, item, mask));
    mask->counts = (uint32_t *)writer->out->count_memory.data + writer->n_counts;
    TRY(rle_check(mask));
    writer->n_counts += mask->n;
    return OK;
}

static Status add_mask(MaskWriter *writer, const Item *item)
{
    Annotation *annotation = &writer->out->items[writer->out->n_items++];
    *annotation = (Annotation){
        .area = item->area, .predicted_iou = 1, .stability = 1, .crowd = item->crowd};
    memcpy(annotation->bbox, item->bbox, sizeof annotation->bbox);
    Status status = make_mask(writer, item, annotation);
    if (status != E_FORMAT) return status;
    char what[256]; /* the message so far does not know where it is */
    snprintf(what, sizeof what, "%s", status_message());
    return fail_item(writer->coco, item, what);
}

void coco_scratch_free(CocoScratch *scratch)
{
    polygon_scratch_free(&scratch->polygon);
    buffer_free(&scratch->polygons);
}

Status coco_annotations(const Coco *coco, int64_t image, CocoScratch *scratch, Annotations *out)
{
    MaskWriter writer = {
        .coco = coco, .scratch = scratch, .image = &coco->images[image], .out = out};
    TRY(buffer_reserve(&out->item_memory, (size_t)(writer.image->n + 1) * sizeof(Annotation)));
    out->items = out->item_memory.data;
    out->n_items = 0;
    out->height = writer.image->height;
    out->width = writer.image->width;
    for (int64_t i = 0; i < writer.image->n; i++)
        TRY(add_mask(&writer, &coco->items[writer.image->first + i]));
    uint32_t *counts = out->count_memory.data;
    for (int64_t i = 0; i < out->n_items; counts += out->items[i++].mask.n)
        out->items[i].mask.counts = counts;
    return OK;
}
