/* The loader: samples of a source, decoded, flipped, resized and turned into prompts, in batches, ahead of
 * the training step by threads of its own.
 *
 * Order and draws are functions of (seed, epoch, sample): equal for any number of threads and ranks.
 * Knows tensors as plain arrays only; train/ copies a Batch into a graph's inputs.
 *
 * Step s of rank r of R with `batch` images per rank takes global positions s*batch*R + r*batch + (0..batch-1)
 * of the endless sequence of epochs, each a keyed permutation of the source (rng_permute, RNG_ORDER).
 */
#ifndef RETORT_DATA_LOADER_H
#define RETORT_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/source.h"

typedef struct Loader Loader;

typedef enum PointPreset {
    POINTS_PAPER,    /* uniform among pixels > 0.5 of the resized mask; too few: what there is; none: its box */
    POINTS_RELEASED, /* uniform among pixels > 0, pixel x -> x * frame/S; too few on any mask: boxes for all */
} PointPreset;

typedef struct LoaderConfig {
    int64_t image_size;     /* S px; 0: no student image */
    int64_t teacher_size;   /* px; 0: no teacher image */
    int64_t frame;          /* side of the prompt frame, px */
    int64_t n_masks;        /* M slots per image; 0: images only (distillation) */
    int64_t n_slots;        /* P prompt slots per mask: 11 for up to 10 points and the padding point */
    int64_t max_points;     /* 1..10 */
    int64_t mask_words;     /* capacity of soft-run words per image, 32-bit words */
    bool reduced_decode;    /* decode JPEGs at the reduced DCT scale that still covers the larger size */
    bool repeat_masks;      /* released code: images with fewer masks repeat them; else weight 0 slots */
    PointPreset points;
    double flip;            /* probability of a horizontal flip */
    double box_probability; /* of box prompts, per image */
    int64_t batch;          /* images of this rank per step */
    int rank, world_size;
    int n_threads;          /* decoding threads; 0: decode in the caller's thread */
    int64_t prefetch;       /* batches ahead */
    uint64_t seed;
} LoaderConfig;

typedef struct Batch { /* batch = B images; all memory owned by the loader, valid until the next loader_next */
    int64_t step;
    float *image;           /* (B,S,S,3) normalised, zero-padded right and bottom */
    float *teacher_image;   /* (B,teacher_size,teacher_size,3) or NULL */
    int32_t *image_extent;  /* (B,2) rows, columns of S that are image, not padding, px; of teacher_size
                               where there is no student image */
    float *coords;          /* (B,M,P,2) px in the prompt frame */
    int32_t *labels;        /* (B,M,P): 1 point, -1 padding point, 2 3 box corners, -2 empty slot */
    uint32_t *words;        /* (B,mask_words) soft runs of the targets, see base/soft_runs.h */
    int32_t *rows;          /* (B,M,S+1) offsets into the image's words */
    float *weight;          /* (B,M) 1/(masks of the image * batch * world_size); 0 in empty slots */
    int32_t *point_key;     /* (B,M,2) key of the loss's random points */
    uint64_t *sample_id;    /* (B) */
    uint32_t *epoch;        /* (B) */
    uint8_t *flipped;       /* (B) */
} Batch;

/* loader_create: starts at `first_step`. The source must outlive the loader, and have masks if n_masks > 0.
 * errors  E_CONFIG if a value of the config is out of its range, naming it; E_MEMORY */
Status loader_create(const Source *source, const LoaderConfig *config, int64_t first_step, Loader **out);
void loader_destroy(Loader *loader);

/* loader_next: the batch of the next step; waits for it.
 * errors  those of reading a sample, naming its file; the same again when called again */
Status loader_next(Loader *loader, const Batch **out);
double loader_wait_seconds(const Loader *loader); /* time spent waiting in loader_next so far */

#endif
