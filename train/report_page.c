/* The page of a report, from top to bottom: runs, curves, results (report_results.c), pictures. See
 * report.h. */
#include "train/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- the runs ---- */

static void start_fact(FILE *out, const char *name) { fprintf(out, "<dt>%s</dt><dd>", name); }

static void end_fact(FILE *out) { fprintf(out, "</dd>\n"); }

/* Paths and long names go on in the next line behind a separator, not within a word. */
static void text_fact(FILE *out, const char *name, const char *value)
{
    start_fact(out, name);
    for (const char *end; *value; value = end) {
        char part[64];
        size_t n = strcspn(value, "/_@,") + 1;
        snprintf(part, n < sizeof part ? n + 1 : sizeof part, "%s", value);
        report_text(out, part);
        end = value + strlen(part);
        if (n < sizeof part && *end) fprintf(out, "<wbr>");
    }
    end_fact(out);
}

/* The file's name alone, without this ending; nothing if the option is not set. */
static void file_fact(FILE *out, const char *name, const char *path, const char *ending)
{
    const char *slash = strrchr(path, '/');
    char *stem = mem_string(slash ? slash + 1 : path);
    size_t n = strlen(stem), n_ending = strlen(ending);
    if (n > n_ending && strcmp(stem + n - n_ending, ending) == 0) stem[n - n_ending] = '\0';
    if (*stem) text_fact(out, name, stem);
    free(stem);
}

static int compare_numbers(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

/* Of the steps' rates; the first steps, which warm up, hardly move it. NaN if there is none. */
static double median_rate(const ReportLog *log)
{
    double *rates = mem_alloc((size_t)(log->n + 1) * sizeof *rates);
    int n = 0;
    for (int i = 0; i < log->n; i++)
        if (!isnan(log->steps[i].img_per_s)) rates[n++] = log->steps[i].img_per_s;
    qsort(rates, (size_t)n, sizeof *rates, compare_numbers);
    double median = n > 0 ? rates[n / 2] : NAN;
    free(rates);
    return median;
}

static void time_fact(FILE *out, double seconds)
{
    int64_t s = (int64_t)seconds;
    start_fact(out, "Time in steps");
    if (s < 60)
        fprintf(out, "%.1f s", seconds);
    else if (s < 3600)
        fprintf(out, "%" PRId64 " min %02" PRId64 " s", s / 60, s % 60);
    else
        fprintf(out, "%" PRId64 " h %02" PRId64 " min", s / 3600, s / 60 % 60);
    end_fact(out);
}

static void rate_facts(FILE *out, const ReportLog *log)
{
    double ms = 0, wait_ms = 0, peak_bytes = 0, rate = median_rate(log);
    for (int i = 0; i < log->n; i++) {
        if (!isnan(log->steps[i].step_ms)) ms += log->steps[i].step_ms;
        if (!isnan(log->steps[i].data_wait_ms)) wait_ms += log->steps[i].data_wait_ms;
        if (log->steps[i].peak_bytes > peak_bytes) peak_bytes = log->steps[i].peak_bytes;
    }
    if (!isnan(rate)) fprintf(out, "<dt>Median speed</dt><dd>%.3g images/s</dd>\n", rate);
    time_fact(out, 1e-3 * ms);
    if (ms > 0) fprintf(out, "<dt>Waiting for data</dt><dd>%.1f %%</dd>\n", 100 * wait_ms / ms);
    bool large = peak_bytes >= 1e9;
    if (peak_bytes > 0)
        fprintf(out, "<dt>Peak memory</dt><dd>%.3g %s</dd>\n", peak_bytes * (large ? 1e-9 : 1e-6),
                large ? "GB" : "MB");
}

/* The mean of the first and of the last tenth. */
static void loss_fact(FILE *out, const ReportLog *log)
{
    double sums[2] = {0};
    int counts[2] = {0}, part = (log->n + 9) / 10;
    for (int i = 0; i < part; i++) {
        double ends[2] = {log->steps[i].loss, log->steps[log->n - 1 - i].loss};
        for (int k = 0; k < 2; k++)
            if (!isnan(ends[k])) sums[k] += ends[k], counts[k]++;
    }
    if (counts[0] == 0 || counts[1] == 0) return;
    fprintf(out, "<dt>Loss</dt><dd>%.4g &rarr; %.4g</dd>\n", sums[0] / counts[0],
            sums[1] / counts[1]);
}

/* Distillation and training on masks have losses and rates that no axis can hold together. */
static bool is_distillation(const ReportRun *run)
{
    return run->options.teacher_model[0] || run->options.teacher_embeddings[0];
}

static const char *stage_of(const ReportRun *run)
{
    if (is_distillation(run)) return "learns a teacher's embeddings";
    return run->options.init_weights[0] ? "trained weights go on, on masks"
                                        : "learns masks from nothing";
}

static void training_facts(FILE *out, const ReportRun *run)
{
    const Options *o = &run->options;
    int64_t done = run->log.n > 0 ? run->log.steps[run->log.n - 1].step + 1 : 0;
    file_fact(out, "Model", o->model, ".yaml");
    file_fact(out, "Teacher", o->teacher_model, ".yaml");
    file_fact(out, "Started from", o->init_weights, "");
    text_fact(out, "Data", o->text[OPTION_data_root]);
    text_fact(out, "Preset", o->text[OPTION_train_preset]);
    fprintf(out, "<dt>Steps</dt><dd>%" PRId64, done);
    if (o->train_steps > done) fprintf(out, " of %" PRId64, o->train_steps);
    fprintf(out, " &times; %" PRId64 " images</dd>\n", o->train_batch);
    text_fact(out, "Precision", o->text[OPTION_run_precision]);
    if (run->log.n == 0) return;
    rate_facts(out, &run->log);
    loss_fact(out, &run->log);
}

static void write_card(FILE *out, const ReportRun *run, int place)
{
    fprintf(out, "<section class=\"card\">\n<h3><i class=\"c%d\"></i>", place % REPORT_COLOURS);
    report_text(out, run->name);
    fprintf(out, "</h3>\n");
    if (run->trained) {
        fprintf(out, "<p class=\"note\">%s</p>\n<dl>\n", stage_of(run));
        training_facts(out, run);
        fprintf(out, "</dl>\n");
    } else {
        fprintf(out, "<p class=\"note\">Not trained here: results only.</p>\n");
    }
    fprintf(out, "</section>\n");
}

/* ---- curves ---- */

typedef enum Column { COLUMN_LOSS, COLUMN_LR, COLUMN_MIOU, COLUMN_BOUNDARY_IOU } Column;

static int rows_of(const ReportRun *run, Column column)
{
    return column == COLUMN_LOSS || column == COLUMN_LR ? run->log.n : run->log.n_judged;
}

static double cell(const ReportLog *log, Column column, int row)
{
    switch (column) {
    case COLUMN_LOSS: return log->steps[row].loss;
    case COLUMN_LR: return log->steps[row].lr;
    case COLUMN_MIOU: return 100 * log->judged[row].miou;
    default: return 100 * log->judged[row].boundary_iou;
    }
}

static ReportCurve curve_of(const ReportRun *run, int place, Column column)
{
    int n = rows_of(run, column);
    bool judged = column == COLUMN_MIOU || column == COLUMN_BOUNDARY_IOU;
    double *values = mem_alloc((size_t)(2 * n + 1) * sizeof *values);
    for (int i = 0; i < n; i++) {
        values[i] = (double)(judged ? run->log.judged[i].step : run->log.steps[i].step);
        values[n + i] = cell(&run->log, column, i);
    }
    return (ReportCurve){.name = run->name, .colour = place, .n = n, .x = values, .y = values + n};
}

static bool belongs(const ReportRun *run, bool distillation)
{
    return run->trained && run->log.n > 0 && is_distillation(run) == distillation;
}

static void write_chart(FILE *out, const ReportChart *chart, Column column, bool distillation,
                        int n_runs, const ReportRun *runs)
{
    ReportCurve *curves = mem_alloc((size_t)n_runs * sizeof *curves);
    int n = 0;
    for (int i = 0; i < n_runs; i++)
        if (belongs(&runs[i], distillation) && rows_of(&runs[i], column) > 0)
            curves[n++] = curve_of(&runs[i], i, column);
    report_chart(out, chart, n, curves);
    for (int i = 0; i < n; i++) free((void *)curves[i].x);
    free(curves);
}

static void write_charts(FILE *out, bool distillation, int n_runs, const ReportRun *runs)
{
    static const ReportChart loss = {.title = "Loss", .smooth = true, .may_log = true};
    static const ReportChart rate = {.title = "Learning rate", .from_zero = true};
    static const ReportChart miou = {.title = "Validation: mean IoU of masks from boxes, percent"};
    static const ReportChart boundary = {.title = "Boundary IoU, percent"};
    int n = 0, n_judged = 0;
    for (int i = 0; i < n_runs; i++) {
        n += belongs(&runs[i], distillation);
        n_judged += belongs(&runs[i], distillation) && runs[i].log.n_judged > 0;
    }
    if (n == 0) return;
    fprintf(out, "<h2>%s</h2>\n<div class=\"charts\">\n",
            distillation ? "Distillation" : "Training on masks");
    write_chart(out, &loss, COLUMN_LOSS, distillation, n_runs, runs);
    write_chart(out, &rate, COLUMN_LR, distillation, n_runs, runs);
    if (n_judged > 0) {
        write_chart(out, &miou, COLUMN_MIOU, distillation, n_runs, runs);
        write_chart(out, &boundary, COLUMN_BOUNDARY_IOU, distillation, n_runs, runs);
    }
    fprintf(out, "</div>\n");
}

/* ---- pictures ---- */

enum { MAX_PICTURE_BYTES = 64 << 20, PNG_HEAD_BYTES = 24 };

static uint32_t big_endian(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Width and height are given to the browser, so that the page does not jump while it loads. */
static Status write_image(FILE *out, const char *path)
{
    static const char signature[] = "\x89PNG\r\n\x1a\n";
    char *data;
    size_t n_bytes;
    TRY(file_read(path, MAX_PICTURE_BYTES, &data, &n_bytes));
    bool is_png = n_bytes >= PNG_HEAD_BYTES && memcmp(data, signature, sizeof signature - 1) == 0;
    if (is_png) {
        const uint8_t *head = (const uint8_t *)data;
        fprintf(out,
                "<img width=\"%u\" height=\"%u\" alt=\"prediction\" "
                "src=\"data:image/png;base64,",
                big_endian(head + 16), big_endian(head + 20));
        report_base64(out, data, n_bytes);
        fprintf(out, "\">\n");
    }
    free(data);
    return is_png ? OK : status_fail(E_FORMAT, "%s: is no PNG file", path);
}

static bool has_picture(const ReportRun *run, const char *name)
{
    for (int i = 0; i < run->n_pictures; i++)
        if (strcmp(run->pictures[i], name) == 0) return true;
    return false;
}

static Status write_picture(FILE *out, const ReportRun *run, const char *name)
{
    Status status = OK;
    fprintf(out, "<figure>\n");
    if (has_picture(run, name)) {
        char *folder = file_join(run->path, "pictures"), *path = file_join(folder, name);
        status = write_image(out, path);
        free(path);
        free(folder);
    } else {
        fprintf(out, "<div class=\"none\">no picture</div>\n");
    }
    fprintf(out, "<figcaption>");
    report_text(out, run->name);
    fprintf(out, "</figcaption>\n</figure>\n");
    return status;
}

/* IMAGE_KIND.png, as eval names them, in words; any other name as it is. */
static void write_heading(FILE *out, const char *name)
{
    char *stem = mem_string(name);
    stem[strlen(name) - strlen(".png")] = '\0'; /* which all of them have */
    char *kind = strrchr(stem, '_');
    bool known = kind && (strcmp(kind + 1, "box") == 0 || strncmp(kind + 1, "click", 5) == 0);
    if (known) *kind = '\0';
    fprintf(out, "<h3>");
    report_text(out, stem);
    if (known) {
        fprintf(out, ": ");
        report_prompt(out, kind + 1);
    }
    fprintf(out, "</h3>\n");
    free(stem);
}

static Status write_row(FILE *out, const char *name, int n_runs, const ReportRun *runs)
{
    write_heading(out, name);
    fprintf(out, "<div class=\"row\">\n");
    for (int i = 0; i < n_runs; i++)
        if (runs[i].n_pictures > 0) TRY(write_picture(out, &runs[i], name));
    fprintf(out, "</div>\n");
    return OK;
}

static bool is_first_with(const ReportRun *runs, int place, const char *name)
{
    for (int i = 0; i < place; i++)
        if (has_picture(&runs[i], name)) return false;
    return true;
}

static void write_legend(FILE *out)
{
    fprintf(out,
            "<h2>Pictures</h2>\n<p class=\"note\">Tinted: what the model predicts, each object "
            "in a colour of its own. White lines, where drawn: the truth. Frames and dots: the "
            "prompts; a green dot says that the object is here, a red one that it is "
            "not.</p>\n");
}

static Status write_pictures(FILE *out, int64_t max, int n_runs, const ReportRun *runs)
{
    int64_t n = 0;
    for (int i = 0; i < n_runs; i++)
        for (int k = 0; k < runs[i].n_pictures; k++) {
            const char *name = runs[i].pictures[k];
            if (!is_first_with(runs, i, name)) continue;
            if (n == 0 && max > 0) write_legend(out);
            if (n++ < max) TRY(write_row(out, name, n_runs, runs));
        }
    if (n > max && max > 0)
        fprintf(out, "<p class=\"note\">%" PRId64 " of %" PRId64 " pictures.</p>\n", max, n);
    return OK;
}

/* ---- the page ---- */

static void write_head(FILE *out, const char *title)
{
    fprintf(out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    report_text(out, title);
    fprintf(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n<h1>", report_style);
    report_text(out, title);
    fprintf(out, "</h1>\n");
}

Status report_page(const ReportForm *form, int n_runs, const ReportRun *runs, FILE *out)
{
    write_head(out, form->title);
    fprintf(out,
            "<p class=\"note\">A model is shown a picture and a prompt (a box or some clicks) and "
            "answers with the mask of the object that is meant. Below: how %s trained, how well "
            "the masks fit, and what they look like.</p>\n",
            n_runs == 1 ? "it was" : "these models were");
    fprintf(out, "<h2>%s</h2>\n<div class=\"cards\">\n", n_runs == 1 ? "The run" : "The runs");
    for (int i = 0; i < n_runs; i++) write_card(out, &runs[i], i);
    fprintf(out, "</div>\n");
    write_charts(out, true, n_runs, runs);
    write_charts(out, false, n_runs, runs);
    report_results(out, n_runs, runs);
    TRY(write_pictures(out, form->max_pictures, n_runs, runs));
    fprintf(out, "</main>\n</body>\n</html>\n");
    return OK;
}
