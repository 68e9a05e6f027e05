/* From options to the parts of a run: backend, models, stores, and the configs of steps and
 * loaders. */
#ifndef RETORT_TRAIN_RECIPE_H
#define RETORT_TRAIN_RECIPE_H

#include "data/loader.h"
#include "train/options.h"
#include "train/step.h"

typedef struct Recipe Recipe;
struct Recipe {
    Backend *backend;
    Model *model;
    Store *store;         /* declared, not allocated: a step adds its optimiser first */
    bool frozen;          /* `store` is a frozen one, for inference (model/model.h) */
    Model *teacher;       /* NULL without teacher.model */
    Store *teacher_store; /* a frozen one; declared, not allocated */
    struct LrScale *lr_scales;
    int n_lr_scales;
};

/* recipe_open: opens the backend, loads the model configs and declares their entries; applies
 * optim.freeze. errors  those of backend_open and model_load; E_UNSUPPORTED for a precision the
 * backend lacks */
Status recipe_open(const Options *options, Recipe *out);
void recipe_close(Recipe *recipe);

/* recipe_step_config: the step that the options describe; distillation without a teacher or with
 * embeddings in files takes its target as an input. `mask_chunk` 0 (automatic) is left to the
 * caller. */
void recipe_step_config(const Recipe *recipe, const Options *options, StepKind kind,
                        StepConfig *out);

/* recipe_loader_config: the loader of distillation or fine-tuning. */
LoaderConfig recipe_loader_config(const Recipe *recipe, const Options *options, StepKind kind);

/* recipe_source_config: the samples of data.root, in the roots' own order, with all their masks.
 * out_folder  of the command: indexes of tar shards go to its folder index, unless data.index says
 *             otherwise; NULL: the command writes nothing
 * index       memory for that folder's name, to be freed after the source was opened
 * errors  E_CONFIG if data.root is not set */
Status recipe_source_config(const Options *options, bool masks, const char *out_folder,
                            SourceConfig *out, char **index);

/* recipe_open_source: the same, opened, and with the filters of masks: what is trained on.
 * errors  those of source_open */
Status recipe_open_source(const Options *options, bool masks, const char *out_folder, Source **out);

/* recipe_peak_lr: optim.lr, scaled by the rules of optim.lr_batch and optim.lr_times_ranks to so
 * many ranks of train.batch images. recipe_lr: that of update `step`. */
double recipe_peak_lr(const Options *options, int n_ranks);
double recipe_lr(const Options *options, int n_ranks, int64_t step);
int32_t recipe_mode(const Options *options,
                    int64_t step); /* 1: three masks, 0: one; equal on all ranks */

/* recipe_freeze: makes `store` a frozen one, declared again in the precision of the options: norms
 * folded, weights in what they are used in. Before any graph is built on it. */
Status recipe_freeze(Recipe *recipe, const Options *options);

/* recipe_load_weights: init.weights, or initial weights from the seed; prints the load line. The
 * store must be allocated. recipe_load_file: the weights of any file. recipe_load_teacher:
 * allocates the teacher's store and loads teacher.weights ("random": initial weights from the seed,
 * for tests). */
Status recipe_load_weights(const Recipe *recipe, const Options *options);
Status recipe_load_file(const Recipe *recipe, const Options *options, const char *path);
Status recipe_load_teacher(const Recipe *recipe, const Options *options);

#endif
