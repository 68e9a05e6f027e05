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
    options_free(&options);
    return status;
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

/* A run that wrote states of steps 10, 20, .. 10 n. */
static void finished_run(int n)
{
    RunFolder *run;
    cr_assert_eq(open_run("never", "--run.keep_last=2", &run), OK, "%s", status_message());
    cr_assert_null(run->resume_from);
    for (int step = 10; step <= 10 * n; step += 10) {
        write_state(run, step);
        cr_assert_eq(run_folder_publish(run, step), OK, "%s", status_message());
    }
    run_folder_close(run);
}

Test(run_folder, a_folder_that_holds_a_run_is_not_started_over)
{
    test_folder("run_never", folder, sizeof folder);
    RunFolder *run;
    finished_run(1);
    cr_assert_eq(open_run("never", "--seed=1", &run), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "holds a run; go on with it (--run.resume=auto)"));
}

Test(run_folder, auto_starts_or_goes_on)
{
    test_folder("run_auto", folder, sizeof folder);
    RunFolder *run;
    cr_assert_eq(open_run("auto", "--seed=3", &run), OK);
    cr_assert_null(run->resume_from);
    run_folder_close(run);
    cr_assert_eq(open_run("auto", "--seed=3", &run), OK, "killed before its first checkpoint");
    cr_assert_null(run->resume_from);
    write_state(run, 7);
    cr_assert_eq(run_folder_publish(run, 7), OK);
    run_folder_close(run);
    cr_assert_eq(open_run("auto", "--seed=4", &run), OK);
    cr_assert_not_null(strstr(run->resume_from, "checkpoints/step_000000007.safetensors"));
    cr_assert_str_eq(run->changes, "seed: 4, was 3\n");
    run_folder_close(run);
}

Test(run_folder, keeps_the_last_states)
{
    test_folder("run_keep", folder, sizeof folder);
    RunFolder *run;
    finished_run(4);
    cr_assert_eq(open_run("auto", "--run.keep_last=2", &run), OK);
    cr_assert_not(has_state(run, 10));
    cr_assert_not(has_state(run, 20));
    cr_assert(has_state(run, 30));
    cr_assert(has_state(run, 40));
    run_folder_close(run);
}

Test(run_folder, a_named_state_is_resumed)
{
    test_folder("run_named", folder, sizeof folder);
    RunFolder *run;
    char path[320];
    finished_run(2);
    snprintf(path, sizeof path, "%s/run/checkpoints/step_000000010.safetensors", folder);
    cr_assert_eq(open_run(path, "--seed=1", &run), OK, "%s", status_message());
    cr_assert_str_eq(run->resume_from, path);
    run_folder_close(run);
    cr_assert_eq(open_run("no/such/state", "--seed=1", &run), E_FILE);
}

Test(run_folder, a_lost_or_strange_latest_stops_the_run)
{
    test_folder("run_lost", folder, sizeof folder);
    RunFolder *run;
    char path[320];
    finished_run(2);
    snprintf(path, sizeof path, "%s/run/checkpoints/step_000000020.safetensors", folder);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(open_run("auto", "--seed=1", &run), E_FILE);
    snprintf(path, sizeof path, "%s/run/checkpoints/latest", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, "../../x\n", 8), OK);
    cr_assert_eq(open_run("auto", "--seed=1", &run), E_FORMAT);
}

Test(run_folder, one_process_at_a_time)
{
    test_folder("run_lock", folder, sizeof folder);
    RunFolder *run, *second;
    cr_assert_eq(open_run("auto", "--seed=1", &run), OK);
    cr_assert_eq(open_run("auto", "--seed=1", &second), E_CONFIG);
    cr_assert_not_null(strstr(status_message(), "in use by another process"));
    run_folder_close(run);
    cr_assert_eq(open_run("auto", "--seed=1", &run), OK);
    run_folder_close(run);
}

Test(run_folder, leftovers_of_a_killed_write_are_removed)
{
    test_folder("run_leftover", folder, sizeof folder);
    RunFolder *run;
    char path[320];
    finished_run(1);
    snprintf(path, sizeof path, "%s/run/checkpoints/step_000000020.safetensors.tmp", folder);
    cr_assert_eq(file_replace(&file_ops_system, path, "half", 4), OK);
    cr_assert_eq(open_run("auto", "--seed=1", &run), OK);
    cr_assert_not(file_exists(path));
    run_folder_close(run);
}

static int failing_rename(void *context, const char *from, const char *to)
{
    (void)context, (void)from, (void)to;
    errno = EIO;
    return -1;
}

Test(run_folder, a_failed_publish_keeps_the_former_state)
{
    test_folder("run_publish", folder, sizeof folder);
    FileOps broken = file_ops_system;
    broken.rename = failing_rename;
    RunFolder *run;
    finished_run(2);
    cr_assert_eq(open_run("auto", "--run.keep_last=1", &run), OK);
    write_state(run, 30);
    run->ops = &broken;
    cr_assert_eq(run_folder_publish(run, 30), E_FILE);
    run_folder_close(run);
    cr_assert_eq(open_run("auto", "--run.keep_last=1", &run), OK);
    cr_assert_not_null(strstr(run->resume_from, "step_000000020"));
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
