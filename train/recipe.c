/* From options to the parts of a run. See recipe.h. */
#include "train/recipe.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "kernels/comm/comm.h"
#include "train/schedule.h"
#include "train/weights.h"

/* ---- opening ---- */

static DType precision_of(const Recipe *recipe, const Options *o)
{
    switch (o->run_precision) {
    case OPT_PRECISION_AUTO: return recipe->backend->low;
    case OPT_PRECISION_BF16: return DT_BF16;
    case OPT_PRECISION_FP16: return DT_F16;
    default: return DT_F32;
    }
}

static Status load_model(const char *path, const char *option, Model **model)
{
    if (path[0] == '\0')
        return status_fail(E_CONFIG,
                           "%s is not set; name a model description such as "
                           "configs/models/efficientvit_sam_l0.yaml",
                           option);
    return model_load(path, model);
}

static void freeze(Store *store, const OptionList *patterns)
{
    for (int i = 0; i < store->n_entries; i++)
        for (int p = 0; p < patterns->n; p++)
            if (fnmatch(patterns->items[p], store->entries[i].name, 0) == 0)
                store->entries[i].trainable = false;
}

static Status parse_lr_scales(Recipe *recipe, const OptionList *list)
{
    recipe->lr_scales = mem_alloc((size_t)list->n * sizeof *recipe->lr_scales);
    for (int i = 0; i < list->n; i++) {
        char *equals = strrchr(list->items[i], '=');
        double factor;
        if (!equals || !text_to_double(equals + 1, &factor) || factor < 0)
            return status_fail(
                E_CONFIG,
                "optim.lr_scale: got %s, wanted PATTERN=FACTOR such as image_encoder.*=0.1",
                list->items[i]);
        char *pattern = mem_string(list->items[i]);
        pattern[equals - list->items[i]] = '\0';
        recipe->lr_scales[recipe->n_lr_scales++] = (struct LrScale){pattern, factor};
    }
    return OK;
}

static Status open_backend(const Options *o, Backend **out)
{
    const char *names[] = {[OPT_BACKEND_CPU] = "cpu",
                           [OPT_BACKEND_CUDA] = "cuda",
                           [OPT_BACKEND_CUDASIM] = "cudasim",
                           [OPT_BACKEND_PLAN] = "plan",
                           [OPT_BACKEND_REF] = "ref"};
    TRY(backend_open(names[o->run_backend], (int)o->run_threads, out));
    (*out)->tf32 = o->run_tf32;
    (*out)->sync = o->debug_sync;
    (*out)->recording = o->run_recording;
    return OK;
}

static Status open_parts(const Options *o, Recipe *recipe)
{
    TRY(open_backend(o, &recipe->backend));
    TRY(load_model(o->model, "model", &recipe->model));
    recipe->store = store_create(recipe->backend);
    TRY(model_declare(recipe->model, recipe->store));
    freeze(recipe->store, &o->optim_freeze);
    TRY(parse_lr_scales(recipe, &o->optim_lr_scale));
    if (o->teacher_model[0] == '\0') return OK;
    TRY(load_model(o->teacher_model, "teacher.model", &recipe->teacher));
    recipe->teacher_store = store_create(recipe->backend);
    return model_declare_frozen(recipe->teacher, precision_of(recipe, o), recipe->teacher_store);
}

Status recipe_open(const Options *options, Recipe *out)
{
    *out = (Recipe){0};
    Status status = open_parts(options, out);
    if (status != OK) recipe_close(out);
    return status;
}

Status recipe_freeze(Recipe *recipe, const Options *options)
{
    store_destroy(recipe->store);
    recipe->store = store_create(recipe->backend);
    recipe->frozen = true;
    return model_declare_frozen(recipe->model, precision_of(recipe, options), recipe->store);
}

void recipe_close(Recipe *recipe)
{
    for (int i = 0; i < recipe->n_lr_scales; i++) free((char *)recipe->lr_scales[i].pattern);
    free(recipe->lr_scales);
    store_destroy(recipe->store);
    store_destroy(recipe->teacher_store);
    model_destroy(recipe->model);
    model_destroy(recipe->teacher);
    if (recipe->backend) backend_close(recipe->backend);
    *recipe = (Recipe){0};
}

/* ---- steps ---- */

static BnMode bn_mode(const Options *o)
{
    switch (o->optim_bn) {
    case OPT_BN_TRAIN: return BN_TRAIN;
    case OPT_BN_SYNC: return BN_SYNC;
    default: return BN_EVAL;
    }
}

static void loss_config(const Options *o, StepConfig *c)
{
    c->loss = o->loss_kind == OPT_LOSS_FOCAL ? LOSS_FOCAL : LOSS_BCE_POINTS;
    c->mask_weight = o->loss_mask_weight;
    c->dice_weight = o->loss_dice_weight;
    c->iou_weight = o->loss_iou_weight;
    c->focal_alpha = o->loss_focal_alpha;
    c->focal_gamma = o->loss_focal_gamma;
    c->n_points = o->loss_points;
    c->oversample = o->loss_oversample;
    c->importance = o->loss_importance;
    c->keep_extent = o->loss_unpadded_only;
}

static void optimizer_config(const Recipe *recipe, const Options *o, StepConfig *c)
{
    c->update = true;
    c->beta1 = o->optim_beta1;
    c->beta2 = o->optim_beta2;
    c->eps = o->optim_eps;
    c->weight_decay = o->optim_weight_decay;
    c->clip_norm = o->optim_clip == OPT_CLIP_NORM ? o->optim_clip_value : 0;
    c->clip_value = o->optim_clip == OPT_CLIP_VALUE ? o->optim_clip_value : 0;
    c->ema_decay = o->optim_ema_decay;
    c->n_no_decay = o->optim_no_decay.n;
    c->no_decay = (const char *const *)o->optim_no_decay.items;
    c->n_lr_scales = recipe->n_lr_scales;
    c->lr_scales = recipe->lr_scales;
}

void recipe_step_config(const Recipe *recipe, const Options *o, StepKind kind, StepConfig *out)
{
    *out = (StepConfig){
        .kind = kind,
        .batch = o->train_batch,
        .world_size = comm_size(recipe->backend->comm),
        .precision = precision_of(recipe, o),
    };
    StepConfig *c = out;
    c->bn = bn_mode(o);
    if (kind == STEP_ENCODE || kind == STEP_DECODE) c->bn = BN_FOLDED;
    c->micro_batch = o->train_micro_batch > 0 ? o->train_micro_batch : o->train_batch;
    loss_config(o, c);
    optimizer_config(recipe, o, c);
    c->n_recompute = o->run_recompute.n;
    c->recompute = (const char *const *)o->run_recompute.items;
    if (kind == STEP_FINETUNE || kind == STEP_DECODE) {
        c->n_masks = o->data_masks_per_image;
        c->mask_chunk = o->run_mask_chunk < c->n_masks ? o->run_mask_chunk : c->n_masks;
        c->n_slots = o->data_max_points + 1;
    }
    if (kind == STEP_FINETUNE) c->click_rounds = o->train_click_rounds;
    c->click_masks = o->train_click_masks;
    if (kind == STEP_DISTILL && recipe->teacher && o->teacher_embeddings[0] == '\0') {
        c->teacher = recipe->teacher;
        c->teacher_store = recipe->teacher_store;
        c->teacher_micro = o->teacher_micro_batch < c->micro_batch ? o->teacher_micro_batch
                                                                   : c->micro_batch;
    }
}

LoaderConfig recipe_loader_config(const Recipe *recipe, const Options *o, StepKind kind)
{
    bool run_teacher = kind == STEP_DISTILL && o->teacher_embeddings[0] == '\0';
    return (LoaderConfig){
        .image_size = model_image_size(recipe->model),
        .teacher_size = run_teacher ? model_image_size(recipe->teacher) : 0,
        .frame = model_frame(recipe->model),
        .n_masks = kind == STEP_FINETUNE ? o->data_masks_per_image : 0,
        .n_slots = o->data_max_points + 1,
        .max_points = o->data_max_points,
        .mask_words = o->data_mask_words * o->data_masks_per_image *
                      model_image_size(recipe->model),
        .decode_margin = o->data_decode_margin,
        .repeat_masks = o->masks_repeat,
        .points = o->prompts_points == OPT_POINTS_PAPER ? POINTS_PAPER : POINTS_RELEASED,
        .flip = o->data_flip,
        .box_probability = o->data_box_probability,
        .box_noise = o->prompts_box_noise,
        .batch = o->train_batch,
        .rank = comm_rank(recipe->backend->comm),
        .world_size = comm_size(recipe->backend->comm),
        .n_threads = (int)o->data_threads,
        .prefetch = o->data_prefetch,
        .seed = (uint64_t)o->seed,
        .max_bad_fraction = o->data_max_bad_fraction,
    };
}

Status recipe_source_config(const Options *o, bool masks, const char *out_folder, SourceConfig *out,
                            char **index)
{
    static const SourceSplit splits[] = {
        [OPT_SPLIT_ALL] = SPLIT_ALL, [OPT_SPLIT_TRAIN] = SPLIT_TRAIN, [OPT_SPLIT_VAL] = SPLIT_VAL};
    *index = NULL;
    if (o->data_root.n == 0)
        return status_fail(E_CONFIG, "data.root is not set; name a folder of images");
    if (o->data_index[0])
        *index = mem_string(o->data_index);
    else if (out_folder)
        *index = file_join(out_folder, "index");
    *out = (SourceConfig){.roots = (const char *const *)o->data_root.items,
                          .n_roots = o->data_root.n,
                          .masks = masks,
                          .index_folder = *index,
                          .ids = o->data_ids[0] ? o->data_ids : NULL,
                          .split = splits[o->data_split],
                          .train_ratio = o->data_train_ratio,
                          .limit = o->data_limit};
    return OK;
}

Status recipe_open_source(const Options *o, bool masks, const char *out_folder, Source **out)
{
    SourceConfig config;
    char *index;
    TRY(recipe_source_config(o, masks, out_folder, &config, &index));
    config.filter = (MaskFilter){.max_area_fraction = o->data_max_mask_fraction,
                                 .min_area_px = (double)o->data_min_mask_area,
                                 .min_predicted_iou = o->data_min_predicted_iou,
                                 .min_stability = o->data_min_stability,
                                 .no_crowds = !o->data_crowds};
    Status status = source_open(&config, out);
    free(index);
    return status;
}

double recipe_peak_lr(const Options *o, int n_ranks)
{
    double lr = o->optim_lr;
    if (o->optim_lr_batch > 0)
        lr *= (double)(o->train_batch * n_ranks) / (double)o->optim_lr_batch;
    return o->optim_lr_times_ranks ? lr * n_ranks : lr;
}

double recipe_lr(const Options *o, int n_ranks, int64_t step)
{
    ScheduleKind kind = o->optim_schedule == OPT_SCHEDULE_COSINE ? SCHEDULE_COSINE
                                                                 : SCHEDULE_CONSTANT;
    return schedule_lr(kind, recipe_peak_lr(o, n_ranks), o->optim_warmup_steps, o->train_steps,
                       step);
}

int32_t recipe_mode(const Options *o, int64_t step)
{
    if (o->train_mode != OPT_MODE_RANDOM) return o->train_mode == OPT_MODE_MULTI;
    RngKey key = {.seed = (uint64_t)o->seed, .purpose = RNG_OUTPUT_MODE, .sample = (uint64_t)step};
    return rng_uniform(key, 0) >= 0.5;
}

/* ---- weights ---- */

static Status init(const Recipe *recipe, const Options *o)
{
    ModelInit init = {.model = recipe->model, .seed = (uint64_t)o->seed};
    if (recipe->frozen) return model_freeze(recipe->model, model_initial, &init, recipe->store);
    return model_init(recipe->model, recipe->store, init.seed);
}

static void announce_init(const Model *model, uint64_t seed)
{
    fprintf(stderr, "%s: initial weights from seed %llu\n", model_name(model),
            (unsigned long long)seed);
}

static Status freeze_file(const Model *model, Store *frozen, const char *path, const Options *o,
                          uint64_t seed)
{
    char report[1024];
    TRY(weights_freeze(model, frozen, path, o->init_allow.n,
                       (const char *const *)o->init_allow.items, seed, report, sizeof report));
    fprintf(stderr, "%s\n", report);
    return OK;
}

Status recipe_load_file(const Recipe *recipe, const Options *o, const char *path)
{
    char report[1024];
    if (recipe->frozen)
        return freeze_file(recipe->model, recipe->store, path, o, (uint64_t)o->seed);
    TRY(init(recipe, o)); /* what init.allow lets the file lack */
    TRY(weights_load(recipe->store, path, o->init_allow.n, (const char *const *)o->init_allow.items,
                     report, sizeof report));
    fprintf(stderr, "%s\n", report);
    return OK;
}

Status recipe_load_weights(const Recipe *recipe, const Options *o)
{
    if (o->init_weights[0] != '\0') return recipe_load_file(recipe, o, o->init_weights);
    announce_init(recipe->model, (uint64_t)o->seed);
    return init(recipe, o);
}

Status recipe_load_teacher(const Recipe *recipe, const Options *o)
{
    uint64_t seed = (uint64_t)o->seed + 1;
    if (o->teacher_weights[0] == '\0')
        return status_fail(E_CONFIG, "teacher.weights is not set; name a .pth or safetensors file, "
                                     "or `random` to try things out");
    TRY(store_allocate(recipe->teacher_store));
    if (strcmp(o->teacher_weights, "random") != 0)
        return freeze_file(recipe->teacher, recipe->teacher_store, o->teacher_weights, o, seed);
    announce_init(recipe->teacher, seed);
    ModelInit init = {.model = recipe->teacher, .seed = seed};
    return model_freeze(recipe->teacher, model_initial, &init, recipe->teacher_store);
}
