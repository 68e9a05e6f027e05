/* Randomness as a function: every draw is Philox4x32-10 of a key (seed, purpose) and a counter
 * (epoch, sample, index). There is no state to save, so a run can be killed anywhere and give the
 * same draws again, for any number of ranks and threads.
 *
 * source  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32-10
 */
#ifndef RETORT_BASE_RNG_H
#define RETORT_BASE_RNG_H

#include <stdint.h>

/* What a draw is for. Numbers are part of the reproducibility of runs: append, never renumber. */
typedef enum RngPurpose {
    RNG_INIT = 1,  /* initial weights; sample = hash of the parameter's name */
    RNG_ORDER = 2, /* permutation of the samples of an epoch */
    RNG_FLIP = 3,
    RNG_MASK_CHOICE = 4, /* which masks of an image are used */
    RNG_PROMPT_KIND = 5, /* box or points */
    RNG_POINT_COUNT = 6,
    RNG_POINT_CHOICE = 7,
    RNG_OUTPUT_MODE = 8, /* multi or single mask; sample = global step */
    RNG_LOSS_POINTS = 9, /* PointRend's points */
    RNG_SYNTH = 10,
    RNG_TEST = 11,
    RNG_ERROR_CLICK = 12, /* where a prediction is wrong; epoch = round */
    RNG_BOX_NOISE = 13,
    RNG_REPLACEMENT = 14, /* which sample stands in for one that cannot be used */
} RngPurpose;

typedef struct RngKey {
    uint64_t seed;
    uint32_t purpose;
    uint32_t epoch;
    uint64_t sample; /* sample id, step or name hash */
} RngKey;

uint64_t rng_u64(RngKey key, uint64_t index);
double rng_uniform(RngKey key, uint64_t index); /* [0, 1), 53 bits */
double rng_normal(RngKey key, uint64_t index);  /* mean 0, std 1 (Box-Muller) */
uint64_t rng_below(RngKey key, uint64_t index,
                   uint64_t n); /* 0 .. n-1, bias below n * 2^-64; n > 0 */

/* rng_permute: where position `position` of a keyed permutation of 0..n-1 lies, in O(1) memory
 * (a four-round Feistel network with cycle walking). */
uint64_t rng_permute(RngKey key, uint64_t position, uint64_t n);

/* rng_name_hash: FNV-1a, 64 bit, of a string. */
uint64_t rng_name_hash(const char *name);

#endif
