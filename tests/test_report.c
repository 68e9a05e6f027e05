/* The report of runs: a page that is well-formed, says what the files say, and lets nothing of them
 * become HTML.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/png.h"
#include "tests/support.h"
#include "train/commands.h"
#include "train/report.h"

static char folder[256];

/* ---- run folders ---- */

static void write_file(const char *run, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, run);
    cr_assert_eq(file_make_folders(path), OK, "%s", status_message());
    snprintf(path, sizeof path, "%s/%s/%s", folder, run, name);
    cr_assert_eq(file_replace(&file_ops_system, path, text, strlen(text)), OK, "%s",
                 status_message());
}

static void add_line(FILE *out, int step, const char *loss)
{
    fprintf(out,
            "{\"step\":%d,\"loss\":%s,\"grad_norm\":1,\"lr\":%g,\"loss_scale\":1,"
            "\"step_ms\":500,\"data_wait_ms\":5,\"img_per_s\":4,\"peak_bytes\":2500000000}\n",
            step, loss, 1e-3 / (1 + step));
}

/* A log of n steps whose loss falls from 1. */
static char *log_text_of(int n)
{
    char *text, loss[32];
    size_t n_bytes;
    FILE *out = open_memstream(&text, &n_bytes);
    for (int i = 0; i < n; i++) {
        snprintf(loss, sizeof loss, "%g", 1.0 / (1 + i));
        add_line(out, i, loss);
    }
    fclose(out);
    return text;
}

static void write_run(const char *run, int n_steps, const char *config)
{
    char *text = log_text_of(n_steps);
    write_file(run, "config.yaml", config);
    write_file(run, "log.jsonl", text);
    free(text);
}

static const char eval_text[] =
    "{\"model\":\"<b>tiny\",\"weights\":\"w\",\"weights_sha256\":\"0\",\"data\":\"d&d\","
    "\"images\":3,\"select\":\"first\",\"unit\":\"mean IoU in percent\",\"miou\":{"
    "\"box_fill\":{\"all\":61.25,\"large\":70,\"medium\":null,\"small\":50,"
    "\"masks\":{\"all\":9,\"large\":4,\"medium\":0,\"small\":5}},"
    "\"click1\":{\"all\":44.04,\"large\":1,\"medium\":2,\"small\":3,\"masks\":{\"all\":9}}}}";

static void write_picture(const char *run, const char *name)
{
    static const uint8_t pixels[2 * 3 * 3] = {255, 0, 0, 0, 255, 0};
    char path[600];
    snprintf(path, sizeof path, "%s/%s/pictures", folder, run);
    cr_assert_eq(file_make_folders(path), OK);
    snprintf(path, sizeof path, "%s/%s/pictures/%s", folder, run, name);
    cr_assert_eq(png_write(path, pixels, (ImageSize){.height = 2, .width = 3}, PNG_RGB), OK, "%s",
                 status_message());
}

/* ---- the page ---- */

/* `retort report` on runs below the test's folder; words that begin with "--" are passed on. */
static Status report(int n, const char *const *words)
{
    static char text[8][700];
    char *list[8];
    cr_assert(n < 8);
    for (int i = 0; i < n; i++) {
        bool is_flag = strncmp(words[i], "--", 2) == 0;
        snprintf(text[i], sizeof text[i], "%s%s%s", is_flag ? "" : folder, is_flag ? "" : "/",
                 words[i]);
        list[i] = text[i];
    }
    snprintf(text[n], sizeof text[n], "--out=%s/page.html", folder);
    list[n] = text[n];
    return command_report(&(Args){.n = n + 1, .words = list});
}

static char *read_page(void)
{
    char path[300], *page;
    size_t n_bytes;
    snprintf(path, sizeof path, "%s/page.html", folder);
    cr_assert_eq(file_read(path, 1 << 26, &page, &n_bytes), OK, "%s", status_message());
    cr_assert_eq(strlen(page), n_bytes);
    return page;
}

#define PAGE_OF(...)                                                       \
    page_of((int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), \
            (const char *[]){__VA_ARGS__})
#define REPORT(...)                                                       \
    report((int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), \
           (const char *[]){__VA_ARGS__})

static bool is_void(const char *name)
{
    return !strcmp(name, "meta") || !strcmp(name, "img") || !strcmp(name, "path") ||
           !strcmp(name, "wbr");
}

static bool is_known(const char *name)
{
    static const char *const known[] = {
        "html",  "head", "title",   "style", "body",   "main",       "h1",    "h2",
        "h3",    "div",  "section", "dl",    "dt",     "dd",         "p",     "i",
        "ul",    "li",   "span",    "svg",   "figure", "figcaption", "table", "thead",
        "tbody", "tr",   "th",      "td",    "small",  "meta",       "img",   "path",
        "wbr"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(known[i], name)) return true;
    return false;
}

/* Every tag is one that the page knows, and closed in turn; quotes inside tags come in pairs. */
static void check_tags(const char *page)
{
    char open[32][16];
    int depth = 0;
    cr_assert_eq(strncmp(page, "<!DOCTYPE html>", 15), 0);
    for (const char *at = page + 15; (at = strchr(at, '<'));) {
        bool closes = at[1] == '/';
        char name[16] = "";
        sscanf(at + 1 + closes, "%15[a-z0-9]", name);
        cr_assert(is_known(name), "<%s> at \"%.40s\"", name, at);
        bool quoted = false;
        for (; *at && (quoted || *at != '>'); at++) quoted ^= *at == '"';
        cr_assert_eq(*at, '>', "<%s is not ended", name);
        if (is_void(name)) continue;
        if (!closes) {
            cr_assert_lt(depth, 32);
            strcpy(open[depth++], name);
        } else {
            cr_assert(depth > 0 && !strcmp(open[--depth], name), "</%s> closes <%s>", name,
                      open[depth]);
        }
    }
    cr_assert_eq(depth, 0, "<%s> stays open", open[depth > 0 ? depth - 1 : 0]);
}

static char *page_of(int n, const char *const *words)
{
    cr_assert_eq(report(n, words), OK, "%s", status_message());
    char *page = read_page();
    check_tags(page);
    cr_assert_null(strstr(page, "http"), "nothing comes from elsewhere");
    cr_assert_null(strstr(page, "nan"));
    cr_assert_null(strstr(page, "inf"));
    return page;
}

static int count(const char *text, const char *end, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)) && text < end; text++) n++;
    return n;
}

/* Points of the nth path of a class. */
static int points_of(const char *page, const char *class, int number)
{
    const char *at = page;
    for (int i = 0; i <= number; i++) {
        at = strstr(at + 1, class);
        cr_assert_not_null(at, "path %d of %s", number, class);
    }
    const char *d = strstr(at, "d=\"") + 3;
    return count(d, strchr(d, '"'), ",");
}

/* ---- tests ---- */

Test(report, says_what_runs_were)
{
    test_folder("report_runs", folder, sizeof folder);
    write_run("distilled", 40,
              "model: m/student.yaml\nteacher: {model: m/big.yaml}\n"
              "data: {root: far/away_data}\n"
              "train: {steps: 50, batch: 2}\nrun: {precision: bf16}\n");
    write_run("<i>tuned & 'more'", 30, "model: m/student.yaml\ntrain: {steps: 30}\n");
    write_file("distilled", "eval.json", eval_text);
    write_file("distilled", "eval_coco.json", eval_text);
    write_picture("distilled", "a<b>.png");
    write_picture("<i>tuned & 'more'", "a<b>.png");
    write_picture("<i>tuned & 'more'", "other.png");
    write_picture("<i>tuned & 'more'", "sa_1_click3.png");
    char *page = PAGE_OF("distilled", "<i>tuned & 'more'/", "--title=A <title>");
    static const char *const wanted[] = {"<h1>A &lt;title&gt;</h1>",
                                         "&lt;i&gt;tuned &amp; &#39;more&#39;</h3>",
                                         "<dd>student</dd>",
                                         "<dt>Teacher</dt><dd>big</dd>",
                                         "<dd>40 of 50 &times; 2 images</dd>",
                                         "<dd>30 &times; 4 images</dd>",
                                         "<dd>bf16</dd>",
                                         "<dd>4 images/s</dd>",
                                         "<dd>20.0 s</dd>",
                                         "<dd>1.0 %</dd>",
                                         "<dd>2.5 GB</dd>",
                                         "learns a teacher's embeddings",
                                         "<h2>Distillation</h2>",
                                         "<h2>Training on masks</h2>",
                                         "logarithmic axis",
                                         "d&amp;d, 3 images; mask chosen by first",
                                         "&lt;b&gt;tiny",
                                         ", eval_coco.json",
                                         "<td>61.2<small>70.0 / &ndash; / 50.0</small></td>",
                                         "<td>44.0<small>1.0 / 2.0 / 3.0</small></td>",
                                         "1 click<small>",
                                         "box, filled<small>",
                                         "<h3>a&lt;b&gt;</h3>",
                                         "<h3>other</h3>",
                                         "<h3>sa_1: 3 clicks<small>",
                                         "<dd>far/<wbr>away_<wbr>data</dd>",
                                         "no picture",
                                         "<img width=\"3\" height=\"2\"",
                                         "base64,iVBORw0KGgo"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        cr_assert_not_null(strstr(page, wanted[i]), "lacks %s", wanted[i]);
    cr_assert_eq(count(page, page + strlen(page), "<img "), 4);
    cr_assert_eq(count(page, page + strlen(page), "<tr>"), 3, "one table: head and two prompts");
    free(page);
}

Test(report, curves_have_a_point_per_step)
{
    test_folder("report_points", folder, sizeof folder);
    write_run("short", 57, "seed: 1\n");
    write_run("one", 1, "seed: 1\n");
    write_run("long", 4321, "seed: 1\n");
    char *page = PAGE_OF("short", "one", "long");
    cr_assert_eq(points_of(page, "class=\"raw", 0), 57);
    cr_assert_eq(points_of(page, "class=\"raw", 1), 1);
    cr_assert_eq(points_of(page, "class=\"raw", 2), REPORT_MAX_POINTS);
    cr_assert_eq(points_of(page, "class=\"mean", 0), 57);
    cr_assert_eq(points_of(page, "class=\"mean", 2), REPORT_MAX_POINTS);
    cr_assert_not_null(strstr(page, ">4000<"));
    free(page);
}

Test(report, validation_has_curves_of_its_own)
{
    test_folder("report_judged", folder, sizeof folder);
    char *text = log_text_of(20), *judged;
    size_t n_bytes;
    FILE *out = open_memstream(&judged, &n_bytes);
    fputs(text, out);
    for (int i = 0; i < 3; i++)
        fprintf(out, "{\"step\":19,\"val_miou\":0.%d,\"val_boundary_iou\":0.2,\"val_ms\":5}\n", i);
    fprintf(out, "{\"step\":39,\"val_miou\":0.5,\"val_boundary_iou\":null,\"val_ms\":5}\n");
    fclose(out);
    write_file("run", "config.yaml", "seed: 1\n");
    write_file("run", "log.jsonl", judged);
    ReportLog log = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/run/log.jsonl", folder);
    cr_assert_eq(report_log_read(path, &log), OK, "%s", status_message());
    cr_expect_eq(log.n, 20);
    cr_assert_eq(log.n_judged, 2, "made again counts once");
    cr_expect_eq(log.judged[0].miou, 0.2);
    cr_expect_eq(log.judged[1].step, 39);
    report_log_free(&log);
    char *page = PAGE_OF("run");
    cr_expect_not_null(strstr(page, "Validation: mean IoU"));
    free(page);
    free(judged);
    free(text);
}

Test(report, losses_that_are_no_number_leave_a_gap)
{
    test_folder("report_gap", folder, sizeof folder);
    char *text;
    size_t n_bytes;
    FILE *out = open_memstream(&text, &n_bytes);
    static const char *const losses[] = {"3", "null", "2", "-1", "null"};
    for (int i = 0; i < 5; i++) add_line(out, i, losses[i]);
    fclose(out);
    write_file("run", "config.yaml", "seed: 1\n");
    write_file("run", "log.jsonl", text);
    char *page = PAGE_OF("run");
    cr_assert_eq(points_of(page, "class=\"raw", 0), 3);
    cr_assert_null(strstr(page, "logarithmic"));
    write_file("run", "log.jsonl", "");
    free(page);
    free(PAGE_OF("run"));
    free(text);
}

Test(report, steps_made_again_count_once)
{
    test_folder("report_again", folder, sizeof folder);
    char *text, path[300];
    size_t n_bytes;
    FILE *out = open_memstream(&text, &n_bytes);
    for (int i = 0; i < 20; i++) add_line(out, i, "1");
    for (int i = 10; i < 30; i++) add_line(out, i, "2"); /* taken up from the state of step 10 */
    fclose(out);
    write_file("run", "log.jsonl", text);
    snprintf(path, sizeof path, "%s/run/log.jsonl", folder);
    ReportLog log = {0};
    cr_assert_eq(report_log_read(path, &log), OK);
    cr_assert_eq(log.n, 30);
    for (int i = 0; i < 30; i++) {
        cr_assert_eq(log.steps[i].step, i);
        cr_assert_eq(log.steps[i].loss, i < 10 ? 1 : 2);
    }
    report_log_free(&log);
    free(text);
}

Test(report, results_alone_make_a_page)
{
    test_folder("report_alone", folder, sizeof folder);
    write_file("teacher", "eval.json", eval_text);
    char *page = PAGE_OF("teacher");
    cr_assert_not_null(strstr(page, "Not trained here"));
    cr_assert_null(strstr(page, "<svg"));
    free(page);
    write_run("run", 3, "seed: 1\n"); /* and neither results nor pictures */
    page = PAGE_OF("run");
    cr_assert_null(strstr(page, "<table"));
    cr_assert_null(strstr(page, "<h2>Pictures"));
    free(page);
}

Test(report, the_best_of_a_line_stands_out)
{
    test_folder("report_best", folder, sizeof folder);
    char better[sizeof eval_text];
    strcpy(better, eval_text);
    memcpy(strstr(better, "44.04"), "45.14", 5);
    write_file("one", "eval.json", eval_text);
    write_file("two", "eval.json", better);
    char *page = PAGE_OF("one", "two");
    cr_assert_not_null(strstr(page, "<td class=\"best\">45.1<small>"));
    cr_assert_eq(count(page, page + strlen(page), "class=\"best\""), 1, "equal ones do not");
    free(page);
}

Test(report, folders_of_one_name_are_told_apart)
{
    test_folder("report_names", folder, sizeof folder);
    write_run("a/run", 3, "seed: 1\n");
    write_run("b/run", 3, "seed: 1\n");
    char *page = PAGE_OF("a/run", "b/run");
    cr_assert_not_null(strstr(page, "/a/run</h3>"));
    cr_assert_not_null(strstr(page, "/b/run</h3>"));
    free(page);
}

Test(report, fewer_pictures_on_request)
{
    test_folder("report_pictures", folder, sizeof folder);
    for (int i = 0; i < 5; i++) {
        char name[24];
        snprintf(name, sizeof name, "p%d.png", i % 10);
        write_picture("run", name);
    }
    char *page = PAGE_OF("run", "--pictures=2");
    cr_assert_eq(count(page, page + strlen(page), "<img "), 2);
    cr_assert_not_null(strstr(page, "2 of 5 pictures"));
    free(page);
}

Test(report, base64_known_answers)
{
    /* RFC 4648, section 10 */
    static const char *const answers[][2] = {{"", ""},
                                             {"f", "Zg=="},
                                             {"fo", "Zm8="},
                                             {"foo", "Zm9v"},
                                             {"foob", "Zm9vYg=="},
                                             {"fooba", "Zm9vYmE="},
                                             {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        char *text;
        size_t n_bytes;
        FILE *out = open_memstream(&text, &n_bytes);
        report_base64(out, answers[i][0], strlen(answers[i][0]));
        fclose(out);
        cr_assert_str_eq(text, answers[i][1]);
        free(text);
    }
}

static void expect_failure(Status code, const char *message, const char *run)
{
    cr_assert_eq(REPORT(run), code, "%s", run);
    cr_assert_not_null(strstr(status_message(), message), "\"%s\" lacks \"%s\"", status_message(),
                       message);
    cr_assert_null(strchr(status_message(), '\n'));
}

Test(report, broken_files_are_one_clear_error)
{
    test_folder("report_broken", folder, sizeof folder);
    char page[300];
    snprintf(page, sizeof page, "%s/page.html", folder);
    write_run("run", 2, "seed: 1\n");
    write_file("run", "log.jsonl", "{\"step\":0,\"loss\":1");
    expect_failure(E_FORMAT, "run/log.jsonl:1: is not valid JSON", "run");
    write_file("run", "log.jsonl", "{\"step\":0,\"lr\":1}\n");
    expect_failure(E_FORMAT, "run/log.jsonl:1: the record has no number 'loss'", "run");
    write_file("run", "log.jsonl", "{\"step\":0.5}\n");
    expect_failure(E_FORMAT, "run/log.jsonl:1: step 0.5 is no step", "run");
    write_file("run", "log.jsonl", "\n");
    expect_failure(E_FORMAT, "run/log.jsonl:1", "run");
    write_file("run", "log.jsonl", "[1]\n");
    expect_failure(E_FORMAT, "run/log.jsonl:1: the record has no number 'step'", "run");
    write_file("empty", "notes.txt", "");
    expect_failure(E_FILE, "holds neither log.jsonl nor eval*.json", "empty");
    expect_failure(E_FILE, "there is no such run folder", "missing");
    write_file("other", "eval.json", "{\"model\":\"m\"}");
    expect_failure(E_FORMAT, "other/eval.json: is no result of retort eval", "other");
    write_file("drawn/pictures", "x.png", "GIF89a, not what it is called");
    expect_failure(E_FORMAT, "drawn/pictures/x.png: is no PNG file", "drawn");
    cr_assert_not(file_exists(page), "no page is left behind");
}

Test(report, a_log_needs_its_config)
{
    test_folder("report_config", folder, sizeof folder);
    char *text = log_text_of(2);
    write_file("run", "log.jsonl", text);
    free(text);
    expect_failure(E_FILE, "run/config.yaml", "run");
}

Test(report, words_are_checked)
{
    test_folder("report_words", folder, sizeof folder);
    write_run("run", 2, "seed: 1\n");
    char *nothing[] = {"run"};
    cr_assert_eq(command_report(&(Args){.n = 1, .words = nothing}), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "--out=.. is missing"));
    cr_assert_eq(report(0, NULL), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "name a run folder"));
    cr_assert_eq(REPORT("run", "--colour=red"), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "--colour=red"));
}
