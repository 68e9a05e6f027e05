/* See loader_hash.h. */
#include "tests/loader_hash.h"

LoaderConfig loader_small_config(void)
{
    return (LoaderConfig){.image_size = 64,
                          .teacher_size = 96,
                          .frame = 128,
                          .n_masks = 6,
                          .n_slots = 11,
                          .max_points = 10,
                          .mask_words = 20000,
                          .decode_margin = 1,
                          .flip = 0.5,
                          .box_probability = 0.5,
                          .batch = 4,
                          .world_size = 1,
                          .prefetch = 2,
                          .seed = 5};
}

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_square(uint64_t hash, const float *image, int64_t side, int64_t b)
{
    int64_t n = side * side * 3;
    return hash_bytes(hash, image + b * n, (size_t)n * sizeof *image);
}

/* Prompts and targets. */
static uint64_t hash_masks(uint64_t hash, const LoaderConfig *c, const Batch *batch, int64_t b)
{
    int64_t n_masks = c->n_masks, n_rows = n_masks * (c->image_size + 1);
    size_t n_slots = (size_t)(n_masks * c->n_slots);
    const int32_t *rows = batch->rows + b * n_rows;
    hash = hash_bytes(hash, batch->coords + b * n_masks * c->n_slots * 2, n_slots * 2 * 4);
    hash = hash_bytes(hash, batch->labels + b * n_masks * c->n_slots, n_slots * 4);
    hash = hash_bytes(hash, batch->point_key + b * n_masks * 2, (size_t)(n_masks * 2) * 4);
    hash = hash_bytes(hash, batch->weight + b * n_masks, (size_t)n_masks * 4);
    hash = hash_bytes(hash, rows, (size_t)n_rows * 4);
    return hash_bytes(hash, batch->words + b * c->mask_words, (size_t)rows[n_rows - 1] * 4);
}

uint64_t loader_hash_image(const LoaderConfig *c, const Batch *batch, int64_t b)
{
    uint64_t hash = hash_square(1, batch->image, c->image_size, b);
    hash = hash_square(hash, batch->teacher_image, c->teacher_size, b);
    hash = hash_bytes(hash, batch->image_extent + 2 * b, 2 * sizeof(int32_t));
    if (c->n_masks > 0) hash = hash_masks(hash, c, batch, b);
    hash = hash_bytes(hash, &batch->sample_id[b], sizeof *batch->sample_id);
    hash = hash_bytes(hash, &batch->epoch[b], sizeof *batch->epoch);
    return hash_bytes(hash, &batch->flipped[b], 1);
}
