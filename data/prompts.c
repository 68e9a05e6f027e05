/* Choice of masks, boxes and points. See prompts.h. */
#include "data/prompts.h"

#include <assert.h>
#include <string.h>

#include "base/rng.h"
#include "data/mask.h"

static RngKey key_of(const LoaderConfig *config, RngPurpose purpose, uint32_t epoch,
                     uint64_t sample)
{
    return (RngKey){.seed = config->seed, .purpose = purpose, .epoch = epoch, .sample = sample};
}

/* Puts `value` in its place of an ascending list; false if it is there already. */
static bool insert_ascending(int64_t *list, int64_t length, int64_t value)
{
    int64_t place = length;
    while (place > 0 && list[place - 1] > value) place--;
    if (place > 0 && list[place - 1] == value) return false;
    memmove(list + place + 1, list + place, (size_t)(length - place) * sizeof *list);
    list[place] = value;
    return true;
}

/* k different numbers of 0..n-1, every subset equally likely, ascending. Takes draws from
 * first_index on.
 * source  Floyd's sampling (Bentley and Floyd, "A sample of brilliance", CACM 1987) */
static void choose_distinct(RngKey key, uint64_t first_index, int64_t n, int64_t k, int64_t *chosen)
{
    assert(k <= n);
    for (int64_t i = 0; i < k; i++) {
        int64_t top = n - k + i;
        int64_t draw = (int64_t)rng_below(key, first_index + (uint64_t)i, (uint64_t)top + 1);
        if (!insert_ascending(chosen, i, draw)) chosen[i] = top; /* larger than all so far */
    }
}

int64_t prompts_choose_masks(const LoaderConfig *config, uint32_t epoch, uint64_t sample,
                             int64_t n_annotations, int64_t *choice)
{
    int64_t filled = 0, n_slots = config->n_masks;
    while (filled + n_annotations <= n_slots && (config->repeat_masks || filled == 0)) {
        for (int64_t i = 0; i < n_annotations; i++) choice[filled + i] = i;
        filled += n_annotations;
    }
    if (filled > 0 && !config->repeat_masks) return filled;
    RngKey key = key_of(config, RNG_MASK_CHOICE, epoch, sample);
    choose_distinct(key, 0, n_annotations, n_slots - filled, choice + filled);
    return n_slots;
}

void prompts_box(const LoaderConfig *config, const double bbox[4], ImageSize full, ImageSize extent,
                 bool flip, double box[4])
{
    double to_frame = (double)config->frame / (double)config->image_size;
    double scale_x = (double)extent.width / (double)full.width * to_frame;
    double scale_y = (double)extent.height / (double)full.height * to_frame;
    double left = flip ? (double)full.width - bbox[2] - bbox[0] : bbox[0];
    box[0] = left * scale_x;
    box[1] = bbox[1] * scale_y;
    box[2] = (left + bbox[2]) * scale_x;
    box[3] = (bbox[1] + bbox[3]) * scale_y;
}

static double clamped(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

static void put_in_order(double *first, double *second)
{
    double low = *first < *second ? *first : *second, high = *first < *second ? *second : *first;
    *first = low;
    *second = high;
}

void prompts_shake_box(const LoaderConfig *config, uint32_t epoch, uint64_t sample, int64_t m,
                       ImageSize extent, double box[4])
{
    RngKey key = key_of(config, RNG_BOX_NOISE, epoch, sample);
    double frame = (double)config->frame, scale = frame / (double)config->image_size;
    double side[2] = {box[2] - box[0], box[3] - box[1]}, most = 20.0 / 1024.0 * frame;
    double end[2] = {(double)extent.width * scale, (double)extent.height * scale};
    if (config->box_noise == 0.0) return;
    for (int i = 0; i < 4; i++) {
        double noise = rng_normal(key, (uint64_t)(4 * m + i)) * config->box_noise * side[i % 2];
        box[i] = clamped(box[i] + clamped(noise, -most, most), 0.0, end[i % 2]);
    }
    for (int axis = 0; axis < 2; axis++) put_in_order(&box[axis], &box[axis + 2]);
}

static void clear_slots(const LoaderConfig *config, float *coords, int32_t *labels)
{
    for (int64_t slot = 0; slot < config->n_slots; slot++) {
        coords[2 * slot] = coords[2 * slot + 1] = 0.0f;
        labels[slot] = LABEL_EMPTY;
    }
}

static void write_box(const double box[4], float *coords, int32_t *labels)
{
    for (int i = 0; i < 4; i++) coords[i] = (float)box[i];
    labels[0] = LABEL_BOX_FIRST;
    labels[1] = LABEL_BOX_SECOND;
}

/* The paper preset keeps the centre of a pixel where it is, given that SAM's encoder adds 1/2 to
 * every coordinate; the released code multiplies the index. */
static float to_frame(const LoaderConfig *config, int32_t pixel)
{
    double scale = (double)config->frame / (double)config->image_size;
    if (config->points == POINTS_RELEASED) return (float)((double)pixel * scale);
    return (float)(((double)pixel + 0.5) * scale - 0.5);
}

static float point_threshold(const LoaderConfig *config)
{
    return config->points == POINTS_RELEASED ? 0.0f : 0.5f;
}

static const int32_t *rows_of(const LoaderConfig *config, const PromptMasks *masks, int64_t m)
{
    return masks->rows + m * (config->image_size + 1);
}

static int64_t pixels_of(const LoaderConfig *config, const PromptMasks *masks, int64_t m)
{
    return mask_count_above(masks->words, rows_of(config, masks, m), config->image_size,
                            point_threshold(config));
}

/* k of the mask's n pixels, and the point that stands where no box is. */
static void write_points(const LoaderConfig *config, RngKey key, const PromptMasks *masks,
                         int64_t m, int64_t n, int64_t k, float *coords, int32_t *labels)
{
    int64_t numbers[PROMPTS_MAX_POINTS];
    int32_t xy[2 * PROMPTS_MAX_POINTS];
    choose_distinct(key, (uint64_t)(m * PROMPTS_MAX_POINTS), n, k, numbers);
    mask_pixels_above(masks->words, rows_of(config, masks, m), config->image_size,
                      point_threshold(config), numbers, k, xy);
    for (int64_t i = 0; i < 2 * k; i++) coords[i] = to_frame(config, xy[i]);
    for (int64_t i = 0; i < k; i++) labels[i] = LABEL_POINT;
    labels[k] = LABEL_PADDING;
}

/* The image's common number of points; 0: boxes. */
static int64_t draw_point_count(const LoaderConfig *config, uint32_t epoch, uint64_t sample,
                                const PromptMasks *masks)
{
    RngKey kind = key_of(config, RNG_PROMPT_KIND, epoch, sample);
    if (rng_uniform(kind, 0) < config->box_probability) return 0;
    RngKey count = key_of(config, RNG_POINT_COUNT, epoch, sample);
    int64_t k = 1 + (int64_t)rng_below(count, 0, (uint64_t)config->max_points);
    if (config->points != POINTS_RELEASED) return k;
    for (int64_t m = 0; m < masks->n; m++)
        if (pixels_of(config, masks, m) < k) return 0;
    return k;
}

void prompts_draw(const LoaderConfig *config, uint32_t epoch, uint64_t sample,
                  const PromptMasks *masks, float *coords, int32_t *labels)
{
    assert(config->max_points <= PROMPTS_MAX_POINTS && config->n_slots > config->max_points);
    RngKey choice = key_of(config, RNG_POINT_CHOICE, epoch, sample);
    int64_t k = draw_point_count(config, epoch, sample, masks);
    for (int64_t m = 0; m < config->n_masks; m++) {
        float *mask_coords = coords + m * config->n_slots * 2;
        int32_t *mask_labels = labels + m * config->n_slots;
        clear_slots(config, mask_coords, mask_labels);
        if (m >= masks->n) continue;
        int64_t n = k > 0 ? pixels_of(config, masks, m) : 0;
        if (n == 0)
            write_box(masks->boxes + 4 * m, mask_coords, mask_labels);
        else
            write_points(config, choice, masks, m, n, n < k ? n : k, mask_coords, mask_labels);
    }
}
