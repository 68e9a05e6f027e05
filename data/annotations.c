/* Reader of SA-1B annotation files. See annotations.h; called by the loader, once per sample.
 *
 * Must hold: keys may come in any order, so a mask is decoded when its annotation ends; a file is
 * trusted only as far as it was checked here.
 */
#include "data/annotations.h"

#include <stdio.h>
#include <string.h>

#include "data/json.h"

/* Which keys of the open annotation were seen; one bit per row of `keys`. */
enum { HAS_BBOX = 1, HAS_AREA = 2, HAS_SIZE = 4, HAS_COUNTS = 8 };

static const struct {
    unsigned bit;
    const char *name;
} keys[] = {
    {HAS_BBOX, "bbox"},
    {HAS_AREA, "area"},
    {HAS_SIZE, "segmentation.size"},
    {HAS_COUNTS, "segmentation.counts"},
};

typedef struct AnnotationReader {
    const char *file;
    Annotations *out;
    int64_t image_height, image_width; /* of the file's image record; 0: not seen */
    bool has_annotations;
    unsigned seen;
    int64_t bbox_length, size_length;
    size_t counts_used; /* run lengths so far, of all annotations */
    int64_t n_counts;   /* of the open annotation */
    size_t text_length; /* compressed string of the open annotation; 0: its counts are a list */
} AnnotationReader;

static Annotation *open_item(const AnnotationReader *reader)
{
    return &reader->out->items[reader->out->n_items];
}

static Status fail_item(const AnnotationReader *reader, const char *what)
{
    return status_fail(E_FORMAT, "%s: annotation %lld: %s", reader->file,
                       (long long)reader->out->n_items, what);
}

static Status begin_item(AnnotationReader *reader)
{
    Annotations *out = reader->out;
    TRY(buffer_grow(&out->item_memory, (size_t)(out->n_items + 1) * sizeof(Annotation)));
    out->items = out->item_memory.data;
    *open_item(reader) = (Annotation){.predicted_iou = 1, .stability = 1};
    reader->seen = 0;
    reader->bbox_length = reader->size_length = reader->n_counts = 0;
    reader->text_length = 0;
    return OK;
}

static Status take_whole_number(const AnnotationReader *reader, const JsonEvent *event,
                                double limit, const char *what, int64_t *out)
{
    if (event->kind != JSON_NUMBER || !(event->number >= 0 && event->number <= limit) ||
        event->number != (double)(int64_t)event->number)
        return fail_item(reader, what);
    *out = (int64_t)event->number;
    return OK;
}

static Status take_number(const AnnotationReader *reader, const JsonEvent *event, const char *what,
                          double *out)
{
    if (event->kind != JSON_NUMBER) return fail_item(reader, what);
    *out = event->number;
    return OK;
}

static Status take_bbox(AnnotationReader *reader, const JsonEvent *event)
{
    static const char wrong[] = "bbox is not a list of four numbers";
    if (event->index >= 4) return fail_item(reader, wrong);
    TRY(take_number(reader, event, wrong, &open_item(reader)->bbox[event->index]));
    reader->bbox_length = event->index + 1;
    reader->seen |= HAS_BBOX;
    return OK;
}

static Status take_size(AnnotationReader *reader, const JsonEvent *event)
{
    static const char wrong[] =
        "segmentation.size is not a list of two whole numbers, height and width";
    Rle *mask = &open_item(reader)->mask;
    if (event->index >= 2) return fail_item(reader, wrong);
    TRY(take_whole_number(reader, event, UINT32_MAX, wrong,
                          event->index == 0 ? &mask->height : &mask->width));
    reader->size_length = event->index + 1;
    reader->seen |= HAS_SIZE;
    return OK;
}

static Status take_string_counts(AnnotationReader *reader, const JsonEvent *event)
{
    TRY(buffer_grow(&reader->out->text_memory, event->n_chars + 1));
    memcpy(reader->out->text_memory.data, event->text, event->n_chars);
    reader->text_length = event->n_chars;
    reader->n_counts = 0;
    reader->seen |= HAS_COUNTS;
    return OK;
}

static Status reserve_counts(AnnotationReader *reader, size_t more)
{
    size_t wanted = reader->counts_used + (size_t)reader->n_counts + more;
    return buffer_grow(&reader->out->count_memory, wanted * sizeof(uint32_t));
}

static Status take_listed_count(AnnotationReader *reader, const JsonEvent *event)
{
    int64_t run = 0;
    TRY(take_whole_number(reader, event, UINT32_MAX,
                          "segmentation.counts holds something that is no run "
                          "length (a whole number of 0..2^32-1)",
                          &run));
    TRY(reserve_counts(reader, 1));
    uint32_t *counts = reader->out->count_memory.data;
    counts[reader->counts_used + (size_t)reader->n_counts++] = (uint32_t)run;
    reader->seen |= HAS_COUNTS;
    return OK;
}

static Status check_item_keys(const AnnotationReader *reader)
{
    char what[96];
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (reader->seen & keys[i].bit) continue;
        snprintf(what, sizeof what, "the key %s is missing or empty", keys[i].name);
        return fail_item(reader, what);
    }
    if (reader->bbox_length != 4) return fail_item(reader, "bbox has fewer than four numbers");
    if (reader->size_length != 2)
        return fail_item(reader, "segmentation.size has one number, wanted two");
    return OK;
}

static Status check_item_box(const AnnotationReader *reader)
{
    const Annotation *item = open_item(reader);
    const double *box = item->bbox;
    bool inside = box[0] >= 0 && box[1] >= 0 && box[2] >= 0 && box[3] >= 0 &&
                  box[0] + box[2] <= (double)item->mask.width &&
                  box[1] + box[3] <= (double)item->mask.height;
    if (inside) return OK;
    char what[192];
    snprintf(what, sizeof what,
             "bbox (x %g, y %g, width %g, height %g) leaves the image of %lld x %lld px", box[0],
             box[1], box[2], box[3], (long long)item->mask.width, (long long)item->mask.height);
    return fail_item(reader, what);
}

/* Passes on a message of rle.c with the file and the annotation in front of it. */
static Status locate(const AnnotationReader *reader, Status status)
{
    if (status == OK) return OK;
    char what[256];
    snprintf(what, sizeof what, "%s", status_message());
    return fail_item(reader, what);
}

static Status end_item(AnnotationReader *reader)
{
    TRY(check_item_keys(reader));
    TRY(reserve_counts(reader, 1)); /* memory to point to, if there are no runs */
    Rle *mask = &open_item(reader)->mask;
    if (reader->text_length > 0) {
        TRY(reserve_counts(reader, reader->text_length));
        uint32_t *counts = (uint32_t *)reader->out->count_memory.data + reader->counts_used;
        TRY(locate(reader, rle_parse(reader->out->text_memory.data, reader->text_length, counts,
                                     &reader->n_counts)));
    }
    mask->n = reader->n_counts;
    mask->counts = (uint32_t *)reader->out->count_memory.data + reader->counts_used;
    TRY(locate(reader, rle_check(mask)));
    TRY(check_item_box(reader));
    reader->counts_used += (size_t)mask->n;
    reader->out->n_items++;
    return OK;
}

static bool inside(const char *path, const char *prefix)
{
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

static Status on_image_event(AnnotationReader *reader, const JsonEvent *event)
{
    bool height = strcmp(event->path, "image.height") == 0;
    if (!height && strcmp(event->path, "image.width") != 0) return OK;
    if (event->kind != JSON_NUMBER || !(event->number >= 1 && event->number <= UINT32_MAX))
        return status_fail(E_FORMAT, "%s: %s is not a size in pixels", reader->file, event->path);
    *(height ? &reader->image_height : &reader->image_width) = (int64_t)event->number;
    return OK;
}

static Status on_item_event(AnnotationReader *reader, const JsonEvent *event)
{
    const char *key = event->path + strlen("annotations[]");
    if (*key == '\0') {
        if (event->kind == JSON_OBJECT) return begin_item(reader);
        if (event->kind == JSON_END) return end_item(reader);
        return fail_item(reader, "not an object");
    }
    if (*key != '.') return fail_item(reader, "not an object");
    key++;
    if (strcmp(key, "bbox[]") == 0) return take_bbox(reader, event);
    if (strcmp(key, "segmentation.size[]") == 0) return take_size(reader, event);
    if (strcmp(key, "segmentation.counts[]") == 0) return take_listed_count(reader, event);
    if (strcmp(key, "segmentation.counts") == 0 && event->kind == JSON_STRING)
        return take_string_counts(reader, event);
    if (strcmp(key, "predicted_iou") == 0)
        return take_number(reader, event, "predicted_iou is not a number",
                           &open_item(reader)->predicted_iou);
    if (strcmp(key, "stability_score") == 0)
        return take_number(reader, event, "stability_score is not a number",
                           &open_item(reader)->stability);
    if (strcmp(key, "area") != 0) return OK;
    reader->seen |= HAS_AREA;
    return take_number(reader, event, "area is not a number", &open_item(reader)->area);
}

static Status on_event(void *user, const JsonEvent *event)
{
    AnnotationReader *reader = user;
    if (inside(event->path, "image.")) return on_image_event(reader, event);
    if (inside(event->path, "annotations[]")) return on_item_event(reader, event);
    if (strcmp(event->path, "annotations") != 0) return OK;
    if (event->kind == JSON_ARRAY && reader->has_annotations)
        return status_fail(E_FORMAT, "%s: the key annotations appears twice", reader->file);
    if (event->kind != JSON_ARRAY && event->kind != JSON_END)
        return status_fail(E_FORMAT, "%s: annotations is not a list", reader->file);
    reader->has_annotations = true;
    return OK;
}

/* The count memory may have moved while it grew: sets the pointers for good. */
static void place_counts(Annotations *annotations)
{
    uint32_t *counts = annotations->count_memory.data;
    for (int64_t i = 0; i < annotations->n_items; i++) {
        annotations->items[i].mask.counts = counts;
        counts += annotations->items[i].mask.n;
    }
}

static Status check_sizes(const AnnotationReader *reader)
{
    const Annotations *out = reader->out;
    for (int64_t i = 0; i < out->n_items; i++) {
        const Rle *mask = &out->items[i].mask;
        if (mask->height == out->height && mask->width == out->width) continue;
        return status_fail(E_FORMAT,
                           "%s: annotation %lld: the mask is %lld x %lld px (height x width), the "
                           "image %lld x %lld",
                           reader->file, (long long)i, (long long)mask->height,
                           (long long)mask->width, (long long)out->height, (long long)out->width);
    }
    return OK;
}

static Status finish(const AnnotationReader *reader)
{
    Annotations *annotations = reader->out;
    if (!reader->has_annotations)
        return status_fail(E_FORMAT, "%s: the key annotations is missing", reader->file);
    if (annotations->n_items == 0)
        return status_fail(E_FORMAT, "%s: no annotation; a sample needs at least one mask",
                           reader->file);
    bool sized = reader->image_height > 0 && reader->image_width > 0;
    annotations->height = sized ? reader->image_height : annotations->items[0].mask.height;
    annotations->width = sized ? reader->image_width : annotations->items[0].mask.width;
    place_counts(annotations);
    return check_sizes(reader);
}

Status annotations_read(const char *path, Annotations *annotations)
{
    AnnotationReader reader = {.file = path, .out = annotations};
    annotations->n_items = 0;
    TRY(json_read(path, on_event, &reader));
    return finish(&reader);
}

Status annotations_parse(const char *name, const void *bytes, size_t n_bytes,
                         Annotations *annotations)
{
    AnnotationReader reader = {.file = name, .out = annotations};
    annotations->n_items = 0;
    TRY(json_parse(name, bytes, n_bytes, on_event, &reader));
    return finish(&reader);
}

void annotations_free(Annotations *annotations)
{
    buffer_free(&annotations->item_memory);
    buffer_free(&annotations->count_memory);
    buffer_free(&annotations->text_memory);
    *annotations = (Annotations){0};
}

static bool passes(const MaskFilter *filter, const Annotation *item)
{
    double n_px = (double)(item->mask.height * item->mask.width);
    if (filter->no_crowds && item->crowd) return false;
    if (item->predicted_iou < filter->min_predicted_iou) return false;
    if (item->stability < filter->min_stability) return false;
    if (filter->max_area_fraction == 0 && filter->min_area_px == 0) return true;
    double area = (double)rle_area(&item->mask); /* COCO's own field is not the pixel count */
    if (area < filter->min_area_px) return false;
    return filter->max_area_fraction == 0 || area <= filter->max_area_fraction * n_px;
}

void annotations_filter(const MaskFilter *filter, Annotations *annotations)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < annotations->n_items; i++)
        if (passes(filter, &annotations->items[i]))
            annotations->items[kept++] = annotations->items[i];
    annotations->n_items = kept;
}
