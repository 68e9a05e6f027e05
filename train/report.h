/* What a report says of runs: read from their folders, written as one page of HTML.
 *
 * Of a run folder (train/run_folder.h) a report reads what is there of
 *   log.jsonl with config.yaml   what the run was and its curves
 *   eval*.json                   results of `retort eval --out=`
 *   pictures/NAME.png            predictions; those of one NAME are shown side by side
 * so a folder that holds only results of a model that was not trained here, a teacher's, is fine.
 *
 * Used by `retort report`. Text from files is escaped wherever it enters the page.
 */
#ifndef RETORT_TRAIN_REPORT_H
#define RETORT_TRAIN_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "train/miou.h"
#include "train/options.h"

/* ---- a run ---- */

typedef struct ReportLog { /* one element per step, steps rising; NaN where the log has null */
    int n, capacity;
    struct ReportStep {
        int64_t step;
        double loss, lr, step_ms, data_wait_ms, img_per_s, peak_bytes;
    } * steps;
    int n_judged, judged_capacity;
    struct ReportJudged { /* by validation, steps rising */
        int64_t step;
        double miou, boundary_iou; /* 0..1 */
    } * judged;
} ReportLog;

typedef struct ReportScore { /* of one kind of prompt; percent, NaN where there is no mask */
    char *prompt;
    double percent[N_AREA_CLASSES];
} ReportScore;

typedef struct ReportEval {
    char *file, *model, *data, *select;
    int64_t n_images;
    int n_scores, capacity;
    ReportScore *scores;
} ReportEval;

typedef struct ReportRun {
    char *path, *name;
    bool trained; /* there is a log; else log and options are empty */
    Options options;
    ReportLog log;
    int n_evals, n_pictures;
    ReportEval *evals; /* by file name */
    char **pictures;   /* file names in pictures/, sorted */
} ReportRun;

/* report_run_open: reads a run folder. Of steps that a run made twice, because it was taken up from
 * an earlier state, the later ones count.
 * errors  E_FILE if it cannot be read, or holds nothing of the above; E_FORMAT naming file and line
 *         of a record that is no step, or the result file that is none; E_CONFIG of config.yaml */
Status report_run_open(const char *path, ReportRun *out);
void report_run_close(ReportRun *run);

/* report_log_read, report_eval_read: the files alone; `out` is zero-initialised.
 * errors  as above */
Status report_log_read(const char *path, ReportLog *out);
Status report_eval_read(const char *path, ReportEval *out);
void report_log_free(ReportLog *log);
void report_eval_free(ReportEval *eval);

/* ---- the page ---- */

typedef struct ReportForm {
    const char *title;
    int64_t max_pictures; /* names shown, each for all runs */
} ReportForm;

/* report_page: the page, self-contained. errors  E_FILE, E_FORMAT if a picture is no PNG; what was
 * written to `out` is then incomplete */
Status report_page(const ReportForm *form, int n_runs, const ReportRun *runs, FILE *out);

/* report_results: the tables of results, a heading before them; nothing if no run has any. */
void report_results(FILE *out, int n_runs, const ReportRun *runs);

/* report_prompt: what a kind of prompt of a result file (box_fill, box, clickN) is called on the
 * page, and in small what it is; any other word as it stands. */
void report_prompt(FILE *out, const char *prompt);

typedef struct ReportCurve {
    const char *name;
    int colour; /* the run's place */
    int n;
    const double *x, *y; /* y may be NaN */
} ReportCurve;

typedef struct ReportChart {
    const char *title;
    bool smooth;    /* thin curves as they are, thick ones smoothed */
    bool may_log;   /* a logarithmic axis where values span more than a decade */
    bool from_zero; /* of a linear axis */
} ReportChart;

/* report_chart: a figure with curves over steps. A curve of more than REPORT_MAX_POINTS steps is
 * drawn through the lowest and highest of each stretch. */
enum { REPORT_MAX_POINTS = 1000 };
void report_chart(FILE *out, const ReportChart *chart, int n_curves, const ReportCurve *curves);

/* ---- HTML ---- */

extern const char report_style[]; /* the style sheet */

enum { REPORT_COLOURS = 6 }; /* of the style sheet, in turn */

void report_text(FILE *out, const char *text); /* escaped, for content and attributes */
void report_base64(FILE *out, const void *data, size_t n_bytes);

#endif
