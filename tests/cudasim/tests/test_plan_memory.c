/* What `retort plan` says of memory without a GPU, against what the CUDA backend binds and
 * allocates on the simulator: the backend "plan" and "cudasim" on the same steps.
 *
 * Tolerance: ten per cent, the promise of the plan. What differs is what the libraries take: the
 * simulated ones under a kilobyte, where the plan allows for real ones. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "kernels/plan/scratch.h"
#include "tests/op_cases.h"
#include "tests/program.h"
#include "train/recipe.h"

#define PROMISE 0.1

static size_t allocated;
static Status (*real_alloc)(Backend *backend, size_t bytes, void **out);

static Status counting_alloc(Backend *backend, size_t bytes, void **out)
{
    allocated += bytes;
    return real_alloc(backend, bytes, out);
}

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

/* A step of these options on a backend: what its plan says, and, if it is made (`allocate`), what
 * the backend was asked for. */
static size_t step_bytes(const char *config, StepKind kind, int n, char **words, bool allocate)
{
    Options options;
    Recipe recipe;
    StepConfig c;
    Step *step;
    Exec *exec;
    Plan *plan;
    must(options_load(config, n, words, &options));
    must(recipe_open(&options, &recipe));
    recipe_step_config(&recipe, &options, kind, &c);
    if (c.n_masks > 0 && c.mask_chunk == 0) c.mask_chunk = 2;
    int64_t mask_words = recipe_loader_config(&recipe, &options, kind).mask_words;
    must(step_build(&c, recipe.model, recipe.store, mask_words, &step));
    must(step_finish(step));
    size_t bytes;
    if (allocate) {
        allocated = 0;
        real_alloc = recipe.backend->alloc;
        recipe.backend->alloc = counting_alloc;
        must(store_allocate(recipe.store));
        if (c.teacher_store) must(store_allocate(recipe.teacher_store));
        must(exec_create(step->graph, recipe.backend, &exec));
        bytes = allocated;
        exec_destroy(exec);
    } else {
        must(plan_build(step->graph, recipe.backend, &plan));
        bytes = plan->memory.total;
        plan_destroy(plan);
    }
    step_destroy(step);
    recipe_close(&recipe);
    options_free(&options);
    return bytes;
}

static void check(const char *config, StepKind kind, int n, const char *const *words, bool allocate)
{
    char *all[12];
    for (int i = 0; i < n; i++) all[i] = (char *)words[i];
    all[n] = "--run.backend=plan";
    size_t planned = step_bytes(config, kind, n + 1, all, false);
    all[n] = "--run.backend=cudasim";
    size_t real = step_bytes(config, kind, n + 1, all, allocate);
    double ratio = (double)planned / (double)real;
    fprintf(stderr, "%s: planned %.2f MiB, %s %.2f, %+.1f %%\n", config,
            (double)planned / (1 << 20), allocate ? "allocated" : "bound",
            (double)real / (1 << 20), 100 * (ratio - 1));
    cr_expect_leq(ratio, 1 + PROMISE);
    cr_expect_geq(ratio, 1 - PROMISE);
}

#define CHECK(config, kind, allocate, ...)                                              \
    do {                                                                                \
        const char *words[] = {"--run.threads=1", __VA_ARGS__};                         \
        check("configs/recipes/" config, kind, sizeof words / sizeof *words, words, allocate); \
    } while (0)

/* Small enough to be allocated here. */
Test(plan_memory, small_steps_are_allocated_as_planned, .timeout = 300)
{
    CHECK("demo_distill.yaml", STEP_DISTILL, true, "--teacher.embeddings=none");
    CHECK("demo_finetune.yaml", STEP_FINETUNE, true, "--run.precision=bf16");
}

/* The published ones, bound and placed, but not allocated. */
Test(plan_memory, published_recipes_are_bound_as_planned, .timeout = 600)
{
    CHECK("distill_l0_paper.yaml", STEP_DISTILL, false, "--run.precision=bf16");
    CHECK("finetune_l0_paper.yaml", STEP_FINETUNE, false, "--run.precision=f32");
    CHECK("distill_xl1_paper.yaml", STEP_DISTILL, false, "--run.precision=bf16");
    CHECK("finetune_xl1_paper.yaml", STEP_FINETUNE, false, "--run.precision=bf16");
}
