/* The loader: samples of a source, decoded, flipped, resized and turned into prompts, in batches,
 * ahead of the training step by threads of its own.
 *
 * Order and draws are functions of (seed, epoch, sample): equal for any number of threads and
 * ranks. Knows tensors as plain arrays only; train/ copies a Batch into a graph's inputs.
 */
#ifndef RETORT_DATA_LOADER_H
#define RETORT_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/embedding_cache.h"
#include "data/source.h"

typedef struct Loader Loader;

typedef enum PointPreset {
    /* Uniform among pixels > 0.5 of the resized mask, x -> (x + 1/2) frame/S - 1/2. A mask with too
     * few pixels gives what it has, one without any its box. */
    POINTS_PAPER,
    /* Uniform among pixels > 0, x -> x frame/S. Too few on one mask: boxes for all of them. */
    POINTS_RELEASED,
} PointPreset;

typedef struct LoaderConfig {
    int64_t image_size;               /* S px; 0: no student image */
    int64_t teacher_size;             /* px; 0: no teacher image */
    const EmbeddingCache *embeddings; /* read with the images; NULL: none. Outlives the loader */
    int64_t frame;                    /* side of the prompt frame, px */
    int64_t n_masks;                  /* M slots per image; 0: images only (distillation) */
    int64_t n_slots;       /* P prompt slots per mask: 11 for 10 points and the padding point */
    int64_t max_points;    /* 1..10 */
    int64_t mask_words;    /* capacity of soft-run words per image, 32-bit words */
    int64_t decode_margin; /* 0: decode JPEGs at full size; k: at the smallest DCT scale that is
                              still k times the larger of the two sizes. Mean difference from full
                              size at 512 px: 1 to 3 grey levels (sharper) for 1, under 1 for 2 */
    bool repeat_masks;     /* released code: few masks are repeated; else weight 0 slots */
    PointPreset points;
    double flip;            /* probability of a horizontal flip */
    double box_probability; /* of box prompts, per image */
    double box_noise;       /* deviation of a box's edges, as a part of its side; 0: none */
    int64_t batch;          /* images of this rank per step */
    int rank, world_size;
    int n_threads;    /* decoding threads; 0: decode in the caller's thread */
    int64_t prefetch; /* batches ahead */
    uint64_t seed;
    double max_bad_fraction; /* broken samples that are replaced, as a part of the source, or of the
                                images read if they are more; the next one stops the loader */
} LoaderConfig;

/* Where the time of a sample goes. X(name, text) */
#define LOADER_STAGES(X)                                          \
    X(LOADER_READ, "read the image's file")                       \
    X(LOADER_DECODE, "decode")                                    \
    X(LOADER_JSON, "read the masks' file, parse run lengths")     \
    X(LOADER_RESIZE, "flip, resize, normalise, pad")              \
    X(LOADER_EMBEDDING, "read the embedding")                     \
    X(LOADER_MASKS, "run lengths to soft runs")                   \
    X(LOADER_PROMPTS, "prompts, weights, keys")

#define LOADER_ENUMERATOR(name, text) name,
typedef enum LoaderStage { LOADER_STAGES(LOADER_ENUMERATOR) N_LOADER_STAGES } LoaderStage;
#undef LOADER_ENUMERATOR

/* Samples that were drawn for one image of a batch but could not be used. Another stands in, drawn
 * by (seed, epoch, sample, attempt), so also the same for any number of threads and ranks. */
typedef struct BatchFault {
    int32_t n_broken;  /* files that are damaged or cannot be read */
    int32_t n_empty;   /* samples whose masks were all left out by the filters */
    char message[512]; /* what was wrong with the last of them; "" without a fault */
} BatchFault;

/* batch = B images; all memory is the loader's, valid until the next loader_next. */
typedef struct Batch {
    int64_t step;
    float *image;          /* (B,S,S,3) normalised, zero-padded right and bottom */
    float *teacher_image;  /* (B,teacher_size,teacher_size,3) or NULL */
    float *embedding;      /* (B,grid,grid,D) of the teacher, from a cache; or NULL */
    int32_t *image_extent; /* (B,2) rows, columns of S that are image, not padding, px; of
                              teacher_size where there is no student image */
    float *coords;         /* (B,M,P,2) px in the prompt frame */
    int32_t *labels;       /* (B,M,P): 1 point, -1 padding point, 2 3 box corners, -2 empty slot */
    uint32_t *words;       /* (B,mask_words) soft runs of the targets, see base/soft_runs.h */
    int32_t *rows;         /* (B,M,S+1) offsets into the image's words */
    float *weight;         /* (B,M) 1/(masks of the image * batch * world_size); 0: empty slot */
    int32_t *point_key;    /* (B,M,2) key of the loss's random points */
    uint64_t *sample_id;   /* (B) */
    uint32_t *epoch;       /* (B) */
    uint8_t *flipped;      /* (B) */
    BatchFault *fault;     /* (B) */
    double *cpu_seconds;   /* (B,N_LOADER_STAGES) that its thread computed for each */
} Batch;

/* loader_position: where image b of a step of config->rank lies in the endless sequence of epochs
 * (source_at): (step * world_size + rank) * batch + b, so that all ranks together take it in order,
 * however many they are. */
uint64_t loader_position(const LoaderConfig *config, int64_t step, int64_t b);

/* loader_allows_broken: whether so many broken samples may be left out of a source of n. */
bool loader_allows_broken(double max_bad_fraction, int64_t n_broken, int64_t n);

/* loader_create: starts at `first_step`. The source must outlive the loader, and have masks if
 * n_masks > 0.
 * errors  E_CONFIG if a value of the config is out of its range, naming it; E_MEMORY */
Status loader_create(const Source *source, const LoaderConfig *config, int64_t first_step,
                     Loader **out);
void loader_destroy(Loader *loader);

/* loader_next: the batch of the next step; waits for it.
 * errors  E_FILE, E_FORMAT naming a file that is broken, if max_bad_fraction does not allow one
 * more or several in a row stood in for each other; other failures of reading a sample. The same
 * again when called again */
Status loader_next(Loader *loader, const Batch **out);
int64_t loader_broken_samples(const Loader *loader); /* in the batches delivered so far */
size_t loader_ring_bytes(const Loader *loader);      /* of all batches; the rest is the readers' */
double loader_wait_seconds(const Loader *loader);    /* time spent waiting in loader_next so far */

#endif
