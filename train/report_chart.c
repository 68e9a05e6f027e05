/* Curves of a report. See report.h.
 *
 * The curves are an SVG that is stretched to its box; labels are HTML beside it, placed in percent,
 * so that text has its proper size on every screen. Coordinates inside are thousandths of the box.
 */
#include "train/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

enum { MAX_TICKS = 12, SIDE = 1000 };

typedef struct Axis {
    double low, high; /* logarithms to base 10 if is_log */
    bool is_log;
    int n_ticks;
    double ticks[MAX_TICKS]; /* values, not logarithms */
} Axis;

/* ---- axes ---- */

static double place(const Axis *axis, double value)
{
    return ((axis->is_log ? log10(value) : value) - axis->low) / (axis->high - axis->low);
}

static void add_tick(Axis *axis, double value)
{
    double share = place(axis, value);
    if (axis->n_ticks < MAX_TICKS && share >= -1e-9 && share <= 1 + 1e-9)
        axis->ticks[axis->n_ticks++] = value;
}

/* Multiples of 1, 2 or 5 times a power of ten, about `n` of them, at most twice as many. */
static void add_round_ticks(Axis *axis, double n)
{
    double rough = (axis->high - axis->low) / n, power = pow(10, floor(log10(rough)));
    double step = rough / power < 1.5 ? power : rough / power < 3.5 ? 2 * power : 5 * power;
    double first = ceil(axis->low / step - 1e-9);
    for (int i = 0; i < MAX_TICKS; i++) add_tick(axis, (first + i) * step);
}

/* Powers of ten, and where there are few of them also their doubles and fives. */
static void add_log_ticks(Axis *axis)
{
    static const double factors[] = {1, 2, 5};
    int first = (int)floor(axis->low), last = (int)ceil(axis->high);
    int every = 1 + (last - first) / MAX_TICKS, n_factors = last - first <= 3 ? 3 : 1;
    for (int power = first; power <= last; power += every)
        for (int i = 0; i < n_factors; i++) add_tick(axis, factors[i] * pow(10, power));
}

static void widen(double value, double *low, double *high)
{
    if (!isfinite(value)) return;
    if (value < *low) *low = value;
    if (value > *high) *high = value;
}

static Axis value_axis(const ReportChart *chart, int n_curves, const ReportCurve *curves)
{
    double low = INFINITY, high = -INFINITY;
    Axis axis = {.is_log = false};
    for (int c = 0; c < n_curves; c++)
        for (int i = 0; i < curves[c].n; i++) widen(curves[c].y[i], &low, &high);
    if (low > high) low = 0, high = 1; /* no number at all */
    axis.is_log = chart->may_log && low > 0 && high / low > 10;
    if (!axis.is_log && chart->from_zero && low > 0) low = 0;
    if (axis.is_log) low = log10(low), high = log10(high);
    double margin = high > low ? 0.03 * (high - low) : fabs(high) / 2 + 1e-12;
    axis.low = !axis.is_log && low == 0 ? 0 : low - margin;
    axis.high = high + margin;
    if (axis.is_log)
        add_log_ticks(&axis);
    else
        add_round_ticks(&axis, 5);
    return axis;
}

static Axis step_axis(int n_curves, const ReportCurve *curves)
{
    Axis axis = {.low = INFINITY, .high = -INFINITY};
    for (int c = 0; c < n_curves; c++)
        for (int i = 0; i < curves[c].n; i++) widen(curves[c].x[i], &axis.low, &axis.high);
    if (axis.low > axis.high) axis.low = 0;
    if (!(axis.high > axis.low)) axis.high = axis.low + 1;
    add_round_ticks(&axis, 2.5); /* their labels stand side by side, on a phone too */
    return axis;
}

/* ---- curves ---- */

typedef struct Pen {
    FILE *out;
    const Axis *x, *y;
    bool down; /* false: the next point begins a piece */
} Pen;

/* A piece begins with a line of no length, so that a lone point is a dot. */
static void draw_point(Pen *pen, double x, double y)
{
    if (!isfinite(y) || (pen->y->is_log && y <= 0)) {
        pen->down = false;
        return;
    }
    fprintf(pen->out, "%s%.1f,%.1f%s", pen->down ? "L" : "M", SIDE * place(pen->x, x),
            SIDE * (1 - place(pen->y, y)), pen->down ? "" : "h0");
    pen->down = true;
}

/* The lowest and the highest of elements first..end-1, in their order. */
static void draw_extremes(Pen *pen, const ReportCurve *curve, int first, int end)
{
    int low = first, high = first;
    for (int i = first + 1; i < end; i++) {
        if (curve->y[i] < curve->y[low] || isnan(curve->y[low])) low = i;
        if (curve->y[i] > curve->y[high] || isnan(curve->y[high])) high = i;
    }
    int one = low < high ? low : high, other = low < high ? high : low;
    draw_point(pen, curve->x[one], curve->y[one]);
    if (other != one) draw_point(pen, curve->x[other], curve->y[other]);
}

static void draw_curve(FILE *out, const ReportCurve *curve, const char *kind, const Axis *x,
                       const Axis *y)
{
    Pen pen = {.out = out, .x = x, .y = y};
    fprintf(out, "<path class=\"%s c%d\" d=\"", kind, curve->colour % REPORT_COLOURS);
    if (curve->n <= REPORT_MAX_POINTS)
        for (int i = 0; i < curve->n; i++) draw_point(&pen, curve->x[i], curve->y[i]);
    else
        for (int64_t k = 0, n = REPORT_MAX_POINTS / 2; k < n; k++)
            draw_extremes(&pen, curve, (int)(k * curve->n / n), (int)((k + 1) * curve->n / n));
    fprintf(out, "\"/>\n");
}

/* Steps that the smoothed curve looks back; a fiftieth of the curve. */
static double smoothing_steps(int n) { return n < 100 ? 2 : n / 50.0; }

/* An exponential mean that is not drawn to its start; NaN is passed over. To be freed. */
static double *smoothed(int n, const double *y)
{
    double *out = mem_alloc((size_t)(n + 1) * sizeof *out);
    double keep = 1 - 1 / smoothing_steps(n), sum = 0, weight = 0;
    for (int i = 0; i < n; i++) {
        if (isfinite(y[i])) {
            sum = keep * sum + (1 - keep) * y[i];
            weight = keep * weight + (1 - keep);
        }
        out[i] = weight > 0 ? sum / weight : NAN;
    }
    return out;
}

static void draw_smoothed(FILE *out, const ReportCurve *curve, const Axis *x, const Axis *y)
{
    double *mean = smoothed(curve->n, curve->y);
    ReportCurve smooth = *curve;
    smooth.y = mean;
    draw_curve(out, &smooth, "mean", x, y);
    free(mean);
}

/* ---- the figure ---- */

static void draw_grid(FILE *out, const Axis *y)
{
    fprintf(out, "<path class=\"grid\" d=\"");
    for (int i = 0; i < y->n_ticks; i++)
        fprintf(out, "M0,%.1fH%d", SIDE * (1 - place(y, y->ticks[i])), SIDE);
    fprintf(out, "\"/>\n");
}

/* 20000 as 20k, so that neighbours have room. */
static void write_step(FILE *out, double step)
{
    if (step >= 1e6)
        fprintf(out, "%gM", 1e-6 * step);
    else if (step >= 1e4)
        fprintf(out, "%gk", 1e-3 * step);
    else
        fprintf(out, "%g", step);
}

static void draw_labels(FILE *out, const Axis *x, const Axis *y)
{
    for (int i = 0; i < y->n_ticks; i++)
        fprintf(out, "<span class=\"y\" style=\"top:%.2f%%\">%.4g</span>\n",
                100 * (1 - place(y, y->ticks[i])), y->ticks[i]);
    for (int i = 0; i < x->n_ticks; i++) {
        fprintf(out, "<span class=\"x\" style=\"left:%.2f%%\">", 100 * place(x, x->ticks[i]));
        write_step(out, x->ticks[i]);
        fprintf(out, "</span>\n");
    }
}

static void draw_legend(FILE *out, int n_curves, const ReportCurve *curves)
{
    fprintf(out, "<ul class=\"legend\">\n");
    for (int c = 0; c < n_curves; c++) {
        fprintf(out, "<li><i class=\"c%d\"></i>", curves[c].colour % REPORT_COLOURS);
        report_text(out, curves[c].name);
        fprintf(out, "</li>\n");
    }
    fprintf(out, "</ul>\n");
}

static void draw_note(FILE *out, const ReportChart *chart, const Axis *y)
{
    fprintf(out, "<p class=\"note\">over steps%s%s</p>\n", y->is_log ? "; logarithmic axis" : "",
            chart->smooth ? "; thin: each step, thick: smoothed" : "");
}

void report_chart(FILE *out, const ReportChart *chart, int n_curves, const ReportCurve *curves)
{
    Axis x = step_axis(n_curves, curves), y = value_axis(chart, n_curves, curves);
    fprintf(out, "<figure class=\"chart\">\n<figcaption>");
    report_text(out, chart->title);
    fprintf(out,
            "</figcaption>\n<div class=\"plot\">\n<svg viewBox=\"0 0 %d %d\" "
            "preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
            SIDE, SIDE);
    report_text(out, chart->title);
    fprintf(out, "\">\n");
    draw_grid(out, &y);
    for (int c = 0; c < n_curves; c++)
        draw_curve(out, &curves[c], chart->smooth ? "raw" : "mean", &x, &y);
    for (int c = 0; c < n_curves && chart->smooth; c++) draw_smoothed(out, &curves[c], &x, &y);
    fprintf(out, "</svg>\n");
    draw_labels(out, &x, &y);
    fprintf(out, "</div>\n");
    draw_legend(out, n_curves, curves);
    draw_note(out, chart, &y);
    fprintf(out, "</figure>\n");
}
