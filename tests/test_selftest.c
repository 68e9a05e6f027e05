/* `retort selftest` with a band for its first twenty steps: passes inside, and tells a wrong loss,
 * a run of another length and a broken band. The whole of it is `make selftest`. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tests/program.h"
#include "tests/support.h"

static const char *band_of(const char *name, const char *text)
{
    static char path[300];
    char folder[256];
    test_folder(name, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/band.tsv", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, text, strlen(text)), OK);
    return path;
}

/* The line of the kept band that covers steps 0 to 19. */
static char *first_line(void)
{
    char *band = file_text("configs/recipes/selftest.tsv"), *line = strstr(band, "\n0\t");
    cr_assert_not_null(line);
    char *end = strchr(line + 1, '\n');
    cr_assert_not_null(end);
    end[1] = '\0';
    memmove(band, line + 1, strlen(line + 1) + 1);
    return band;
}

#define SHORT "selftest --train.steps=20 --optim.schedule=constant --run.threads=1 --band="

Test(selftest, a_right_loss_is_inside_and_a_wrong_one_is_not)
{
    char *line = first_line();
    const char *band = band_of("selftest", line);
    const ProgramResult *r = program_run(SHORT "%s", band);
    cr_expect_eq(r->code, 0, "%s%s", r->out, r->err);
    cr_expect(strstr(r->out, "the loss is right"), "%s", r->out);
    static const char *const wrong[] = {"--loss.dice_weight=2", "--loss.focal_gamma=1.8"};
    for (int i = 0; i < 2; i++) {
        r = program_run(SHORT "%s %s", band, wrong[i]);
        cr_expect_eq(r->code, 1, "%s", wrong[i]);
        cr_expect(strstr(r->err, "outside the band in 1 of 1"), "%s", r->err);
        cr_expect(strstr(r->out, "  outside"), "%s", r->out);
    }
    free(line);
}

Test(selftest, a_band_that_does_not_fit_is_named)
{
    char *line = first_line(), two[256];
    snprintf(two, sizeof two, "%s20\t0\t9\n", line);
    const ProgramResult *r = program_run(SHORT "%s", band_of("selftest_two", two));
    cr_expect_eq(r->code, 1);
    cr_expect(strstr(r->err, "20 steps, the band is of 40"), "%s", r->err);
    r = program_run(SHORT "%s", band_of("selftest_broken", "# comment\n20\t1\t2\n"));
    cr_expect_eq(r->code, 1);
    cr_expect(strstr(r->err, "band.tsv:2: wanted the first step of window 0"), "%s", r->err);
    r = program_run(SHORT "/nonexistent");
    cr_expect_eq(r->code, 1);
    cr_expect(strstr(r->err, "/nonexistent"), "%s", r->err);
    free(line);
}
