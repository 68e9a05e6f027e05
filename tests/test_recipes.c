/* Every recipe resolves, and its step can be built: models are there, shapes fit, options agree.
 * Those of the published family say what their names promise. */
#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "train/recipe.h"

static void resolve(const char *path, Options *options)
{
    cr_assert_eq(options_load(path, 0, NULL, options), OK, "%s", status_message());
}

/* Declares the models, builds and finishes the step; nothing is allocated or run. */
static void build(const Options *options, StepKind kind)
{
    Recipe recipe;
    StepConfig config;
    Step *step = NULL;
    cr_assert_eq(recipe_open(options, &recipe), OK, "%s", status_message());
    recipe_step_config(&recipe, options, kind, &config);
    LoaderConfig loader = recipe_loader_config(&recipe, options, kind);
    if (config.n_masks > 0 && config.mask_chunk == 0) config.mask_chunk = 8;
    cr_assert_eq(step_build(&config, recipe.model, recipe.store, loader.mask_words, &step), OK,
                 "%s", status_message());
    cr_expect_eq(step_finish(step), OK, "%s", status_message());
    cr_expect_gt(step->n_gradients, 0);
    cr_expect_eq(config.teacher != NULL, kind == STEP_DISTILL && options->teacher_model[0]);
    step_destroy(step);
    recipe_close(&recipe);
}

static StepKind kind_of(const char *path)
{
    return strstr(path, "distill") ? STEP_DISTILL : STEP_FINETUNE;
}

Test(recipes, all_resolve_and_build)
{
    glob_t files;
    cr_assert_eq(glob("configs/recipes/*.yaml", 0, NULL, &files), 0);
    cr_assert_geq(files.gl_pathc, 20);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        Options options;
        resolve(files.gl_pathv[i], &options);
        build(&options, kind_of(files.gl_pathv[i]));
        options_free(&options);
    }
    globfree(&files);
}

/* Published rates, of fine-tuning at a batch of 256 images; XL models take half of them. The
 * released code multiplies its own by the number of ranks. */
static void check_family(const char *model, const char *stage, OptPreset preset, double lr)
{
    char path[128], config[128];
    Options o;
    bool released = preset == OPT_PRESET_RELEASED, distills = strcmp(stage, "distill") == 0;
    snprintf(path, sizeof path, "configs/recipes/%s_%s_%s.yaml", stage, model,
             released ? "released" : "paper");
    snprintf(config, sizeof config, "configs/models/efficientvit_sam_%s.yaml", model);
    resolve(path, &o);
    cr_expect_str_eq(o.model, config, "%s", path);
    cr_expect_eq(o.train_preset, preset, "%s", path);
    cr_expect_float_eq(o.optim_lr, model[0] == 'x' ? lr / 2 : lr, 1e-12, "%s: %g", path,
                       o.optim_lr);
    cr_expect_eq(o.optim_lr_times_ranks, released && !distills, "%s", path);
    cr_expect_eq(o.optim_lr_batch, released || distills ? 0 : 256, "%s", path);
    cr_expect_eq(o.train_epochs, 2, "%s", path);
    OptClip paper_clip = distills ? OPT_CLIP_NORM : OPT_CLIP_NONE;
    cr_expect_eq(o.optim_clip, released ? OPT_CLIP_VALUE : paper_clip, "%s", path);
    cr_expect_float_eq(o.optim_clip_value, distills && !released ? 1 : 2, 1e-12, "%s", path);
    if (distills)
        cr_expect_str_eq(o.teacher_model, "configs/models/sam_vit_h.yaml", "%s", path);
    else
        cr_expect_eq(o.loss_kind, released ? OPT_LOSS_BCE_POINTS : OPT_LOSS_FOCAL, "%s", path);
    options_free(&o);
}

Test(recipes, of_the_published_family)
{
    static const char *const models[] = {"l0", "l1", "l2", "xl0", "xl1"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        check_family(models[i], "distill", OPT_PRESET_PAPER, 1e-3);
        check_family(models[i], "distill", OPT_PRESET_RELEASED, 1e-3);
        check_family(models[i], "finetune", OPT_PRESET_PAPER, 2e-6);
        check_family(models[i], "finetune", OPT_PRESET_RELEASED, 8e-7);
    }
}
