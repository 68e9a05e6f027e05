/* The log of a run, for a report. See report.h.
 *
 * One record of JSON per line (train/log.h). A record that cannot be read is an error, not a gap:
 * a curve that silently lacks steps says something false.
 */
#include "train/report.h"

#include <yajl/yajl_tree.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

typedef struct Place { /* for messages */
    const char *path;
    int line;
} Place;

/* A number, or NaN for null. */
static Status read_number(yajl_val record, const char *key, Place place, double *out)
{
    const char *path[] = {key, NULL};
    yajl_val value = yajl_tree_get(record, path, yajl_t_any);
    *out = NAN;
    if (YAJL_IS_NUMBER(value))
        *out = YAJL_GET_DOUBLE(value);
    else if (!YAJL_IS_NULL(value))
        return status_fail(E_FORMAT,
                           "%s:%d: the record has no number '%s'; it is not of a "
                           "training run",
                           place.path, place.line, key);
    return OK;
}

static Status read_number_of_step(yajl_val record, Place place, int64_t *out)
{
    double step;
    TRY(read_number(record, "step", place, &step));
    if (!(step >= 0 && step < 1e15 && step == floor(step)))
        return status_fail(E_FORMAT, "%s:%d: step %g is no step", place.path, place.line, step);
    *out = (int64_t)step;
    return OK;
}

static Status read_step(yajl_val record, Place place, ReportLog *log)
{
    struct ReportStep step;
    TRY(read_number_of_step(record, place, &step.step));
    TRY(read_number(record, "loss", place, &step.loss));
    TRY(read_number(record, "lr", place, &step.lr));
    TRY(read_number(record, "step_ms", place, &step.step_ms));
    TRY(read_number(record, "data_wait_ms", place, &step.data_wait_ms));
    TRY(read_number(record, "img_per_s", place, &step.img_per_s));
    TRY(read_number(record, "peak_bytes", place, &step.peak_bytes));
    while (log->n > 0 && log->steps[log->n - 1].step >= step.step) log->n--;
    log->steps = mem_grow(log->steps, &log->capacity, log->n + 1, sizeof *log->steps);
    log->steps[log->n++] = step;
    return OK;
}

static Status read_judged(yajl_val record, Place place, ReportLog *log)
{
    struct ReportJudged judged;
    TRY(read_number_of_step(record, place, &judged.step));
    TRY(read_number(record, "val_miou", place, &judged.miou));
    TRY(read_number(record, "val_boundary_iou", place, &judged.boundary_iou));
    while (log->n_judged > 0 && log->judged[log->n_judged - 1].step >= judged.step) log->n_judged--;
    log->judged = mem_grow(log->judged, &log->judged_capacity, log->n_judged + 1,
                           sizeof *log->judged);
    log->judged[log->n_judged++] = judged;
    return OK;
}

static bool is_judged(yajl_val record)
{
    return yajl_tree_get(record, (const char *[]){"val_miou", NULL}, yajl_t_any) != NULL;
}

static Status read_line(ReportLog *log, const char *line, Place place)
{
    char why[256] = "";
    yajl_val record = yajl_tree_parse(line, why, sizeof why);
    if (!record)
        return status_fail(E_FORMAT,
                           "%s:%d: is not valid JSON (%.*s); remove the line to go on "
                           "without its step",
                           place.path, place.line, (int)strcspn(why, "\n"), why);
    Status status = is_judged(record) ? read_judged(record, place, log)
                                      : read_step(record, place, log);
    yajl_tree_free(record);
    return status;
}

Status report_log_read(const char *path, ReportLog *out)
{
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    Place place = {.path = path};
    char *line = NULL;
    size_t room = 0;
    Status status = OK;
    while (status == OK && getline(&line, &room, file) >= 0) {
        place.line++;
        status = read_line(out, line, place);
    }
    if (status == OK && ferror(file))
        status = status_fail(E_FILE, "%s: cannot be read: %s", path, strerror(errno));
    free(line);
    fclose(file);
    return status;
}

void report_log_free(ReportLog *log)
{
    free(log->steps);
    free(log->judged);
    *log = (ReportLog){0};
}
