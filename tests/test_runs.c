/* Whole runs through the program: a run that is taken up again ends in the same bits as one that
 * never stopped, and what took no part in a step is not touched by it. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

enum { N_STEPS = 6, N_IMAGES = 7, N_MASKS = 5 };

typedef struct Place {
    char root[128], scenes[160], one[160], two[160];
} Place;

static Place make_place(const char *name)
{
    Place place;
    test_folder(name, place.root, sizeof place.root);
    snprintf(place.one, sizeof place.one, "%s/one", place.root);
    snprintf(place.two, sizeof place.two, "%s/two", place.root);
    char scenes[128];
    snprintf(scenes, sizeof scenes, "%s/scenes", name);
    test_folder(scenes, place.scenes, sizeof place.scenes);
    make_scenes(place.scenes, N_IMAGES, N_MASKS);
    return place;
}

static const char *state_path(const char *folder, int step)
{
    static char path[2][300];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/checkpoints/step_%09d.safetensors", folder, step);
    return path[turn];
}

static void expect_same_state(const char *folder_a, const char *folder_b, int step)
{
    char why[512];
    cr_expect(same_tensors(state_path(folder_a, step), state_path(folder_b, step), why, sizeof why),
              "%s", why);
}

/* log.jsonl has one record for each step, in order, with all fields that train/log.h names. */
static void check_log(const char *folder, int n_steps)
{
    const char *fields[] = {"step",      "lr",      "loss",         "grad_norm",
                            "img_per_s", "step_ms", "data_wait_ms", "peak_bytes"};
    double values[256];
    for (int i = 0; i < 8; i++)
        cr_expect_eq(log_column(folder, fields[i], 256, values), n_steps, "%s", folder);
    log_column(folder, "step", 256, values);
    for (int s = 0; s < n_steps; s++) cr_expect_eq(values[s], s);
    log_column(folder, "peak_bytes", 256, values);
    cr_expect_gt(values[0], 1e6);
}

/* ---- resume ---- */

/* The whole run, a run from its middle state in another folder with another number of data threads,
 * and a run in two processes; the last without a schedule, for which the length of the run would
 * matter. */
static void check_resume(const char *name, const char *command)
{
    Place place = make_place(name);
    char three[200];
    snprintf(three, sizeof three, "%s/three", place.root);
    program_succeed(
        "%s --data.root=%s --run.dir=%s --train.steps=6 --run.save_every=3 --data.threads=2",
        command, place.scenes, place.one);
    check_log(place.one, N_STEPS);
    program_succeed(
        "%s --data.root=%s --run.dir=%s --train.steps=6 --run.resume=%s --data.threads=0", command,
        place.scenes, place.two, state_path(place.one, 3));
    expect_same_state(place.one, place.two, N_STEPS);

    program_succeed("%s --data.root=%s --run.dir=%s --train.steps=6 --optim.schedule=constant "
                    "--run.save_every=4",
                    command, place.scenes, three);
    char command_two[1500];
    snprintf(command_two, sizeof command_two,
             "%s --data.root=%s --run.dir=%s/four --optim.schedule=constant "
             "--run.resume=auto",
             command, place.scenes, place.root);
    program_succeed("%s --train.steps=2", command_two);
    const ProgramResult *resumed = program_succeed("%s --train.steps=6 --data.threads=1",
                                                   command_two);
    cr_expect(strstr(resumed->err, "train.steps: 6, was 2"), "%s", resumed->err);
    snprintf(place.two, sizeof place.two, "%s/four", place.root);
    expect_same_state(three, place.two, N_STEPS);
    check_log(place.two, N_STEPS);
}

Test(runs, distillation_resumes, .timeout = 300)
{
    check_resume("runs_distill", TINY_DISTILL " --optim.ema_decay=0.9");
}

/* The embeddings come in the order of the samples, on the loader's threads. */
Test(runs, distillation_from_a_cache_resumes, .timeout = 300)
{
    Place place = make_place("runs_cache");
    char command[900];
    program_succeed(TINY_TEACH " --data.root=%s --out=build/tmp/runs_cache_embeddings "
                               "--teach.dtype=int8 --teach.zstd_level=1",
                    place.scenes);
    snprintf(command, sizeof command,
             TINY_DISTILL " --teacher.embeddings=build/tmp/runs_cache_embeddings");
    check_resume("runs_cache", command);
}

Test(runs, distillation_in_bf16_resumes, .timeout = 300)
{
    check_resume("runs_distill_bf16", TINY_DISTILL " --run.precision=bf16 --optim.ema_decay=0.9");
}

Test(runs, finetuning_in_bf16_resumes, .timeout = 300)
{
    check_resume("runs_finetune_bf16",
                 TINY_FINETUNE " --run.precision=bf16 --train.preset=paper --optim.ema_decay=0.9");
}

Test(runs, paper_finetuning_resumes, .timeout = 300)
{
    check_resume("runs_paper", TINY_FINETUNE " --train.preset=paper --optim.ema_decay=0.9");
}

Test(runs, released_finetuning_resumes, .timeout = 300)
{
    check_resume("runs_released", TINY_FINETUNE
                 " --train.preset=released-code --loss.points=500 --optim.ema_decay=0.9");
}

Test(runs, sam_training_resumes, .timeout = 300)
{
    check_resume("runs_sam",
                 "finetune --model=" TINY_TEACHER " --data.masks_per_image=4 --train.preset=sam"
                 " --optim.warmup_steps=2" TINY_STEP);
}

/* Threads that share a sum must share it in the same order every time. */
Test(runs, two_compute_threads_give_the_same_bits_again, .timeout = 300)
{
    Place place = make_place("runs_threads");
    const char *folders[] = {place.one, place.two};
    for (int i = 0; i < 2; i++)
        program_succeed(TINY_FINETUNE
                        " --data.root=%s --run.dir=%s --train.steps=2 --run.threads=2",
                        place.scenes, folders[i]);
    expect_same_state(place.one, place.two, 2);
}

Test(runs, real_images_train, .timeout = 300)
{
    char data[256];
    SKIP_WITHOUT("data/sa1b/pairs", data);
    Place place = make_place("runs_real");
    double loss[4];
    program_succeed(TINY_FINETUNE
                    " --data.root=%s --run.dir=%s --train.steps=4 --train.batch=1 --data.flip=0 "
                    "--data.masks_per_image=8 --train.mode=multi --optim.schedule=constant",
                    data, place.one);
    cr_assert_eq(log_column(place.one, "loss", 4, loss), 4);
    cr_expect(loss[3] < loss[0] && loss[0] < 30, "losses %g to %g", loss[0], loss[3]);
}

/* ---- signals ---- */

static pid_t start(const char *command, const char *log)
{
    pid_t child = fork();
    if (child != 0) return child;
    char line[2000];
    snprintf(line, sizeof line, "exec " RETORT_BINARY " %s 2>%s", command, log);
    execl("/bin/sh", "sh", "-c", line, NULL);
    _exit(127);
}

static bool has_lines(const char *path, int n_lines)
{
    FILE *file = fopen(path, "r");
    if (!file) return false;
    for (int c; n_lines > 0 && (c = fgetc(file)) != EOF;) n_lines -= c == '\n';
    fclose(file);
    return n_lines == 0;
}

static void check_signal(const char *name, int signal_number)
{
    Place place = make_place(name);
    enum { LONG = 80 };
    char command[1500], log[200], records[200], said[64];
    const char *form = TINY_DISTILL
        " --data.root=%s --run.dir=%s --train.steps=80 --run.keep_last=100 %s";
    program_succeed(form, place.scenes, place.one, "");
    snprintf(command, sizeof command, form, place.scenes, place.two, "");
    snprintf(log, sizeof log, "%s/stderr", place.root);
    snprintf(records, sizeof records, "%s/log.jsonl", place.two);
    pid_t child = start(command, log);
    while (!has_lines(records, 3) && waitpid(child, NULL, WNOHANG) == 0) usleep(500);
    kill(child, signal_number);
    int status;
    waitpid(child, &status, 0);
    char *text = file_text(log);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 75, "status %d: %s", status, text);
    snprintf(said, sizeof said, "stopped by signal %d", signal_number);
    cr_expect(strstr(text, said), "%s", text);
    free(text);
    double steps[LONG];
    int n_done = log_column(place.two, "step", LONG, steps);
    cr_assert(n_done >= 3 && n_done < LONG, "%d steps were done", n_done);
    cr_expect_eq(access(state_path(place.two, n_done), R_OK), 0);
    program_succeed(form, place.scenes, place.two, "--run.resume=auto");
    expect_same_state(place.one, place.two, LONG);
    check_log(place.two, LONG);
}

Test(runs, sigterm_saves_and_the_run_goes_on, .timeout = 300)
{
    check_signal("runs_sigterm", SIGTERM);
}

Test(runs, sigusr1_saves_and_the_run_goes_on, .timeout = 300)
{
    check_signal("runs_sigusr1", SIGUSR1);
}

/* ---- parameters that take no part ---- */

static const Tensor *find(const SafeTensors *file, const char *prefix, const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const Tensor *tensor = safetensors_find(file, full);
    cr_assert_not_null(tensor, "no tensor %s", full);
    return tensor;
}

/* Whether a parameter and its optimiser entries are the same in both files: all four, or none. */
static void expect_update(const SafeTensors *before, const SafeTensors *after, const char *name,
                          bool updated)
{
    const char *prefixes[] = {"", "exp_avg.", "exp_avg_sq.", "step."};
    for (int i = 0; i < 4; i++) {
        const Tensor *a = find(before, prefixes[i], name), *b = find(after, prefixes[i], name);
        bool same = memcmp(a->data, b->data, tensor_bytes(a)) == 0;
        cr_expect_eq(same, !updated, "%s%s was %s", prefixes[i], name,
                     same ? "not updated" : "updated");
    }
}

static const char *const point_names[] = {"prompt_encoder.point_embeddings.1.weight",
                                          "prompt_encoder.not_a_point_embed.weight"};
static const char *const box_names[] = {"prompt_encoder.point_embeddings.2.weight",
                                        "prompt_encoder.point_embeddings.3.weight"};

static void check_step(const char *folder, int step, bool boxes)
{
    SafeTensors *before, *after;
    cr_assert_eq(safetensors_open(state_path(folder, step - 1), &before), OK, "%s",
                 status_message());
    cr_assert_eq(safetensors_open(state_path(folder, step), &after), OK, "%s", status_message());
    for (int i = 0; i < 2; i++) {
        expect_update(before, after, point_names[i], !boxes);
        expect_update(before, after, box_names[i], boxes);
    }
    /* Background points: no prompt has one, but the embedding takes part with the others, as in
     * PyTorch: its gradient is zero, not absent. */
    float steps[2];
    const char *background = "prompt_encoder.point_embeddings.0.weight";
    memcpy(&steps[0], find(before, "step.", background)->data, sizeof steps[0]);
    memcpy(&steps[1], find(after, "step.", background)->data, sizeof steps[1]);
    cr_expect_eq(steps[1] - steps[0], boxes ? 0 : 1);
    expect_update(before, after, "mask_decoder.mask_tokens.weight", true);
    safetensors_close(before);
    safetensors_close(after);
}

Test(runs, prompts_that_are_absent_update_nothing, .timeout = 300)
{
    Place place = make_place("runs_gates");
    for (int step = 1; step <= 4; step++) {
        bool boxes = step % 2 == 0;
        program_succeed(TINY_FINETUNE
                        " --data.root=%s --run.dir=%s --optim.schedule=constant --run.resume=auto "
                        "--run.keep_last=5 --train.steps=%d --data.box_probability=%d",
                        place.scenes, place.one, step, boxes);
        if (step > 1) check_step(place.one, step, boxes);
    }
}

/* No path leads from the IoU head or from mask prompts to the loss: no moments, no decay. */
Test(runs, what_the_loss_does_not_reach_is_not_optimised, .timeout = 300)
{
    Place place = make_place("runs_unreached");
    const char *parts[] = {"iou_prediction_head", "mask_downscaling"};
    const char *form = TINY_FINETUNE
        " --data.root=%s --run.dir=%s --run.keep_last=2 --run.save_every=1 --train.steps=2";
    program_succeed(form, place.scenes, place.one);
    SafeTensors *first, *last;
    cr_assert_eq(safetensors_open(state_path(place.one, 1), &first), OK, "%s", status_message());
    cr_assert_eq(safetensors_open(state_path(place.one, 2), &last), OK, "%s", status_message());
    int n_found = 0, n_optimised = 0;
    for (int i = 0; i < last->n_tensors; i++) {
        const char *name = last->tensors[i].name;
        bool unreached = strstr(name, parts[0]) || strstr(name, parts[1]);
        n_optimised += strncmp(name, "exp_avg.", 8) == 0;
        if (!unreached) continue;
        n_found++;
        cr_expect(strncmp(name, "prompt_encoder.", 15) == 0 ||
                      strncmp(name, "mask_decoder.", 13) == 0,
                  "%s exists", name);
        const Tensor *a = find(first, "", name), *b = find(last, "", name);
        cr_expect_eq(memcmp(a->data, b->data, tensor_bytes(a)), 0, "%s changed", name);
    }
    cr_expect_eq(n_found, 6 + 10); /* three layers; three convolutions and two norms */
    cr_expect_gt(n_optimised, 200);
    safetensors_close(first);
    safetensors_close(last);
}
