/* Mean IoU of masks, over all and by the size of the object. Used by `retort eval` and by
 * validation during training.
 *
 * source  the published evaluation: COCO's size classes by the annotation's area, bounds inclusive
 *         on both sides, so that an area on a bound counts in both; means over masks, not images
 */
#ifndef RETORT_TRAIN_MIOU_H
#define RETORT_TRAIN_MIOU_H

#include <stdint.h>

#include "kernels/comm/comm.h"

typedef enum AreaClass { AREA_ALL, AREA_LARGE, AREA_MEDIUM, AREA_SMALL, N_AREA_CLASSES } AreaClass;

extern const char *const area_class_names[N_AREA_CLASSES];

typedef struct Miou { /* zero-initialise */
    int64_t sum[N_AREA_CLASSES]; /* in units of 2^-36, for 10^8 masks: the same in any order */
    int64_t n[N_AREA_CLASSES];
} Miou;

/* mask_iou: intersection / (union + 1e-7) of two masks of n_px pixels of 0 or 1. Both empty: 0. */
double mask_iou(const uint8_t *a, const uint8_t *b, int64_t n_px);

void miou_add(Miou *miou, double area_px, double iou); /* iou 0..1 */
/* miou_merge_ranks: the masks of all ranks, to all of them. errors  E_NETWORK */
Status miou_merge_ranks(Comm *comm, Miou *miou);
double miou_mean(const Miou *miou, AreaClass area); /* 0..1; NaN if the class is empty */

#endif
