/* The progress line of a terminal. See progress.h. */
#include "train/progress.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum {
    MAX_COLUMNS = 512,
    USUAL_COLUMNS = 80, /* of a terminal that does not say */
    MIN_BAR = 8,
    MAX_BAR = 40,         /* characters, brackets included */
    MEMORY_OF_MEANS = 50, /* steps that running means look back */
};
static const double redraw_seconds = 0.1;

struct Progress {
    FILE *out;
    int terminal; /* file descriptor of out */
    int64_t n_measured;
    double step_seconds, wait_seconds, images; /* running means of a step */
    double drawn_at;
    bool drawn; /* the line stands on the terminal */
    ProgressState state;
};

/* ---- the line ---- */

/* In the order shown; percent, bar and step come first. */
typedef enum Part { PART_LOSS, PART_RATE, PART_WAIT, PART_MEMORY, PART_LEFT, N_PARTS } Part;
enum { PART_BYTES = 48 };

static void format_left(double left_s, char text[PART_BYTES])
{
    if (!(left_s >= 0 && left_s < 1e9)) return;
    int64_t s = (int64_t)(left_s + 0.5), minutes = s / 60, hours = minutes / 60;
    if (hours >= 48)
        snprintf(text, PART_BYTES, "ETA %" PRId64 "d%02" PRId64 "h", hours / 24, hours % 24);
    else if (hours > 0)
        snprintf(text, PART_BYTES, "ETA %" PRId64 ":%02" PRId64 ":%02" PRId64, hours, minutes % 60,
                 s % 60);
    else
        snprintf(text, PART_BYTES, "ETA %02" PRId64 ":%02" PRId64, minutes, s % 60);
}

/* Empty texts for what is not known. */
static void format_parts(const ProgressState *state, char parts[N_PARTS][PART_BYTES])
{
    double gigabytes = 1e-9 * (double)state->memory_bytes;
    memset(parts, 0, N_PARTS * sizeof *parts);
    if (!isnan(state->loss)) snprintf(parts[PART_LOSS], PART_BYTES, "loss %.4g", state->loss);
    if (!isnan(state->images_per_s))
        snprintf(parts[PART_RATE], PART_BYTES, "%.3g img/s", state->images_per_s);
    if (!isnan(state->wait_share))
        snprintf(parts[PART_WAIT], PART_BYTES, "wait %.0f%%", 100 * state->wait_share);
    if (gigabytes >= 1)
        snprintf(parts[PART_MEMORY], PART_BYTES, "%.*f GB", gigabytes < 10 ? 2 : 0, gigabytes);
    else if (gigabytes > 0)
        snprintf(parts[PART_MEMORY], PART_BYTES, "%.0f MB", 1e3 * gigabytes);
    format_left(state->left_s, parts[PART_LEFT]);
}

static double done_share(const ProgressState *state)
{
    if (state->n_steps <= 0) return 0;
    double share = (double)state->step / (double)state->n_steps;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* Takes texts away, the least needed first, until they fit. returns the columns they fill, the
 * space before each included */
static int fit_parts(char parts[N_PARTS][PART_BYTES], int columns)
{
    static const Part rising_need[] = {PART_MEMORY, PART_WAIT, PART_RATE, PART_LOSS, PART_LEFT};
    int used = 0;
    for (int i = 0; i < N_PARTS; i++) used += parts[i][0] ? 1 + (int)strlen(parts[i]) : 0;
    for (int i = 0; i < N_PARTS && used > columns; i++) {
        char *part = parts[rising_need[i]];
        used -= part[0] ? 1 + (int)strlen(part) : 0;
        part[0] = '\0';
    }
    return used;
}

static int append(char *line, int used, int room, const char *text)
{
    int n = snprintf(line + used, (size_t)(room - used), "%s", text);
    return used + n < room ? used + n : room - 1;
}

/* " [===>   ]" of `width` characters behind the space. */
static int append_bar(char *line, int used, int room, double share, int width)
{
    char bar[MAX_BAR + 2] = " [";
    int inner = width - 2, full = (int)(share * inner);
    for (int i = 0; i < inner; i++) bar[2 + i] = i < full ? '=' : i == full ? '>' : ' ';
    strcpy(bar + 2 + inner, "]");
    return append(line, used, room, bar);
}

int progress_format(const ProgressState *state, int columns, char *line, int room)
{
    char parts[N_PARTS][PART_BYTES], percent[8], steps[PART_BYTES];
    int limit = columns < room ? columns : room; /* with the terminating zero */
    assert(limit > 0);
    snprintf(percent, sizeof percent, "%3d%%", (int)(100 * done_share(state)));
    snprintf(steps, sizeof steps, " %" PRId64 "/%" PRId64, state->step, state->n_steps);
    format_parts(state, parts);
    int head = (int)(strlen(percent) + strlen(steps)), free_columns = limit - 1 - head;
    /* The bar is worth more than memory and waiting, which a narrow terminal leaves out. */
    int bar = free_columns - fit_parts(parts, free_columns - 1 - MIN_BAR) - 1;
    int used = append(line, 0, limit, percent);
    if (bar >= MIN_BAR)
        used = append_bar(line, used, limit, done_share(state), bar < MAX_BAR ? bar : MAX_BAR);
    used = append(line, used, limit, steps);
    for (int i = 0; i < N_PARTS; i++) {
        if (!parts[i][0]) continue;
        used = append(line, used, limit, " ");
        used = append(line, used, limit, parts[i]);
    }
    return used;
}

/* ---- drawing ---- */

/* Asked every time: the window may have changed. */
static int terminal_columns(int terminal)
{
    struct winsize size;
    if (ioctl(terminal, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return USUAL_COLUMNS;
    return size.ws_col;
}

/* Back to the first column, the text, and the rest of the line erased. */
static void draw(Progress *progress)
{
    char line[MAX_COLUMNS];
    progress_format(&progress->state, terminal_columns(progress->terminal), line, sizeof line);
    fprintf(progress->out, "\r%s\x1b[K", line);
    fflush(progress->out);
    progress->drawn = true;
    progress->drawn_at = clock_seconds();
}

Progress *progress_open(FILE *out, int64_t first_step, int64_t n_steps)
{
    if (!isatty(fileno(out))) return NULL;
    Progress *progress = mem_alloc(sizeof *progress);
    progress->out = out;
    progress->terminal = fileno(out);
    progress->state = (ProgressState){.step = first_step,
                                      .n_steps = n_steps,
                                      .loss = NAN,
                                      .images_per_s = NAN,
                                      .wait_share = NAN,
                                      .left_s = NAN};
    draw(progress);
    return progress;
}

/* A plain mean at first, then one that forgets. */
static void add_to_mean(double *mean, double value, int64_t n)
{
    *mean += (value - *mean) / (double)(n < MEMORY_OF_MEANS ? n : MEMORY_OF_MEANS);
}

static void measure(Progress *progress, const ProgressStep *step)
{
    int64_t n = ++progress->n_measured;
    add_to_mean(&progress->step_seconds, step->seconds, n);
    add_to_mean(&progress->wait_seconds, step->wait_seconds, n);
    add_to_mean(&progress->images, (double)step->n_images, n);
}

void progress_step(Progress *progress, const ProgressStep *step)
{
    if (!progress) return;
    ProgressState *state = &progress->state;
    measure(progress, step);
    state->step++;
    state->loss = step->loss;
    state->memory_bytes = step->memory_bytes;
    state->images_per_s = progress->images / progress->step_seconds;
    state->wait_share = progress->wait_seconds / progress->step_seconds;
    state->left_s = progress->step_seconds * (double)(state->n_steps - state->step);
    if (clock_seconds() - progress->drawn_at >= redraw_seconds) draw(progress);
}

void progress_hide(Progress *progress)
{
    if (!progress || !progress->drawn) return;
    fputs("\r\x1b[K", progress->out);
    fflush(progress->out);
    progress->drawn = false;
}

void progress_show(Progress *progress)
{
    if (progress && !progress->drawn) draw(progress);
}

void progress_close(Progress *progress)
{
    if (!progress) return;
    draw(progress); /* the last step may have come too soon after the one before */
    fputc('\n', progress->out);
    fflush(progress->out);
    free(progress);
}
