/* Reads configs/models/NAME.yaml into a Model. Strict: every key is known, every number in range,
 * and every relation between them that a builder relies on holds. Called by train/ through
 * model_load.
 */
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/yaml.h"

enum { MAX_SIDE = 1 << 14, MAX_WIDTH = 1 << 16, MAX_EXPAND = 64 };

static const char *const block_names[] = {"conv", "res",     "ds",   "fmb",
                                          "mb",   "mb_bias", "evit", NULL};
static const char *const encoder_names[] = {"efficientvit", "vit", NULL};
static const char *const act_names[] = {"none", "relu", "gelu_tanh", "gelu_erf", "hardswish", NULL};

static Status read_map(Yaml *map, const char *key, Yaml **out)
{
    *out = yaml_get(map, key);
    if (*out && (*out)->kind == YAML_MAP) return OK;
    return status_fail(E_CONFIG, "%s:%d: %s: a map is needed here", map->path,
                       *out ? (*out)->line : map->line, key);
}

static Status read_list(Yaml *map, const char *key, int max, Yaml **out)
{
    *out = yaml_get(map, key);
    if (*out && (*out)->kind == YAML_SEQUENCE && (*out)->n_items >= 1 && (*out)->n_items <= max)
        return OK;
    return status_fail(E_CONFIG, "%s:%d: %s: a list of 1 to %d items is needed here", map->path,
                       *out ? (*out)->line : map->line, key, max);
}

static Status read_act(Yaml *map, Activation *out)
{
    int choice;
    TRY(yaml_choice(map, "activation", act_names, &choice));
    *out = (Activation)choice;
    return OK;
}

static Status read_block(Yaml *map, const char *key, BlockKind *out)
{
    int choice;
    TRY(yaml_choice(map, key, block_names, &choice));
    *out = (BlockKind)choice;
    return OK;
}

/* Blocks without an inverted bottleneck have no expand ratio: the key is unknown there. */
static Status read_expand(Yaml *map, const char *key, BlockKind block, int64_t *out)
{
    *out = 1;
    if (block == BLOCK_CONV || block == BLOCK_RES || block == BLOCK_DS) return OK;
    return yaml_int(map, key, 1, MAX_EXPAND, out);
}

/* ---- EfficientViT ---- */

/* A stage is stages.I unless it has a name; the named ones do not count. */
static Status read_stage_name(Yaml *map, int *n_unnamed, StageConfig *out)
{
    const char *name = NULL;
    if (yaml_get(map, "name")) {
        TRY(yaml_text(map, "name", &name));
        snprintf(out->name, sizeof out->name, "%s", name);
        if (strlen(name) < sizeof out->name) return OK;
        return status_fail(E_CONFIG, "%s:%d: name: longer than %zu letters", map->path, map->line,
                           sizeof out->name - 1);
    }
    snprintf(out->name, sizeof out->name, "stages.%d", (*n_unnamed)++);
    return OK;
}

static Status read_stage(Yaml *map, const EfficientVitConfig *encoder, int *n_unnamed,
                         StageConfig *out)
{
    TRY(read_stage_name(map, n_unnamed, out));
    TRY(yaml_int(map, "width", 1, MAX_WIDTH, &out->width));
    TRY(read_block(map, "open", &out->open));
    TRY(read_expand(map, "open_expand", out->open, &out->open_expand));
    TRY(read_block(map, "block", &out->block));
    TRY(yaml_int(map, "depth", 0, CONFIG_MAX_DEPTH, &out->depth));
    TRY(read_expand(map, "expand", out->block, &out->expand));
    if (out->open == BLOCK_EVIT || out->block == BLOCK_CONV)
        return status_fail(E_CONFIG, "%s:%d: evit cannot open a stage, conv cannot repeat in one",
                           map->path, map->line);
    if (out->block == BLOCK_EVIT && out->width % encoder->head_dim != 0)
        return status_fail(E_CONFIG, "%s:%d: width: %lld is no multiple of head_dim %lld",
                           map->path, map->line, (long long)out->width,
                           (long long)encoder->head_dim);
    return OK;
}

static Status read_neck(Yaml *map, int n_stages, NeckConfig *out)
{
    Yaml *list;
    TRY(read_list(map, "inputs", n_stages, &list));
    out->n_inputs = list->n_items;
    TRY(yaml_int_list(map, "inputs", out->n_inputs, 0, n_stages - 1, out->inputs));
    TRY(read_block(map, "block", &out->block));
    TRY(yaml_int(map, "depth", 0, CONFIG_MAX_DEPTH, &out->depth));
    TRY(read_expand(map, "expand", out->block, &out->expand));
    if (out->block == BLOCK_CONV || out->block == BLOCK_EVIT)
        return status_fail(E_CONFIG, "%s:%d: block: conv and evit cannot be blocks of a neck",
                           map->path, map->line);
    return OK;
}

static Status read_efficientvit(Yaml *map, const Model *model, EfficientVitConfig *out)
{
    TRY(read_act(map, &out->act));
    TRY(yaml_double(map, "norm_eps", 1e-12, 1, &out->norm_eps));
    TRY(yaml_double(map, "norm_momentum", 0, 1, &out->norm_momentum));
    TRY(yaml_int(map, "head_dim", 1, MAX_WIDTH, &out->head_dim));
    TRY(yaml_int(map, "aggregation_kernel", 1, 15, &out->aggregation_kernel));
    if (out->aggregation_kernel % 2 == 0)
        return status_fail(E_CONFIG, "%s:%d: aggregation_kernel: %lld is even", map->path,
                           map->line, (long long)out->aggregation_kernel);
    Yaml *list, *neck;
    TRY(read_list(map, "stages", CONFIG_MAX_STAGES, &list));
    out->n_stages = list->n_items;
    int n_unnamed = 0;
    for (int i = 0; i < out->n_stages; i++) {
        if (list->items[i]->kind != YAML_MAP)
            return status_fail(E_CONFIG, "%s:%d: stages: each stage is a map", map->path,
                               list->items[i]->line);
        TRY(read_stage(list->items[i], out, &n_unnamed, &out->stages[i]));
    }
    TRY(read_map(map, "neck", &neck));
    TRY(read_neck(neck, out->n_stages, &out->neck));
    if (model->image_size % (1 << out->n_stages) != 0)
        return status_fail(E_CONFIG, "%s:%d: stages: %d halvings do not divide image_size %lld",
                           map->path, list->line, out->n_stages, (long long)model->image_size);
    return OK;
}

/* ---- ViT ---- */

static Status read_global_blocks(Yaml *map, VitConfig *out)
{
    int64_t blocks[CONFIG_MAX_DEPTH];
    Yaml *list;
    TRY(read_list(map, "global_blocks", (int)out->depth, &list));
    TRY(yaml_int_list(map, "global_blocks", list->n_items, 0, out->depth - 1, blocks));
    for (int i = 0; i < list->n_items; i++) out->global[blocks[i]] = true;
    return OK;
}

static Status read_vit(Yaml *map, const Model *model, VitConfig *out)
{
    TRY(read_act(map, &out->act));
    TRY(yaml_double(map, "norm_eps", 1e-12, 1, &out->norm_eps));
    TRY(yaml_int(map, "patch", 1, MAX_SIDE, &out->patch));
    TRY(yaml_int(map, "width", 1, MAX_WIDTH, &out->width));
    TRY(yaml_int(map, "depth", 1, CONFIG_MAX_DEPTH, &out->depth));
    TRY(yaml_int(map, "heads", 1, MAX_WIDTH, &out->heads));
    TRY(yaml_int(map, "mlp_dim", 1, MAX_WIDTH, &out->mlp_dim));
    TRY(yaml_int(map, "window", 1, MAX_SIDE, &out->window));
    TRY(read_global_blocks(map, out));
    if (out->width % out->heads != 0)
        return status_fail(E_CONFIG, "%s:%d: heads: %lld do not divide width %lld", map->path,
                           map->line, (long long)out->heads, (long long)out->width);
    if (out->patch * model->grid != model->image_size)
        return status_fail(E_CONFIG, "%s:%d: patch: %lld px times grid %lld is not image_size %lld",
                           map->path, map->line, (long long)out->patch, (long long)model->grid,
                           (long long)model->image_size);
    return OK;
}

/* ---- prompt encoder and mask decoder ---- */

static Status read_prompt_encoder(Yaml *map, PromptEncoderConfig *out)
{
    TRY(read_act(map, &out->act));
    TRY(yaml_int(map, "mask_channels", 4, MAX_WIDTH, &out->mask_channels));
    if (out->mask_channels % 4 != 0)
        return status_fail(E_CONFIG, "%s:%d: mask_channels: %lld is no multiple of 4", map->path,
                           map->line, (long long)out->mask_channels);
    out->position_scale = 1; /* of every published model */
    if (!yaml_get(map, "position_scale")) return OK;
    return yaml_double(map, "position_scale", 1e-3, 1e3, &out->position_scale);
}

static Status read_mask_decoder(Yaml *map, const Model *model, MaskDecoderConfig *out)
{
    TRY(read_act(map, &out->act));
    TRY(yaml_double(map, "norm_eps", 1e-12, 1, &out->norm_eps));
    TRY(yaml_int(map, "layers", 1, CONFIG_MAX_DEPTH, &out->layers));
    TRY(yaml_int(map, "heads", 1, MAX_WIDTH, &out->heads));
    TRY(yaml_int(map, "cross_width", 1, MAX_WIDTH, &out->cross_width));
    TRY(yaml_int(map, "mlp_dim", 1, MAX_WIDTH, &out->mlp_dim));
    TRY(yaml_int(map, "iou_hidden", 1, MAX_WIDTH, &out->iou_hidden));
    if (model->embed_dim % out->heads != 0 || out->cross_width % out->heads != 0)
        return status_fail(E_CONFIG,
                           "%s:%d: heads: %lld do not divide embed_dim %lld and cross_width %lld",
                           map->path, map->line, (long long)out->heads, (long long)model->embed_dim,
                           (long long)out->cross_width);
    return OK;
}

/* ---- the file ---- */

static Status read_sizes(Yaml *root, Model *out)
{
    const char *name;
    TRY(yaml_text(root, "name", &name));
    out->name = mem_string(name);
    TRY(yaml_int(root, "image_size", 1, MAX_SIDE, &out->image_size));
    TRY(yaml_int(root, "prompt_frame", 1, MAX_SIDE, &out->frame));
    TRY(yaml_int(root, "grid", 1, MAX_SIDE, &out->grid));
    TRY(yaml_int(root, "embed_dim", 8, MAX_WIDTH, &out->embed_dim));
    if (out->embed_dim % 8 != 0) /* up-scaling leaves an eighth of the channels */
        return status_fail(E_CONFIG, "%s:%d: embed_dim: %lld is no multiple of 8", root->path,
                           root->line, (long long)out->embed_dim);
    return OK;
}

static Status read_model(Yaml *root, Model *out)
{
    Yaml *map;
    int encoder;
    if (root->kind != YAML_MAP)
        return status_fail(E_CONFIG, "%s:%d: a model config is a map", root->path, root->line);
    TRY(read_sizes(root, out));
    TRY(read_map(root, "image_encoder", &map));
    TRY(yaml_choice(map, "kind", encoder_names, &encoder));
    out->encoder = (EncoderKind)encoder;
    if (out->encoder == ENCODER_VIT)
        TRY(read_vit(map, out, &out->vit));
    else
        TRY(read_efficientvit(map, out, &out->efficientvit));
    TRY(read_map(root, "prompt_encoder", &map));
    TRY(read_prompt_encoder(map, &out->prompt_encoder));
    TRY(read_map(root, "mask_decoder", &map));
    TRY(read_mask_decoder(map, out, &out->mask_decoder));
    return yaml_check_all_seen(root);
}

Status model_load(const char *path, Model **out)
{
    Yaml *root;
    *out = NULL;
    TRY(yaml_load(path, &root));
    Model *model = mem_alloc(sizeof *model);
    Status status = read_model(root, model);
    yaml_destroy(root);
    if (status == OK)
        *out = model;
    else
        model_destroy(model);
    return status;
}

void model_destroy(Model *model)
{
    if (!model) return;
    free(model->name);
    free(model);
}

const char *model_name(const Model *model) { return model->name; }

int64_t model_image_size(const Model *model) { return model->image_size; }

int64_t model_frame(const Model *model) { return model->frame; }

int64_t model_grid(const Model *model) { return model->grid; }

int64_t model_embed_dim(const Model *model) { return model->embed_dim; }

int64_t model_lowres(const Model *model) { return 4 * model->grid; }
