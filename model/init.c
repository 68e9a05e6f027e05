/* Initial weights, a function of (seed, name of the entry, index): the same for any machine, thread
 * count or order. Called by train/ for a run that starts from nothing.
 *
 * Weights are PyTorch's defaults, uniform within 1/sqrt(fan-in), which is how SAM starts; the
 * released EfficientViT-SAM trainer would draw them with deviation 0.02, but always overwrites
 * them, and from there the decoder's chains of unnormalised layers do not learn: each passes on a
 * tenth of its input's variance. As there, the last norm of a residual branch is 0, so that a block
 * starts as the identity.
 *
 * source  torch.nn.Linear and Conv2d; segment_anything (positions 0, embeddings of deviation 1)
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "model/config.h"

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* The norm that ends a residual branch; zero there makes the block start as the identity. Blocks
 * that open a stage, op_list.0 of the backbone, have no shortcut and need their norm. */
static bool is_last_norm_of_branch(const char *name)
{
    static const char *const ends[] = {".main.conv2.norm.weight", ".main.point_conv.norm.weight",
                                       ".main.proj.norm.weight"};
    if (strstr(name, ".backbone.") && strstr(name, ".op_list.0.main.")) return false;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(name, ends[i])) return true;
    return false;
}

/* Of an entry that is drawn from a normal distribution; 0: it is not. */
static double deviation_of(const Model *model, const StoreEntry *entry)
{
    if (entry->shape.rank != 2) return 0;
    if (ends_with(entry->name, ".positional_encoding_gaussian_matrix"))
        return model->prompt_encoder.position_scale;
    return strncmp(entry->name, "prompt_encoder.", 15) == 0 ||
           ends_with(entry->name, "iou_token.weight") ||
           ends_with(entry->name, "mask_tokens.weight");
}

/* Constant entries: false if the entry is drawn. */
static bool constant_of(const StoreEntry *entry, float *out)
{
    *out = 0;
    static const char *const zeros[] = {".bias", ".running_mean", ".pos_embed", ".rel_pos_h",
                                        ".rel_pos_w"};
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++)
        if (ends_with(entry->name, zeros[i])) return true;
    if (entry->shape.rank != 1) return false;
    *out = is_last_norm_of_branch(entry->name) ? 0.0f : 1.0f;
    return true;
}

static void fill(const ModelInit *init, const StoreEntry *entry, float *data, int64_t n)
{
    float constant;
    if (constant_of(entry, &constant)) {
        for (int64_t i = 0; i < n; i++) data[i] = constant;
        return;
    }
    RngKey key = {
        .seed = init->seed, .purpose = RNG_INIT, .sample = rng_name_hash(entry->name)};
    double bound = sqrt((double)entry->shape.dim[0] /
                        (double)n); /* fan-in: all dims but the first */
    double deviation = deviation_of(init->model, entry);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)(deviation > 0 ? deviation * rng_normal(key, (uint64_t)i)
                                        : bound * (2 * rng_uniform(key, (uint64_t)i) - 1));
}

Status model_initial(void *init, const StoreEntry *entry, Tensor *host)
{
    if (entry->dtype == DT_F32)
        fill(init, entry, host->data, shape_elems(entry->shape));
    else /* num_batches_tracked */
        memset(host->data, 0, tensor_bytes(host));
    return OK;
}

Status model_init(const Model *model, Store *store, uint64_t seed)
{
    ModelInit init = {.model = model, .seed = seed};
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        if (entry->kind != STORE_PARAMETER && entry->kind != STORE_BUFFER) continue;
        Tensor host = {.dtype = entry->dtype, .shape = entry->shape};
        host.data = mem_alloc(tensor_bytes(&host));
        Status status = model_initial(&init, entry, &host);
        if (status == OK) status = store_set(store, i, &host);
        free(host.data);
        TRY(status);
    }
    return OK;
}
