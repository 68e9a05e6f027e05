/* Whole runs of the small model on the CUDA backend: ten-step curves against the CPU's and the
 * reference's, and a run that is taken up again. By the program, with its recorded steps; on the
 * simulator, or with TEST_BACKEND=cuda on a GPU.
 *
 * Tolerances: in f32 the losses may differ by what ten steps make of f32's rounding; in bf16 by
 * what it makes of bf16's, against f32. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

enum { N_STEPS = 10, N_AGAIN = 3, N_IMAGES = 4, N_MASKS = 3 };
#define F32_TOL 2e-4
#define LOW_TOL 5e-2

#define DISTILL TINY_DISTILL
#define FINETUNE \
    "finetune --model=" TINY_STUDENT " --data.masks_per_image=3 --train.preset=paper" TINY_STEP

typedef struct Place {
    char root[128], scenes[160];
} Place;

static Place make_place(const char *name)
{
    Place place;
    char scenes[128];
    test_folder(name, place.root, sizeof place.root);
    snprintf(scenes, sizeof scenes, "%s/scenes", name);
    test_folder(scenes, place.scenes, sizeof place.scenes);
    make_scenes(place.scenes, N_IMAGES, N_MASKS);
    return place;
}

static const char *backend_under_test(void)
{
    const char *name = getenv("TEST_BACKEND");
    return name ? name : "cudasim";
}

/* Runs n_steps into `folder` of the place and reads their losses. */
static void run(const Place *place, const char *command, const char *backend, const char *options,
                const char *folder, int n_steps, double *losses)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", place->root, folder);
    program_succeed("%s --data.root=%s --run.dir=%s --train.steps=%d --run.backend=%s "
                    "--optim.schedule=constant %s",
                    command, place->scenes, path, n_steps, backend, options);
    cr_assert_eq(log_column(path, "loss", n_steps, losses), n_steps);
}

static void expect_same_curve(const double *got, const double *wanted, double tolerance)
{
    for (int i = 0; i < N_STEPS; i++)
        cr_expect(fabs(got[i] - wanted[i]) <= tolerance * fabs(wanted[i]),
                  "step %d: loss %.7g, wanted %.7g", i, got[i], wanted[i]);
}

static void check_curves(const char *name, const char *command)
{
    Place place = make_place(name);
    double wanted[N_STEPS], got[N_STEPS], again[N_AGAIN], low[N_STEPS];
    run(&place, command, "cpu", "", "cpu", N_STEPS, wanted);
    run(&place, command, backend_under_test(), "", "cuda", N_STEPS, got);
    expect_same_curve(got, wanted, F32_TOL);
    cr_expect_lt(got[N_STEPS - 1], got[0], "the loss does not fall");
    run(&place, command, backend_under_test(), "--run.recording=false", "unrecorded", N_AGAIN,
        again);
    for (int i = 0; i < N_AGAIN; i++)
        cr_expect_eq(got[i], again[i], "step %d: recorded %.9g, launched %.9g", i, got[i],
                     again[i]);
    run(&place, command, backend_under_test(), "--run.precision=bf16", "bf16", N_STEPS, low);
    expect_same_curve(low, wanted, LOW_TOL);
}

Test(steps, distillation, .timeout = 600) { check_curves("cuda_distill", DISTILL); }
Test(steps, finetuning, .timeout = 600) { check_curves("cuda_finetune", FINETUNE); }

Test(steps, a_run_goes_on_in_the_same_bits, .timeout = 600)
{
    Place place = make_place("cuda_resume");
    const char *form = FINETUNE
        " --data.root=%s --run.dir=%s/%s --train.steps=4 --run.save_every=2 "
        "--run.backend=%s --optim.ema_decay=0.9 %s";
    char state[2][300], why[512], resume[400];
    program_succeed(form, place.scenes, place.root, "one", backend_under_test(), "");
    snprintf(resume, sizeof resume, "--run.resume=%s/one/checkpoints/step_%09d.safetensors",
             place.root, 2);
    program_succeed(form, place.scenes, place.root, "two", backend_under_test(), resume);
    for (int i = 0; i < 2; i++)
        snprintf(state[i], sizeof state[i], "%s/%s/checkpoints/step_%09d.safetensors", place.root,
                 i ? "two" : "one", 4);
    cr_expect(same_tensors(state[0], state[1], why, sizeof why), "%s", why);
}
