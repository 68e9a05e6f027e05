/* Draws of the scene painter: a stream of values of one (seed, image, purpose).
 *
 * Each object of a scene has a stream of its own, so that a change in how one kind is drawn leaves
 * the others of a scene as they were.
 */
#ifndef RETORT_DATA_SYNTH_DRAW_H
#define RETORT_DATA_SYNTH_DRAW_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"

enum {
    SYNTH_STREAM_SCENE,
    SYNTH_STREAM_NOISE,
    SYNTH_STREAM_GRAIN,
    SYNTH_STREAM_POINTS,
    SYNTH_STREAM_OBJECT
}; /* and those behind it: one for each object */

typedef struct Draws {
    RngKey key;
    uint64_t next;
} Draws;

static inline Draws draws_open(uint64_t seed, uint64_t image, uint32_t stream)
{
    return (Draws){.key = {seed, RNG_SYNTH, stream, image}};
}

static inline float draw_between(Draws *draws, double low, double high)
{
    return (float)(low + (high - low) * rng_uniform(draws->key, draws->next++));
}

/* Uniform in the logarithm: as many small values as large ones. */
static inline float draw_scale(Draws *draws, double low, double high)
{
    return (float)(low * pow(high / low, rng_uniform(draws->key, draws->next++)));
}

static inline int draw_whole(Draws *draws, int low, int high) /* both may come */
{
    return low + (int)rng_below(draws->key, draws->next++, (uint64_t)(high - low + 1));
}

static inline bool draw_chance(Draws *draws, double probability)
{
    return rng_uniform(draws->key, draws->next++) < probability;
}

#endif
