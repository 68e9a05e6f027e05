/* The results of a report: a table of mean IoU for each protocol. See report.h. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/report.h"

typedef struct Result {
    const ReportRun *run;
    int colour;
    const ReportEval *eval;
    bool written;
} Result;

/* Only numbers made in the same way may stand in one table. */
static bool comparable(const ReportEval *a, const ReportEval *b)
{
    return strcmp(a->data, b->data) == 0 && strcmp(a->select, b->select) == 0 &&
           a->n_images == b->n_images;
}

static const ReportScore *find_score(const ReportEval *eval, const char *prompt)
{
    for (int i = 0; i < eval->n_scores; i++)
        if (strcmp(eval->scores[i].prompt, prompt) == 0) return &eval->scores[i];
    return NULL;
}

static void write_percent(FILE *out, double percent)
{
    if (isnan(percent))
        fprintf(out, "&ndash;");
    else
        fprintf(out, "%.1f", percent);
}

static void write_score(FILE *out, const ReportScore *score, bool best)
{
    fprintf(out, best ? "<td class=\"best\">" : "<td>");
    write_percent(out, score ? score->percent[AREA_ALL] : NAN);
    if (score) {
        fprintf(out, "<small>");
        for (int i = AREA_LARGE; i < N_AREA_CLASSES; i++) {
            if (i > AREA_LARGE) fprintf(out, " / ");
            write_percent(out, score->percent[i]);
        }
        fprintf(out, "</small>");
    }
    fprintf(out, "</td>");
}

/* Kinds of prompts of all comparable results, in the order they appear. To be freed. */
static const char **list_prompts(const Result *first, const Result *end, int *n)
{
    const char **prompts = NULL;
    int capacity = 0;
    *n = 0;
    for (const Result *r = first; r < end; r++)
        for (int i = 0; comparable(r->eval, first->eval) && i < r->eval->n_scores; i++) {
            bool known = false;
            for (int k = 0; k < *n; k++)
                known |= strcmp(prompts[k], r->eval->scores[i].prompt) == 0;
            if (known) continue;
            prompts = mem_grow(prompts, &capacity, *n + 1, sizeof *prompts);
            prompts[(*n)++] = r->eval->scores[i].prompt;
        }
    return prompts;
}

static void write_model(FILE *out, const Result *result)
{
    fprintf(out, "<th scope=\"col\"><i class=\"c%d\"></i>", result->colour);
    report_text(out, result->run->name);
    fprintf(out, "<small>");
    report_text(out, result->eval->model);
    if (strcmp(result->eval->file, "eval.json") != 0) {
        fprintf(out, ", ");
        report_text(out, result->eval->file);
    }
    fprintf(out, "</small></th>");
}

static void write_protocol(FILE *out, const ReportEval *eval)
{
    fprintf(out, "<p class=\"note\">");
    report_text(out, eval->data);
    fprintf(out, ", %" PRId64 " image%s; mask chosen by ", eval->n_images,
            eval->n_images == 1 ? "" : "s");
    report_text(out, eval->select);
    fprintf(out, "</p>\n");
}

void report_prompt(FILE *out, const char *prompt)
{
    int n_clicks = 0;
    if (strcmp(prompt, "box_fill") == 0)
        fprintf(out, "box, filled<small>no model at all</small>");
    else if (strcmp(prompt, "box") == 0)
        fprintf(out, "box<small>around the object</small>");
    else if (sscanf(prompt, "click%d", &n_clicks) == 1)
        fprintf(out, n_clicks == 1 ? "1 click<small>in its middle</small>"
                                   : "%d clicks<small>each where the mask is most wrong</small>",
                n_clicks);
    else
        report_text(out, prompt);
}

/* The highest score of a row; infinite, which none has, if all are equal: then none stands out. */
static double best_of_row(const Result *first, const Result *end, const char *prompt)
{
    double low = INFINITY, high = -INFINITY;
    for (const Result *r = first; r < end; r++) {
        const ReportScore *score = find_score(r->eval, prompt);
        if (!comparable(r->eval, first->eval) || !score || isnan(score->percent[AREA_ALL]))
            continue;
        low = fmin(low, score->percent[AREA_ALL]);
        high = fmax(high, score->percent[AREA_ALL]);
    }
    return low < high ? high : INFINITY;
}

static void write_line(FILE *out, const Result *first, const Result *end, const char *prompt)
{
    double best = best_of_row(first, end, prompt);
    fprintf(out, "<tr><th scope=\"row\">");
    report_prompt(out, prompt);
    fprintf(out, "</th>");
    for (const Result *r = first; r < end; r++) {
        if (!comparable(r->eval, first->eval)) continue;
        const ReportScore *score = find_score(r->eval, prompt);
        write_score(out, score, score && score->percent[AREA_ALL] == best);
    }
    fprintf(out, "</tr>\n");
}

/* One table: a column for `first` and for each behind it that compares, a row for each prompt. */
static void write_table(FILE *out, Result *first, const Result *end)
{
    int n;
    const char **prompts = list_prompts(first, end, &n);
    fprintf(out, "<div class=\"table\">\n");
    write_protocol(out, first->eval);
    fprintf(out, "<table>\n<thead><tr><th scope=\"col\">Prompt</th>");
    for (Result *r = first; r < end; r++) {
        if (!comparable(r->eval, first->eval)) continue;
        write_model(out, r);
        r->written = true;
    }
    fprintf(out, "</tr></thead>\n<tbody>\n");
    for (int i = 0; i < n; i++) write_line(out, first, end, prompts[i]);
    fprintf(out, "</tbody>\n</table>\n</div>\n");
    free(prompts);
}

void report_results(FILE *out, int n_runs, const ReportRun *runs)
{
    int n = 0, capacity = 0;
    Result *results = NULL;
    for (int i = 0; i < n_runs; i++)
        for (int k = 0; k < runs[i].n_evals; k++) {
            results = mem_grow(results, &capacity, n + 1, sizeof *results);
            results[n++] = (Result){
                .run = &runs[i], .colour = i % REPORT_COLOURS, .eval = &runs[i].evals[k]};
        }
    if (n > 0)
        fprintf(out,
                "<h2>Masks from prompts</h2>\n<p class=\"note\">Mean IoU in percent over all "
                "objects: the pixels that prediction and truth share, of those that either has; "
                "100 is perfect. Below it large / medium / small objects: more than 96&times;96 "
                "px, between, less than 32&times;32 px. Bold: the best of a line.</p>\n");
    for (int i = 0; i < n; i++)
        if (!results[i].written) write_table(out, &results[i], results + n);
    free(results);
}
