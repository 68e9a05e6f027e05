/* Whole runs of the small model on the CUDA backend: ten-step curves against the CPU's and the
 * reference's, a run that is taken up again, and two ranks against one. By the program, with its
 * recorded steps; on the simulator, or with TEST_BACKEND=cuda on a GPU.
 *
 * Tolerances: in f32 the losses may differ by what ten steps make of f32's rounding; in bf16 by
 * what it makes of bf16's, against f32. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* ---- two ranks ---- */

#define OF_RANKS FINETUNE " --train.global_batch=2 --optim.bn=sync --data.masks_per_image=1"

/* The ranks as a launcher starts them, each with its own errors. A simulated step takes its time,
 * in which its rank shows no progress. */
static void run_two_ranks(const Place *place, double *losses)
{
    char command[1500], folder[200];
    snprintf(folder, sizeof folder, "%s/ranks", place->root);
    snprintf(command, sizeof command,
             "pids=; for r in 0 1; do RANK=$r LOCAL_RANK=$r WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 "
             "MASTER_PORT=%d " RETORT_BINARY " " OF_RANKS " --data.root=%s --run.dir=%s "
             "--train.steps=%d --run.backend=%s --optim.schedule=constant --run.rank_timeout=600 "
             "2>%s.$r & "
             "pids=\"$pids $!\"; done; for p in $pids; do wait $p || exit 1; done",
             20000 + (int)getpid() % 10000, place->scenes, folder, N_STEPS, backend_under_test(),
             folder);
    cr_assert_eq(system(command), 0, "failed: %s", command);
    cr_assert_eq(log_column(folder, "loss", N_STEPS, losses), N_STEPS);
}

/* Two ranks add the partial sums of two images, in another order: what rounding makes of that is
 * measured on the CPU, where each of two threads sums a part of the images. Four times as much,
 * because one pair of runs is little to see the largest of; a float's last place is the least. */
Test(steps, two_ranks_train_as_one, .timeout = 600)
{
    Place place = make_place("cuda_ranks");
    double one[N_STEPS], whole[N_STEPS], parts[N_STEPS], two[N_STEPS], spread = FLT_EPSILON;
    run(&place, OF_RANKS, "cpu", "", "whole", N_STEPS, whole);
    run(&place, OF_RANKS, "cpu", "--run.threads=2", "parts", N_STEPS, parts);
    run(&place, OF_RANKS, backend_under_test(), "", "one", N_STEPS, one);
    run_two_ranks(&place, two);
    for (int i = 0; i < N_STEPS; i++) {
        spread = fmax(spread, fabs(parts[i] - whole[i]) / whole[i]);
        cr_expect_lt(fabs(two[i] - one[i]) / one[i], i ? 4 * spread : 1e-6,
                     "step %d: loss %.9g on two ranks, %.9g on one, spread %.2g", i, two[i], one[i],
                     spread);
    }
}
