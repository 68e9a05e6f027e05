/* A step computes in memory that was planned: after the first one, feeding inputs and running the
 * graph call no allocator, on the main thread or on OpenMP's.
 *
 * The training loop itself runs here, with marks set around its calls of feed_batch and exec_run
 * (the linker's
 * --wrap). Samples are decoded by the main thread outside the marks (data.threads=0), so that only
 * compute threads are counted. Two libraries allocate inside every call, with no way to avoid it:
 * oneDNN's C interface builds a map of arguments for each execution of a primitive, and GNU OpenMP
 * makes a team for each parallel region of one thread. That is allowed while it is small and freed
 * again. On processors without AVX-512 oneDNN's matrix products also pack their sources into memory
 * of their own, of any size; only that it is freed can then be asked for. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/alloc_count.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"
#include "train/feed.h"
#include "train/trainer.h"

enum { N_STEPS = 4, SMALL_BYTES = 4096 };

Status __real_exec_run(Exec *exec);
Status __wrap_exec_run(Exec *exec);
Status __real_feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode);
Status __wrap_feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode);

static int n_runs, n_fed;

Status __wrap_feed_batch(Step *step, Exec *exec, const Batch *batch, int32_t mode)
{
    if (++n_fed > 1) alloc_count_start();
    Status status = __real_feed_batch(step, exec, batch, mode);
    alloc_count_stop();
    return status;
}

Status __wrap_exec_run(Exec *exec)
{
    if (++n_runs > 1) alloc_count_start();
    Status status = __real_exec_run(exec);
    alloc_count_stop();
    return status;
}

static void train(StepKind kind, const char *name, int n_more, char *const *more)
{
    char root[128], scenes[160], folder[160], data[200], run[200];
    if (!alloc_count_available()) cr_skip_test("allocators are AddressSanitizer's in this build");
    test_folder(name, root, sizeof root);
    snprintf(folder, sizeof folder, "%s/scenes", name);
    test_folder(folder, scenes, sizeof scenes);
    make_scenes(scenes, 5, 5);
    snprintf(data, sizeof data, "--data.root=%s", scenes);
    snprintf(run, sizeof run, "--run.dir=%s/run", root);
    char *words[32] = {"--model=" TINY_STUDENT,
                       "--train.batch=2",
                       "--train.steps=4",
                       "--data.threads=0",
                       "--data.masks_per_image=5",
                       "--run.mask_chunk=3",
                       "--run.threads=2",
                       "--optim.ema_decay=0.9",
                       data,
                       run};
    int n = 10;
    for (int i = 0; i < n_more; i++) words[n++] = more[i];
    Options options;
    cr_assert_eq(options_load(NULL, n, words, &options), OK, "%s", status_message());
    cr_assert_eq(trainer_run(&options, kind, &file_ops_system), OK, "%s", status_message());
    options_free(&options);
}

static void check(void)
{
    AllocCount count = alloc_count_total();
    cr_assert_eq(n_runs, N_STEPS);
    cr_assert_eq(n_fed, N_STEPS);
    cr_expect_eq(count.program, 0, "%ld allocations by the program, the last at 0x%zx",
                 count.program, count.program_at);
    cr_expect_eq(count.other, 0, "%ld allocations by libraries, the last by %s", count.other,
                 count.other_name);
    cr_expect_gt(count.engine, 0, "nothing was counted");
    if (__builtin_cpu_supports("avx512f"))
        cr_expect_lt(count.largest, (size_t)SMALL_BYTES,
                     "oneDNN or OpenMP allocated %zu bytes at once", count.largest);
    cr_expect_eq(count.kept, 0, "%lld bytes were kept", count.kept);
}

Test(allocations, distillation, .timeout = 300)
{
    char *more[] = {"--teacher.model=" TINY_TEACHER, "--teacher.weights=random"};
    train(STEP_DISTILL, "allocations_distill", 2, more);
    check();
}

Test(allocations, finetuning, .timeout = 300)
{
    char *more[] = {"--train.preset=paper"};
    train(STEP_FINETUNE, "allocations_finetune", 1, more);
    check();
}

Test(allocations, finetuning_as_released, .timeout = 300)
{
    char *more[] = {"--train.preset=released-code", "--loss.points=500"};
    train(STEP_FINETUNE, "allocations_released", 2, more);
    check();
}
