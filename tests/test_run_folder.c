/* The run folder and its log: what may be started over, what is resumed, and that a checkpoint
 * counts only once it is whole.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support.h"
#include "train/log.h"
#include "train/run_folder.h"

static char folder[256];

static Options options_of(const char *resume, const char *more)
{
    char dir[300], how[320], last[128];
    char *overrides[] = {dir, how, last};
    Options options;
    snprintf(dir, sizeof dir, "--run.dir=%s/run", folder);
    snprintf(how, sizeof how, "--run.resume=%s", resume);
    snprintf(last, sizeof last, "%s", more);
    cr_assert_eq(options_load(NULL, 3, overrides, &options), OK, "%s", status_message());
    return options;
}

static Status open_run(const char *resume, const char *more, RunFolder **out)
{
    Options options = options_of(resume, more);
    Status status = run_folder_open(&file_ops_system, &options, out);
    if (status == OK) status = run_folder_begin(*out, &options, INT64_MAX);
    options_free(&options);
    return status;
}

/* Begins a run, or goes on with it, expecting no trouble. */
static RunFolder *begun_run(const char *resume, const char *more)
{
    RunFolder *run;
    cr_assert_eq(open_run(resume, more, &run), OK, "%s", status_message());
    return run;
}

static void write_state(const RunFolder *run, int64_t step)
{
    char *path = run_folder_state_path(run, step);
    cr_assert_eq(file_replace(&file_ops_system, path, "state", 5), OK);
    free(path);
}

static bool has_state(const RunFolder *run, int64_t step)
{
    char *path = run_folder_state_path(run, step);
    bool there = file_exists(path);
    free(path);
    return there;
}

static void publish(RunFolder *run, int64_t step, double score)
{
    write_state(run, step);
    cr_assert_eq(run_folder_publish(run, step, score), OK, "%s", status_message());
}

/* A run that wrote states of steps 10, 20, .. 10 n. */
static void finished_run(int n)
{
    RunFolder *run = begun_run("never", "--run.keep_last=2");
    cr_assert_eq(run->n_resume_from, 0);
    for (int step = 10; step <= 10 * n; step += 10) publish(run, step, NAN);
    run_folder_close(run);
}

static const char *file_of(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/run/%s", folder, name);
    return path;
}

static const char *file_of_state(int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoints/step_%09d.safetensors", (int)step);
    return file_of(name);
}

Test(run_folder, a_folder_that_holds_a_run_is_not_started_over)
{
    test_folder("run_never", folder, sizeof folder);
    RunFolder *run;
    finished_run(1);
    cr_assert_eq(open_run("never", "--seed=1", &run), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "holds a run; go on with it (--run.resume=auto)"));
    cr_assert_eq(unlink(file_of("checkpoints/latest")), 0);
    cr_assert_eq(open_run("never", "--seed=1", &run), E_CONFIG, "a state alone is a run, too");
}

Test(run_folder, auto_starts_or_goes_on)
{
    test_folder("run_auto", folder, sizeof folder);
    run_folder_close(begun_run("auto", "--seed=3"));
    RunFolder *run = begun_run("auto", "--seed=3"); /* killed before its first checkpoint */
    cr_assert_eq(run->n_resume_from, 0);
    publish(run, 7, NAN);
    run_folder_close(run);
    run = begun_run("auto", "--seed=4");
    cr_assert_eq(run->n_resume_from, 1);
    cr_assert_str_eq(run->resume_from[0], file_of_state(7));
    cr_assert_str_eq(run->changes, "seed: 4, was 3\n");
    cr_assert_null(run->lost);
    run_folder_close(run);
}

Test(run_folder, opening_changes_nothing)
{
    test_folder("run_open", folder, sizeof folder);
    finished_run(1);
    RunFolder *run;
    Options options = options_of("auto", "--seed=99");
    cr_assert_eq(run_folder_open(&file_ops_system, &options, &run), OK);
    options_free(&options);
    run_folder_close(run);
    run = begun_run("auto", "--seed=4");
    cr_assert_str_eq(run->changes, "seed: 4, was 0\nrun.resume: auto, was never\n", "%s",
                     run->changes);
    run_folder_close(run);
}

Test(run_folder, keeps_the_last_states)
{
    test_folder("run_keep", folder, sizeof folder);
    finished_run(4);
    RunFolder *run = begun_run("auto", "--run.keep_last=2");
    cr_assert_not(has_state(run, 10));
    cr_assert_not(has_state(run, 20));
    cr_assert(has_state(run, 30));
    cr_assert(has_state(run, 40));
    run_folder_close(run);
}

Test(run_folder, keeps_the_best_and_the_milestones)
{
    test_folder("run_best", folder, sizeof folder);
    const double scores[] = {0.1, 0.5, 0.3, NAN, 0.4, 0.5};
    RunFolder *run = begun_run("never", "--run.milestone_every=30");
    run->keep_last = 1;
    for (int i = 0; i < 4; i++) publish(run, 10 * (i + 1), scores[i]);
    run_folder_close(run);
    run = begun_run("auto", "--run.milestone_every=30");
    cr_assert_eq(run->best_step, 20, "the best is known after a restart");
    cr_assert_float_eq(run->best_score, 0.5, 0);
    run->keep_last = 1;
    for (int i = 4; i < 6; i++) publish(run, 10 * (i + 1), scores[i]);
    publish(run, 70, NAN);
    for (int step = 10; step <= 70; step += 10)
        cr_expect_eq(has_state(run, step), step == 20 || step == 30 || step == 60 || step == 70,
                     "step %d", step);
    char *best;
    size_t n_bytes;
    cr_assert_eq(file_read(file_of("checkpoints/best"), 100, &best, &n_bytes), OK);
    cr_assert_str_eq(best, "step_000000020.safetensors 0.5\n", "equal is not better");
    free(best);
    run_folder_close(run);
    Options options = options_of("auto", "--seed=1");
    cr_assert_eq(run_folder_open(&file_ops_system, &options, &run), OK);
    cr_assert_eq(run_folder_begin(run, &options, 10), OK);
    cr_assert_eq(run->best_step, -1, "a best state of later steps is judged again");
    options_free(&options);
    run_folder_close(run);
    run = begun_run("auto", "--run.milestone_every=30");
    run->keep_last = 1;
    publish(run, 80, 0.6);
    cr_expect_not(has_state(run, 20), "what is not the best any more is not kept");
    run_folder_close(run);
    cr_assert_eq(file_replace(&file_ops_system, file_of("checkpoints/best"), "x", 1), OK);
    cr_assert_eq(open_run("auto", "--seed=1", &run), E_FORMAT);
}

Test(run_folder, a_named_state_is_resumed_in_a_folder_of_its_own)
{
    test_folder("run_named", folder, sizeof folder);
    RunFolder *run;
    char path[400], dir[340];
    finished_run(2);
    snprintf(path, sizeof path, "%s", file_of_state(10));
    cr_assert_eq(open_run(path, "--seed=1", &run), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "holds a run"));
    snprintf(dir, sizeof dir, "--run.dir=%s/other", folder);
    run = begun_run(path, dir);
    cr_assert_eq(run->n_resume_from, 1);
    cr_assert_str_eq(run->resume_from[0], path);
    run_folder_close(run);
    snprintf(dir, sizeof dir, "--run.dir=%s/third", folder);
    cr_assert_eq(open_run("no/such/state", dir, &run), E_FILE);
}

Test(run_folder, states_come_newest_first_and_a_lost_one_is_told)
{
    test_folder("run_lost", folder, sizeof folder);
    finished_run(2);
    RunFolder *run = begun_run("auto", "--seed=1");
    write_state(run, 25); /* killed before `latest` was written: as good */
    run_folder_close(run);
    run = begun_run("auto", "--seed=1");
    cr_assert_eq(run->n_resume_from, 3);
    cr_assert_str_eq(run->resume_from[0], file_of_state(25));
    cr_assert_str_eq(run->resume_from[2], file_of_state(10));
    cr_assert_null(run->lost);
    run_folder_close(run);

    cr_assert_eq(unlink(file_of_state(25)), 0);
    cr_assert_eq(unlink(file_of_state(20)), 0);
    run = begun_run("auto", "--seed=1");
    cr_assert_eq(run->n_resume_from, 1);
    cr_assert_not_null(strstr(run->lost, "step_000000020.safetensors, which is not there"));
    run_folder_close(run);
    cr_assert_eq(unlink(file_of_state(10)), 0);
    cr_assert_eq(open_run("auto", "--seed=1", &run), E_FILE, "never a start from nothing");
    cr_assert_not_null(strstr(status_message(), "nor is any other state"));
}

Test(run_folder, done_is_the_last_word_until_the_run_goes_on)
{
    test_folder("run_done", folder, sizeof folder);
    finished_run(1);
    RunFolder *run = begun_run("auto", "--seed=1");
    cr_assert_not(run->done);
    cr_assert_eq(run_folder_finish(run, 10), OK);
    run_folder_close(run);
    Options options = options_of("auto", "--seed=1");
    cr_assert_eq(run_folder_open(&file_ops_system, &options, &run), OK);
    cr_assert(run->done);
    cr_assert_eq(run_folder_begin(run, &options, 10), OK);
    options_free(&options);
    cr_assert_not(file_exists(file_of("DONE")));
    run_folder_close(run);
}

Test(run_folder, one_process_at_a_time)
{
    test_folder("run_lock", folder, sizeof folder);
    RunFolder *run = begun_run("auto", "--seed=1"), *second;
    cr_assert_eq(open_run("auto", "--seed=1", &second), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "in use by another process"));
    run_folder_close(run);
    run_folder_close(begun_run("auto", "--seed=1"));
}

Test(run_folder, leftovers_of_a_killed_write_are_removed)
{
    test_folder("run_leftover", folder, sizeof folder);
    const char *name = "checkpoints/step_000000020.safetensors.tmp";
    finished_run(1);
    cr_assert_eq(file_replace(&file_ops_system, file_of(name), "half", 4), OK);
    run_folder_close(begun_run("auto", "--seed=1"));
    cr_assert_not(file_exists(file_of(name)));
}

static int failing_rename(void *context, const char *from, const char *to)
{
    (void)context, (void)from, (void)to;
    errno = EIO;
    return -1;
}

Test(run_folder, a_failed_publish_keeps_the_states)
{
    test_folder("run_publish", folder, sizeof folder);
    FileOps broken = file_ops_system;
    broken.rename = failing_rename;
    finished_run(2);
    RunFolder *run = begun_run("auto", "--run.keep_last=1");
    write_state(run, 30);
    run->ops = &broken;
    cr_assert_eq(run_folder_publish(run, 30, NAN), E_FILE);
    run_folder_close(run);
    run = begun_run("auto", "--run.keep_last=1");
    cr_assert_eq(run->n_resume_from, 3);
    run_folder_close(run);
}

Test(run_folder, needs_a_folder)
{
    Options options;
    RunFolder *run;
    cr_assert_eq(options_load(NULL, 0, NULL, &options), OK);
    cr_assert_eq(run_folder_open(&file_ops_system, &options, &run), E_CONFIG);
    options_free(&options);
}

/* ---- log ---- */

Test(log, records_are_lines_of_json)
{
    test_folder("log_records", folder, sizeof folder);
    char path[320], *content;
    size_t n_bytes;
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    for (int round = 0; round < 2; round++) { /* the second one appends */
        Log *log;
        cr_assert_eq(log_open(NULL, path, &log), OK);
        const LogField fields[] = {LOG_INT("step", 1234567890123), LOG_DOUBLE("loss", 0.1),
                                   LOG_DOUBLE("bad", NAN), LOG_DOUBLE("lr", 2e-6),
                                   LOG_TEXT("mode", "a \"b\"\n")};
        cr_assert_eq(log_record(log, 5, fields), OK, "%s", status_message());
        cr_assert_eq(log_record(log, 1, &LOG_TEXT("x", "\xff")), E_FORMAT);
        log_text(log, LOG_INFO, "silent");
        log_close(log);
    }
    const char *line = "{\"step\":1234567890123,\"loss\":0.1,\"bad\":null,\"lr\":2e-06,"
                       "\"mode\":\"a \\\"b\\\"\\n\"}\n";
    cr_assert_eq(file_read(path, 1 << 16, &content, &n_bytes), OK);
    cr_assert_eq(n_bytes, 2 * strlen(line), "%s", content);
    cr_assert_eq(memcmp(content, line, strlen(line)), 0, "%s", content);
    free(content);
}

Test(log, rewinding_leaves_the_steps_before)
{
    test_folder("log_rewind", folder, sizeof folder);
    char path[320], *content;
    size_t n_bytes;
    const char *before = "{\"step\":0,\"loss\":1}\n{\"step\":0,\"score\":5}\n{\"step\":9}\n",
               *after = "{\"step\":10}\n{\"step\":11,\"lo", *more = "{\"step\":10}\n";
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(before, file) >= 0 && fputs(after, file) >= 0 && fclose(file) == 0);
    Log *log;
    cr_assert_eq(log_open(NULL, path, &log), OK);
    cr_assert_eq(log_rewind(log, 10), OK, "%s", status_message());
    cr_assert_eq(log_record(log, 1, &LOG_INT("step", 10)), OK);
    log_close(log);
    cr_assert_eq(file_read(path, 1 << 16, &content, &n_bytes), OK);
    cr_assert_eq(n_bytes, strlen(before) + strlen(more), "%s", content);
    cr_assert(!strncmp(content, before, strlen(before)) && !strcmp(content + strlen(before), more),
              "%s", content);
    free(content);
    cr_assert_eq(log_open(NULL, path, &log), OK);
    cr_assert_eq(log_rewind(log, 0), OK, "%s", status_message());
    log_close(log);
    cr_assert_eq(file_read(path, 1 << 16, &content, &n_bytes), OK);
    cr_assert_eq(n_bytes, 0);
    free(content);
}

Test(log, text_has_time_and_level)
{
    char *text = NULL;
    size_t n_bytes;
    int year, second;
    char level[8], word[8];
    FILE *memory = open_memstream(&text, &n_bytes);
    Log *log;
    cr_assert_eq(log_open(memory, NULL, &log), OK);
    log_text(log, LOG_WARN, "slow %d", 3);
    cr_assert_eq(log_record(log, 0, NULL), OK);
    log_close(log);
    fclose(memory);
    cr_assert_eq(sscanf(text, "%d-%*d-%*d %*d:%*d:%d %7s %7s 3", &year, &second, level, word), 4,
                 "%s", text);
    cr_assert_str_eq(level, "warn");
    cr_assert_str_eq(word, "slow");
    cr_assert_eq(text[n_bytes - 1], '\n');
    free(text);
}

Test(log, a_full_disk_is_an_error)
{
    if (access("/dev/full", W_OK)) cr_skip_test("/dev/full is missing");
    Log *log;
    cr_assert_eq(log_open(NULL, "/dev/full", &log), OK);
    cr_assert_eq(log_record(log, 1, &LOG_INT("step", 1)), E_FILE);
    log_close(log);
}
