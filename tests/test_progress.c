/* The progress line: what it says, that it never reaches the edge of a terminal, and how it shares
 * one with lines of text.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "train/log.h"
#include "train/progress.h"

/* ---- the text ---- */

static const ProgressState states[] = {
    {.step = 420,
     .n_steps = 1000,
     .loss = 0.012345,
     .images_per_s = 12.345,
     .wait_share = 0.031,
     .left_s = 754,
     .memory_bytes = 1234567890},
    {.step = 0, .n_steps = 1, .loss = NAN, .images_per_s = NAN, .wait_share = NAN, .left_s = NAN},
    {.step = 999999999999,
     .n_steps = 1000000000000,
     .loss = -1.2345e-300,
     .images_per_s = 1e-300,
     .wait_share = 1,
     .left_s = 9e8,
     .memory_bytes = INT64_MAX},
    {.step = 7,
     .n_steps = 7,
     .loss = INFINITY,
     .images_per_s = INFINITY,
     .wait_share = 1e300,
     .left_s = INFINITY,
     .memory_bytes = 1},
    {.step = 9, .n_steps = 7, .loss = 1, .images_per_s = 1, .wait_share = -1, .left_s = -5},
    {.step = 3, .n_steps = 0, .loss = 1, .images_per_s = 1, .wait_share = 0, .left_s = 100000},
};
enum { N_STATES = sizeof states / sizeof states[0] };

static const char *line_of(const ProgressState *state, int columns)
{
    static char line[512];
    int n = progress_format(state, columns, line, sizeof line);
    cr_assert_eq(n, (int)strlen(line), "the length is told");
    return line;
}

Test(progress, never_reaches_the_edge)
{
    for (int s = 0; s < N_STATES; s++)
        for (int columns = 1; columns <= 300; columns++) {
            const char *line = line_of(&states[s], columns);
            cr_assert_lt((int)strlen(line), columns, "state %d: \"%s\"", s, line);
            for (const char *c = line; *c; c++)
                cr_assert(*c >= ' ' && *c <= '~', "state %d: byte %d", s, *c);
        }
}

Test(progress, keeps_to_the_room)
{
    char line[48];
    memset(line, '#', sizeof line);
    cr_assert_lt(progress_format(&states[0], 300, line, 40), 40);
    cr_assert_eq(line[40], '#');
}

Test(progress, says_it_all_at_80_columns)
{
    cr_assert_str_eq(line_of(&states[0], 80), " 42% [=====>       ] 420/1000 loss 0.01235 "
                                              "12.3 img/s wait 3% 1.23 GB ETA 12:34");
}

Test(progress, leaves_out_what_matters_less)
{
    static const struct {
        int columns;
        const char *line;
    } narrow[] = {
        {70, " 42% [====>      ] 420/1000 loss 0.01235 12.3 img/s wait 3% ETA 12:34"},
        {20, " 42% 420/1000"},
        {24, " 42% [==>    ] 420/1000"},
        {36, " 42% [===>     ] 420/1000 ETA 12:34"},
    };
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++)
        cr_assert_str_eq(line_of(&states[0], narrow[i].columns), narrow[i].line);
}

Test(progress, hides_what_is_not_known)
{
    cr_assert_str_eq(line_of(&states[1], 30), "  0% [>                 ] 0/1");
}

Test(progress, ends_full)
{
    ProgressState state = {
        .step = 7, .n_steps = 7, .loss = NAN, .images_per_s = NAN, .wait_share = NAN, .left_s = 0};
    cr_assert_str_eq(line_of(&state, 40), "100% [==================] 7/7 ETA 00:00");
}

/* ---- on a terminal ---- */

typedef struct Terminal {
    int master;
    FILE *out;
} Terminal;

static Terminal open_terminal(unsigned short columns)
{
    Terminal terminal = {.master = posix_openpt(O_RDWR | O_NOCTTY)};
    cr_assert(terminal.master >= 0 && !grantpt(terminal.master) && !unlockpt(terminal.master));
    struct winsize size = {.ws_row = 24, .ws_col = columns};
    cr_assert_eq(ioctl(terminal.master, TIOCSWINSZ, &size), 0);
    int slave = open(ptsname(terminal.master), O_RDWR | O_NOCTTY);
    struct termios mode;
    cr_assert(slave >= 0 && !tcgetattr(slave, &mode));
    mode.c_oflag &= ~(tcflag_t)OPOST;
    tcsetattr(slave, TCSANOW, &mode);
    terminal.out = fdopen(slave, "w");
    fcntl(terminal.master, F_SETFL, O_NONBLOCK);
    return terminal;
}

/* All that was written since the last call. */
static const char *written(const Terminal *terminal)
{
    static char text[1 << 16];
    size_t n = 0;
    for (ssize_t got; (got = read(terminal->master, text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text++) n++;
    return n;
}

static const ProgressStep one_step = {
    .n_images = 8, .memory_bytes = 1000000000, .loss = 0.5, .seconds = 2, .wait_seconds = 0.5};

Test(progress, is_only_for_terminals)
{
    FILE *file = tmpfile();
    cr_assert_null(progress_open(file, 0, 10));
    progress_step(NULL, &one_step);
    progress_hide(NULL);
    progress_show(NULL);
    progress_close(NULL);
    cr_assert_eq(ftell(file), 0);
    fclose(file);
}

Test(progress, fits_the_window_and_ends_on_a_line_of_its_own)
{
    Terminal terminal = open_terminal(40);
    Progress *progress = progress_open(terminal.out, 5, 10);
    cr_assert_str_eq(written(&terminal), "\r 50% [=============>             ] 5/10\x1b[K");
    progress_step(progress, &one_step);
    progress_close(progress);
    cr_assert_str_eq(written(&terminal), "\r 60% [====>   ] 6/10 loss 0.5 ETA 00:08\x1b[K\n");
}

Test(progress, is_redrawn_ten_times_a_second_at_most)
{
    Terminal terminal = open_terminal(0); /* does not say: 80 columns */
    Progress *progress = progress_open(terminal.out, 0, 1000);
    for (int i = 0; i < 300; i++) {
        progress_step(progress, &one_step);
        usleep(1000);
    }
    int n = count(written(&terminal), "\r");
    cr_assert(n >= 3 && n <= 30, "%d times in 0.3 s or a little more", n);
    progress_close(progress);
    cr_assert_not_null(strstr(written(&terminal), "4 img/s wait 25% 1.00 GB ETA 23:20"));
}

Test(progress, text_goes_above)
{
    Terminal terminal = open_terminal(60);
    Log *log;
    cr_assert_eq(log_open(terminal.out, NULL, &log), OK);
    Progress *progress = progress_open(terminal.out, 0, 10);
    written(&terminal);
    log_attach(log, progress);
    log_text(log, LOG_WARN, "hello");
    const char *text = written(&terminal);
    cr_assert_eq(strncmp(text, "\r\x1b[K", 4), 0, "the line is cleared first");
    cr_assert_not_null(strstr(text, "warn  hello\n\r  0% ["), "and drawn again: %s", text);
    log_attach(log, NULL);
    progress_close(progress);
    written(&terminal);
    log_text(log, LOG_INFO, "after");
    cr_assert_null(strchr(written(&terminal), '\r'));
    log_close(log);
}
