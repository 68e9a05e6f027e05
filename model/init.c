/* Initial weights, a function of (seed, name of the entry, index): the same for any machine, thread
 * count or order. Called by train/ for a run that starts from nothing.
 *
 * source  EfficientViT-SAM's initialisation (normal 0.02, norms 1 and 0, last norm of a residual
 * branch 0); embeddings and the positional matrix as in SAM, normal with deviation 1, so that the
 * kinds of prompts can be told apart from the first step on
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "model/model.h"

#define WEIGHT_STD 0.02

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

static bool is_embedding(const StoreEntry *entry)
{
    return entry->shape.rank == 2 && (strncmp(entry->name, "prompt_encoder.", 15) == 0 ||
                                      ends_with(entry->name, "iou_token.weight") ||
                                      ends_with(entry->name, "mask_tokens.weight"));
}

/* Constant entries: false if the entry is drawn. */
static bool constant_of(const StoreEntry *entry, float *out)
{
    *out = 0;
    if (ends_with(entry->name, ".bias") || ends_with(entry->name, ".running_mean")) return true;
    if (entry->shape.rank != 1) return false;
    *out = is_last_norm_of_branch(entry->name) ? 0.0f : 1.0f;
    return true;
}

static void fill(const StoreEntry *entry, uint64_t seed, float *data, int64_t n)
{
    float constant;
    if (constant_of(entry, &constant)) {
        for (int64_t i = 0; i < n; i++) data[i] = constant;
        return;
    }
    RngKey key = {.seed = seed, .purpose = RNG_INIT, .sample = rng_name_hash(entry->name)};
    double std = is_embedding(entry) ? 1.0 : WEIGHT_STD;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) data[i] = (float)(std * rng_normal(key, (uint64_t)i));
}

Status model_init(const Model *model, Store *store, uint64_t seed)
{
    (void)model; /* names say all */
    for (int i = 0; i < store->n_entries; i++) {
        const StoreEntry *entry = &store->entries[i];
        int64_t n = shape_elems(entry->shape);
        if (entry->kind != STORE_PARAMETER && entry->kind != STORE_BUFFER) continue;
        Tensor host = {.dtype = entry->dtype, .shape = entry->shape};
        host.data = mem_alloc(tensor_bytes(&host)); /* zeros, which num_batches_tracked keeps */
        if (entry->dtype == DT_F32) fill(entry, seed, host.data, n);
        Status status = store_set(store, i, &host);
        free(host.data);
        TRY(status);
    }
    return OK;
}
