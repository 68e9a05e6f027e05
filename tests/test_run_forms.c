/* One step computed in several forms must be one step: micro-batches, chunks of masks, recomputed
 * activations, a teacher beside the student or in files, and a memory budget that chooses among
 * them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

#define SAME_LOSS 2e-6 /* relative: what another order of f32 sums may change */

enum { N_IMAGES = 7, N_MASKS = 8, MAX_STEPS = 8 };

/* Makes the scenes of a test and returns its folder. */
static const char *make_place(const char *name, char scenes[192])
{
    static char root[128];
    char folder[160];
    test_folder(name, root, sizeof root);
    snprintf(folder, sizeof folder, "%s/scenes", name);
    test_folder(folder, scenes, 192);
    make_scenes(scenes, N_IMAGES, N_MASKS);
    return root;
}

static SafeTensors *open_file(const char *format, const char *folder)
{
    char path[300];
    SafeTensors *file;
    snprintf(path, sizeof path, format, folder);
    cr_assert_eq(safetensors_open(path, &file), OK, "%s", status_message());
    return file;
}

/* How far two files are apart in the tensors whose name starts with `prefix`: |a-b| / |b| over all
 * of them. */
static double distance(const SafeTensors *a, const SafeTensors *b, const char *prefix)
{
    double sum = 0, difference = 0;
    for (int i = 0; i < b->n_tensors; i++) {
        if (strncmp(b->tensors[i].name, prefix, strlen(prefix)) != 0) continue;
        const Tensor *other = safetensors_find(a, b->tensors[i].name),
                     *tensor = &b->tensors[i].tensor;
        cr_assert_not_null(other);
        const float *x = other->data, *y = tensor->data;
        for (int64_t e = 0; e < shape_elems(tensor->shape); e++) {
            sum += (double)y[e] * y[e];
            difference += ((double)x[e] - y[e]) * ((double)x[e] - y[e]);
        }
    }
    cr_assert_gt(sum, 0);
    return sqrt(difference / sum);
}

/* Losses equal within rounding, and gradients too (exp_avg of the first step is a tenth of them;
 * the weights themselves are no measure: Adam's first step is lr in the sign of a gradient that may
 * be rounding). */
static void expect_same_step(const char *folder, const char *wanted, double loss_tol,
                             double gradient_tol)
{
    double got_loss[MAX_STEPS], wanted_loss[MAX_STEPS];
    int n = log_column(wanted, "loss", MAX_STEPS, wanted_loss);
    cr_assert_eq(log_column(folder, "loss", MAX_STEPS, got_loss), n);
    cr_expect_lt(fabs(got_loss[0] - wanted_loss[0]), loss_tol * wanted_loss[0],
                 "%s: loss %.9g, wanted %.9g", folder, got_loss[0], wanted_loss[0]);
    SafeTensors *a = open_file("%s/checkpoints/step_000000001.safetensors", folder);
    SafeTensors *b = open_file("%s/checkpoints/step_000000001.safetensors", wanted);
    double off = distance(a, b, "exp_avg.");
    cr_expect_lt(off, gradient_tol, "%s: gradients are off by %.3g", folder, off);
    safetensors_close(a);
    safetensors_close(b);
}

/* Runs `command` in each form; all must be the step of the first. */
static void check_forms(const char *name, const char *command, int n_forms,
                        const char *const *forms)
{
    char scenes[192], first[200], folder[200];
    const char *root = make_place(name, scenes);
    for (int i = 0; i < n_forms; i++) {
        snprintf(folder, sizeof folder, "%s/form_%d", root, i);
        if (i == 0) snprintf(first, sizeof first, "%s", folder);
        program_succeed("%s --data.root=%s --run.dir=%s --train.steps=1 %s", command, scenes,
                        folder, forms[i]);
        expect_same_step(folder, first, SAME_LOSS, 2e-4);
    }
}

Test(run_forms, micro_batches_are_one_batch, .timeout = 300)
{
    const char *forms[] = {"", "--train.micro_batch=2", "--train.micro_batch=1"};
    check_forms("forms_micro_distill", TINY_DISTILL " --train.batch=4 --optim.bn=frozen", 3, forms);
    check_forms("forms_micro_finetune", TINY_FINETUNE " --train.batch=4 --optim.bn=frozen", 3,
                forms);
}

/* With batch norms that see the batch, a micro-batch is another batch: it is an option, not a free
 * choice. */
Test(run_forms, micro_batches_are_what_batch_norms_see, .timeout = 300)
{
    char scenes[192], whole[200], halves[200];
    const char *root = make_place("forms_micro_norm", scenes);
    double loss[2];
    snprintf(whole, sizeof whole, "%s/whole", root);
    snprintf(halves, sizeof halves, "%s/halves", root);
    const char *form = TINY_DISTILL
        " --data.root=%s --run.dir=%s --train.steps=1 --train.batch=4 %s";
    program_succeed(form, scenes, whole, "");
    program_succeed(form, scenes, halves, "--train.micro_batch=2");
    log_column(whole, "loss", 1, &loss[0]);
    log_column(halves, "loss", 1, &loss[1]);
    cr_expect_gt(fabs(loss[0] - loss[1]), 2 * SAME_LOSS * loss[0]);
}

/* 8 slots in chunks of 3: the last one has an empty slot. Images have 8, 7 and 6 masks. */
Test(run_forms, chunks_of_masks_are_one_loss, .timeout = 300)
{
    const char *forms[] = {"--run.mask_chunk=8", "--run.mask_chunk=3", "--run.mask_chunk=1"};
    check_forms("forms_chunk_paper", TINY_FINETUNE " --data.masks_per_image=8", 3, forms);
    check_forms("forms_chunk_released",
                TINY_FINETUNE " --data.masks_per_image=8 --train.preset=released-code "
                              "--loss.points=300 --train.mode=multi",
                3, forms);
}

static void check_recompute(const char *name, const char *command, const char *modules)
{
    char scenes[192], why[512], path[2][300];
    const char *root = make_place(name, scenes);
    for (int i = 0; i < 2; i++) {
        program_succeed("%s --data.root=%s --run.dir=%s/%d --train.steps=3 --run.recompute=%s",
                        command, scenes, root, i, i ? modules : "");
        snprintf(path[i], sizeof path[i], "%s/%d/checkpoints/step_000000003.safetensors", root, i);
    }
    cr_expect(same_tensors(path[0], path[1], why, sizeof why), "%s", why);
}

/* Batch norms are in training: running statistics must not be updated twice. */
Test(run_forms, recomputed_activations_are_the_same_bits, .timeout = 300)
{
    check_recompute("forms_recompute_distill", TINY_DISTILL, "image_encoder");
    check_recompute("forms_recompute_finetune", TINY_FINETUNE, "image_encoder,mask_decoder");
}

/* ---- the budget ---- */

/* Of sizes in the plan as it is printed, in MiB with one decimal, two of them added. */
#define PLAN_ROUNDING (2 * 0.05 * 1048576)

/* What the budget counts, in bytes: "peak" of the memory plan on stderr, and the copy for saving.
 */
static double planned_bytes(const ProgramResult *result)
{
    double peak_mib, copy_mib;
    const char *peak = strstr(result->err, "\n  peak ");
    const char *copy = strstr(result->err, "\n  copy for saving, beside it ");
    cr_assert(peak && sscanf(peak, "\n  peak %lf", &peak_mib) == 1, "%s", result->err);
    cr_assert(copy && sscanf(copy, "\n  copy for saving, beside it %lf", &copy_mib) == 1, "%s",
              result->err);
    return (peak_mib + copy_mib) * 1048576;
}

Test(run_forms, the_budget_chooses_the_chunk, .timeout = 300)
{
    char scenes[192], path[300];
    const char *root = make_place("forms_budget", scenes);
    const char *form = TINY_FINETUNE
        " --data.root=%s --run.dir=%s/%s --train.steps=1 --data.masks_per_image=8 %s";
    double of_eight = planned_bytes(program_succeed(form, scenes, root, "eight", ""));
    double of_two = planned_bytes(program_succeed(form, scenes, root, "two", "--run.mask_chunk=2"));
    cr_assert_lt(of_two, 0.9 * of_eight);

    char budget[64];
    snprintf(budget, sizeof budget, "--run.memory_budget=%.0f", of_two + 1e6);
    const ProgramResult *chosen = program_succeed(form, scenes, root, "chosen", budget);
    cr_expect_leq(planned_bytes(chosen), of_two + 1e6);
    cr_expect(strstr(chosen->err, "2 at a time"), "%s", chosen->err);
    snprintf(path, sizeof path, "%s/chosen/config.yaml", root);
    char *config = file_text(path);
    cr_expect(strstr(config, "mask_chunk: 2 "), "%s", config);
    free(config);

    const ProgramResult *refused = program_run(form, scenes, root, "refused",
                                               "--run.memory_budget=5MB");
    cr_expect_eq(refused->code, 1);
    const char *message = program_error(refused);
    cr_expect(strstr(message, "run.memory_budget = 5000000") &&
                  strstr(message, "one mask at a time needs"),
              "%s", message);
}

/* Where chunks are not enough, or there are none, blocks of the encoder are computed again: as few
 * as fit, so that nothing changes but memory. */
Test(run_forms, the_budget_chooses_what_is_recomputed, .timeout = 300)
{
    char scenes[192], path[2][300], why[512];
    const char *root = make_place("forms_budget_blocks", scenes);
    const char *form = TINY_DISTILL " --data.root=%s --run.dir=%s/%s --train.steps=2 %s";
    double whole = planned_bytes(program_succeed(form, scenes, root, "whole", ""));
    double all = planned_bytes(
        program_succeed(form, scenes, root, "all", "--run.recompute=image_encoder"));
    char budget[64];
    snprintf(budget, sizeof budget, "--run.memory_budget=%.0f", (whole + all) / 2);
    const ProgramResult *chosen = program_succeed(form, scenes, root, "chosen", budget);
    cr_expect_leq(planned_bytes(chosen), (whole + all) / 2 + PLAN_ROUNDING);
    cr_expect(strstr(chosen->err, "computed again in the backward pass: image_encoder."), "%s",
              chosen->err);
    for (int i = 0; i < 2; i++)
        snprintf(path[i], sizeof path[i], "%s/%s/checkpoints/step_000000002.safetensors", root,
                 i ? "chosen" : "whole");
    cr_expect(same_tensors(path[0], path[1], why, sizeof why), "%s", why);
    snprintf(path[0], sizeof path[0], "%s/chosen/config.yaml", root);
    char *config = file_text(path[0]);
    const char *named = strstr(config, "recompute: ");
    cr_expect(named && strstr(named, "image_encoder."), "%s", config);
    free(config);
}

/* Bytes that a step of distillation plans, and its multiply-adds, with what is computed again. */
static double bench_number(const char *root, const char *option, const char *key)
{
    char path[300];
    snprintf(path, sizeof path, "%s/bench.json", root);
    program_succeed("bench distill configs/recipes/distill_l0_paper.yaml --teacher.model= "
                    "--model=configs/models/efficientvit_sam_tiny.yaml --train.batch=4 --repeat=1 "
                    "--json=%s %s",
                    path, option);
    char *text = file_text(path);
    const char *found = strstr(text, key);
    double number = NAN;
    cr_assert(found && sscanf(found + strlen(key), "\": %lf", &number) == 1, "%s", text);
    free(text);
    return number;
}

/* The cheap blocks come first, so half of what can be freed takes less than half of the work. */
Test(run_forms, the_budget_chooses_what_is_cheap, .timeout = 300)
{
    char root[128], budget[64];
    test_folder("forms_budget_cheap", root, sizeof root);
    const char *every = "--run.recompute=image_encoder.backbone,image_encoder.neck";
    double whole = bench_number(root, "", "planned_bytes");
    double least = bench_number(root, every, "planned_bytes");
    snprintf(budget, sizeof budget, "--run.memory_budget=%.0f", (whole + least) / 2);
    double none = bench_number(root, "", "macs"), all = bench_number(root, every, "macs");
    cr_assert_lt(least, 0.9 * whole);
    cr_assert_gt(all, none);
    cr_expect_lt(bench_number(root, budget, "macs") - none, 0.5 * (all - none));
}

/* A chunk that the user gave must fit too. */
Test(run_forms, the_budget_holds_for_a_given_chunk_and_for_distillation, .timeout = 300)
{
    char scenes[192];
    const char *root = make_place("forms_budget_given", scenes);
    const char *commands[] = {TINY_FINETUNE " --run.mask_chunk=4", TINY_DISTILL};
    for (int i = 0; i < 2; i++) {
        const ProgramResult *refused = program_run(
            "%s --data.root=%s --run.dir=%s/%d --train.steps=1 "
            "--run.memory_budget=5MB",
            commands[i], scenes, root, i);
        cr_expect_eq(refused->code, 1, "%s", commands[i]);
        const char *message = program_error(refused);
        cr_expect(strstr(message, "run.memory_budget = 5000000"), "%s", message);
    }
}
