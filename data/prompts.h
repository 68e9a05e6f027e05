/* Which masks of an image are used, and the box or points that ask for each.
 *
 * All draws are functions of (seed, epoch, sample). Prompts live in the prompt frame (1024 px for
 * SAM), whatever the size of the student's image. Called by data/sample.c.
 *
 * source  the fine-tuning of EfficientViT-SAM, as described (POINTS_PAPER) and as released
 *         (POINTS_RELEASED); see PointPreset in loader.h
 */
#ifndef RETORT_DATA_PROMPTS_H
#define RETORT_DATA_PROMPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "data/loader.h"
#include "data/resize.h"

enum { PROMPTS_MAX_POINTS = 10 };

enum {
    LABEL_POINT = 1,
    LABEL_PADDING = -1,
    LABEL_BOX_FIRST = 2,
    LABEL_BOX_SECOND = 3,
    LABEL_EMPTY = -2
};

/* prompts_choose_masks: which annotation goes into which mask slot. More annotations than slots: a
 * random choice without repetition. Fewer: with config->repeat_masks as many whole rounds as fit
 * and a random choice for the rest, else the annotations in order and empty slots.
 * choice  room for config->n_masks annotation numbers
 * returns the number of slots filled */
int64_t prompts_choose_masks(const LoaderConfig *config, uint32_t epoch, uint64_t sample,
                             int64_t n_annotations, int64_t *choice);

/* prompts_box: the box x0, y0, x1, y1 in the prompt frame of an annotation's x, y, width, height.
 * full, extent  size of the image in the file, and inside the student's square of
 *               config->image_size; the rounded ratio of each axis is used */
void prompts_box(const LoaderConfig *config, const double bbox[4], ImageSize full, ImageSize extent,
                 bool flip, double box[4]);

/* prompts_shake_box: adds noise to each edge of the box of mask slot m, normal with a deviation of
 * config->box_noise times the side it moves along, at most 20 px in a frame of 1024; what leaves
 * the image is put on its border, and corners stay in order.
 * extent  as of prompts_box
 * source  Kirillov et al., "Segment Anything" (2023), appendix A, training algorithm */
void prompts_shake_box(const LoaderConfig *config, uint32_t epoch, uint64_t sample, int64_t m,
                       ImageSize extent, double box[4]);

typedef struct PromptMasks { /* the masks of one image at the student's size, with image_size = S */
    int64_t n;               /* filled slots */
    const uint32_t *words;
    const int32_t *rows; /* (n, S + 1) */
    const double *boxes; /* (n, 4) prompt frame */
} PromptMasks;

/* prompts_draw: boxes for all masks of the image, or one to max_points points for each.
 * shapes  coords (n_masks, n_slots, 2)   labels (n_masks, n_slots), labels as in Batch; slots
 *         beyond masks->n are empty */
void prompts_draw(const LoaderConfig *config, uint32_t epoch, uint64_t sample,
                  const PromptMasks *masks, float *coords, int32_t *labels);

#endif
