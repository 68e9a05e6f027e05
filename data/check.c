/* Findings, and the check of one sample. See check.h. */
#include "data/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/check_parts.h"

/* ---- findings ---- */

#define CHECK_ROW(name, broken, text) {broken, text},
static const struct {
    bool broken;
    const char *text;
} rows[] = {CHECK_KINDS(CHECK_ROW)};
#undef CHECK_ROW

bool check_is_broken(CheckKind kind) { return rows[kind].broken; }

const char *check_text(CheckKind kind) { return rows[kind].text; }

/* Keeps the first lines by their order. */
static void keep_line(CheckFindings *findings, int64_t n_lines, CheckLine line)
{
    int64_t at = findings->n_lines;
    if (!findings->lines) findings->lines = mem_alloc((size_t)(n_lines + 1) * sizeof(CheckLine));
    while (at > 0 && findings->lines[at - 1].order > line.order) at--;
    memmove(&findings->lines[at + 1], &findings->lines[at],
            (size_t)(findings->n_lines - at) * sizeof(CheckLine));
    findings->lines[at] = line;
    if (findings->n_lines < n_lines)
        findings->n_lines++;
    else
        free(findings->lines[n_lines].text);
}

void check_note(CheckReport *report, int64_t n_lines, CheckKind kind, int64_t order,
                const char *format, ...)
{
    char text[1200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&report->mutex);
    report->kinds[kind].n++;
    keep_line(&report->kinds[kind], n_lines, (CheckLine){order, mem_string(text)});
    pthread_mutex_unlock(&report->mutex);
}

void check_report_free(CheckReport *report)
{
    for (int kind = 0; kind < N_CHECK_KINDS; kind++) {
        CheckFindings *findings = &report->kinds[kind];
        for (int64_t i = 0; i < findings->n_lines; i++) free(findings->lines[i].text);
        free(findings->lines);
    }
    *report = (CheckReport){0};
}

/* ---- one mask ---- */

typedef struct Place { /* where a mask was found */
    CheckWorker *worker;
    const char *name; /* of its file, or of its image in a file of many */
    int64_t order, number;
} Place;

#define NOTE(place, kind, format, ...)                                                        \
    check_note((place)->worker->report, (place)->worker->n_lines, kind, (place)->order,       \
               "%.700s: mask %lld: " format, (place)->name, (long long)(place)->number, __VA_ARGS__)

/* What polygons enclose is not the pixels of their mask, and their corners are rounded in the
 * file: both are compared with the polygons themselves. */
static void check_outline(const Place *place, const Annotation *a)
{
    static const double rounding_px = 1, half_px = 0.5;
    const double *o = a->outline, *b = a->bbox;
    if (fabs(a->area - a->outline_area) > fmax(rounding_px, 0.01 * a->outline_area))
        NOTE(place, CHECK_AREA, "its outline encloses %.1f px, its area says %.1f",
             a->outline_area, a->area);
    if (fabs(o[0] - b[0]) > rounding_px || fabs(o[1] - b[1]) > rounding_px ||
        fabs(o[2] - b[0] - b[2]) > rounding_px || fabs(o[3] - b[1] - b[3]) > rounding_px)
        NOTE(place, CHECK_BOX, "its outline goes from (%.1f, %.1f) to (%.1f, %.1f), its box from "
             "(%.1f, %.1f) to (%.1f, %.1f)",
             o[0], o[1], o[2], o[3], b[0], b[1], b[0] + b[2], b[1] + b[3]);
    if (o[0] < -half_px || o[1] < -half_px || o[2] > (double)a->mask.width + half_px ||
        o[3] > (double)a->mask.height + half_px)
        NOTE(place, CHECK_OUTSIDE,
             "its outline goes from (%.1f, %.1f) to (%.1f, %.1f), the image is %lld x %lld px",
             o[0], o[1], o[2], o[3], (long long)a->mask.width, (long long)a->mask.height);
}

/* SA-1B's boxes are one smaller than COCO's, which are the tight ones. */
static void check_runs(const Place *place, const Annotation *a, int64_t area)
{
    int64_t tight[4];
    bool other = false;
    rle_bbox(&a->mask, tight);
    for (int i = 0; i < 4; i++) other = other || fabs(a->bbox[i] - (double)tight[i]) > 1;
    if (fabs(a->area - (double)area) > 0.5)
        NOTE(place, CHECK_AREA, "has %lld px, its area says %.1f", (long long)area, a->area);
    if (other)
        NOTE(place, CHECK_BOX,
             "lies in x %lld, y %lld, width %lld, height %lld; its box says %.1f, %.1f, %.1f, %.1f",
             (long long)tight[0], (long long)tight[1], (long long)tight[2], (long long)tight[3],
             a->bbox[0], a->bbox[1], a->bbox[2], a->bbox[3]);
}

/* Returns whether it can be trained on. */
static bool check_mask(const Place *place, const Annotation *a)
{
    static const double large = 0.9;
    int64_t area = rle_area(&a->mask);
    double n_px = (double)(a->mask.height * a->mask.width);
    if (a->outlined) check_outline(place, a);
    if (area == 0) {
        NOTE(place, CHECK_EMPTY, "has no pixel, its area says %.1f", a->area);
        return false;
    }
    if (!a->outlined) check_runs(place, a, area);
    if ((double)area > large * n_px)
        NOTE(place, CHECK_LARGE, "covers %.1f %% of its image", 100 * (double)area / n_px);
    return !a->crowd;
}

static void check_masks(CheckWorker *worker, const char *name, int64_t order)
{
    const Annotations *annotations = &worker->annotations;
    int64_t n_objects = 0, n_crowds = 0;
    for (int64_t i = 0; i < annotations->n_items; i++) {
        Place place = {worker, name, order, i};
        n_objects += check_mask(&place, &annotations->items[i]);
        n_crowds += annotations->items[i].crowd;
    }
    if (n_objects == 0)
        check_note(worker->report, worker->n_lines, CHECK_NO_OBJECT, order,
                   "%.700s: %lld masks, all of them crowds or empty", name,
                   (long long)annotations->n_items);
    pthread_mutex_lock(&worker->report->mutex);
    worker->report->n_with_masks++;
    worker->report->n_masks += annotations->n_items;
    worker->report->n_crowds += n_crowds;
    pthread_mutex_unlock(&worker->report->mutex);
}

/* ---- one sample ---- */

Status check_worker_open(CheckReport *report, int64_t n_lines, CheckWorker *out)
{
    *out = (CheckWorker){.report = report, .n_lines = n_lines};
    return jpeg_create(&out->decoder);
}

void check_worker_close(CheckWorker *worker)
{
    root_reader_free(&worker->reader);
    jpeg_destroy(worker->decoder);
    annotations_free(&worker->annotations);
}

static Status note_failure(CheckWorker *worker, CheckKind kind, int64_t order, const char *name)
{
    const char *message = status_message();
    bool named = strncmp(message, name, strlen(name)) == 0;
    check_note(worker->report, worker->n_lines, kind, order, "%.500s%s%.700s", named ? "" : name,
               named ? "" : ": ", message);
    return OK;
}

/* Decoded at an eighth of its size: every coefficient is still read. */
static Status check_image(CheckWorker *worker, const Root *root, int64_t index, int64_t order,
                          const char *name, JpegImage *image)
{
    RootReader *reader = &worker->reader;
    *image = (JpegImage){0};
    Status status = root->ops->read_image(root->self, index, reader);
    if (status == E_MEMORY) return status;
    if (status != OK) return note_failure(worker, CHECK_NO_IMAGE, order, name);
    status = jpeg_decode(worker->decoder, reader->name, reader->bytes, reader->n_bytes, 1, image);
    if (status == OK || status == E_MEMORY) return status;
    *image = (JpegImage){0};
    return note_failure(worker, CHECK_BAD_IMAGE, order, name);
}

static Status note_no_masks(CheckWorker *worker, const CheckRoot *root, int64_t order,
                            const char *name)
{
    if (root->wants_masks)
        check_note(worker->report, worker->n_lines, root->unmasked, order, "%.700s", name);
    return OK;
}

Status check_sample(CheckWorker *worker, const CheckRoot *root, int64_t index)
{
    const Root *r = &root->root;
    int64_t order = root->first + index;
    char name[ROOT_NAME_BYTES];
    JpegImage image;
    const Annotations *masks = &worker->annotations;
    r->ops->image_name(r->self, index, name);
    TRY(check_image(worker, r, index, order, name, &image));
    if (!r->ops->has_masks(r->self, index)) return note_no_masks(worker, root, order, name);
    Status status = r->ops->read_masks(r->self, index, &worker->reader, &worker->annotations);
    if (status == E_MEMORY) return status;
    if (status != OK) return note_failure(worker, CHECK_BAD_MASKS, order, name);
    if (image.full_width > 0 &&
        (image.full_width != masks->width || image.full_height != masks->height))
        check_note(worker->report, worker->n_lines, CHECK_OTHER_SIZE, order,
                   "%.700s: %lld x %lld px, its masks %lld x %lld", name,
                   (long long)image.full_width, (long long)image.full_height,
                   (long long)masks->width, (long long)masks->height);
    check_masks(worker, name, order);
    return OK;
}
