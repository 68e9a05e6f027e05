/* `retort report`: what runs were and gave, as one page of HTML that needs nothing else.
 *
 *   retort report RUN .. --out=FILE.html [--title=TEXT] [--pictures=N]
 *
 * RUN: run folders, in the order in which they are to be compared (teacher, distilled, fine-tuned).
 * What is read of them: report.h. --pictures: how many names are shown, each for all runs.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/commands.h"
#include "train/report.h"

static const char usage[] = "retort report RUN .. --out=FILE.html [--title=TEXT] [--pictures=N]";

typedef struct Report {
    const char *out;
    ReportForm form;
    int n_runs, capacity;
    ReportRun *runs;
} Report;

static bool shares_name(const Report *report, int place)
{
    for (int i = 0; i < report->n_runs; i++)
        if (i != place && strcmp(report->runs[i].name, report->runs[place].name) == 0) return true;
    return false;
}

/* Folders of one name are told apart by their paths. */
static void name_runs(Report *report)
{
    bool *shared = mem_alloc((size_t)report->n_runs * sizeof *shared);
    for (int i = 0; i < report->n_runs; i++) shared[i] = shares_name(report, i);
    for (int i = 0; i < report->n_runs; i++) {
        if (!shared[i]) continue;
        free(report->runs[i].name);
        report->runs[i].name = mem_string(report->runs[i].path);
    }
    free(shared);
}

static Status read_runs(Args *args, Report *report)
{
    for (const char *path; (path = args_positional(args));) {
        report->runs = mem_grow(report->runs, &report->capacity, report->n_runs + 1,
                                sizeof *report->runs);
        TRY(report_run_open(path, &report->runs[report->n_runs]));
        report->n_runs++;
    }
    if (report->n_runs == 0) return status_fail(E_CONFIG, "name a run folder; usage: %s", usage);
    name_runs(report);
    return OK;
}

static Status write_page(const Report *report)
{
    char *page = NULL;
    size_t n_bytes = 0;
    FILE *memory = open_memstream(&page, &n_bytes);
    if (!memory) return status_fail(E_MEMORY, "%s: no memory for the page", report->out);
    Status status = report_page(&report->form, report->n_runs, report->runs, memory);
    if (fclose(memory) != 0 && status == OK)
        status = status_fail(E_MEMORY, "%s: no memory for the page; show fewer --pictures",
                             report->out);
    if (status == OK) status = file_replace(&file_ops_system, report->out, page, n_bytes);
    free(page);
    if (status == OK) printf("wrote %s, %zu bytes\n", report->out, n_bytes);
    return status;
}

static Status run_report(Args *args, Report *report)
{
    const char *title;
    TRY(args_need(args, "out", usage, &report->out));
    title = args_flag(args, "title");
    report->form.title = title ? title : "Retort report";
    TRY(args_int(args, "pictures", 8, 0, 10000, &report->form.max_pictures));
    TRY(read_runs(args, report));
    TRY(args_finish(args, usage));
    return write_page(report);
}

Status command_report(Args *args)
{
    Report report = {0};
    Status status = run_report(args, &report);
    for (int i = 0; i < report.n_runs; i++) report_run_close(&report.runs[i]);
    free(report.runs);
    return status;
}
