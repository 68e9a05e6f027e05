/* A painter of scenes with exact masks: training data for whoever has none.
 *
 * A scene is a textured, shaded ground with overlapping objects of many kinds; some have parts,
 * which have masks of their own, as in SA-1B. A mask is the visible part of an object, exact at the
 * pixel centres; the picture has soft edges, shadows and grain, so that masks must be learned, not
 * read off. Written in SA-1B's form by data/sa1b_write.h; called by `retort synth`.
 *
 * Must hold: picture and masks are a function of (config, image number) alone.
 */
#ifndef RETORT_DATA_SYNTH_H
#define RETORT_DATA_SYNTH_H

#include <stdint.h>

#include "base/status.h"
#include "data/rle.h"

/* K(NAME, name, weight, low, high, parts): how often the kind is painted, the range of its radius
 * in shorter sides of an image of 14 objects, and whether it may have parts. */
#define SYNTH_KINDS(K)                                                             \
    K(ELLIPSE, ellipse, 6, 0.050, 0.200, true)                                     \
    K(BOX, box, 5, 0.050, 0.200, true)       /* rounded corners */                 \
    K(CONVEX, convex, 7, 0.050, 0.220, true) /* polygon */                         \
    K(STAR, star, 8, 0.060, 0.230, true)                                           \
    K(BRACKET, bracket, 9, 0.060, 0.210, false) /* L, U, T, Z and plus */          \
    K(CRESCENT, crescent, 7, 0.060, 0.220, false)                                  \
    K(RING, ring, 6, 0.050, 0.190, false)                                          \
    K(PLATE, plate, 6, 0.080, 0.210, false)   /* with one to four holes */         \
    K(ARC, arc, 6, 0.060, 0.200, false)       /* a piece of a thick circle line */ \
    K(BLOB, blob, 8, 0.060, 0.220, true)      /* wavy outline */                   \
    K(ROD, rod, 7, 0.100, 0.350, false)       /* thin and straight */              \
    K(STROKE, stroke, 8, 0.090, 0.280, false) /* thin and curved */                \
    K(TINY, tiny, 4, 0.012, 0.030, false)

typedef enum SynthKind {
#define SYNTH_KIND_ENUM(NAME, name, weight, low, high, parts) SYNTH_##NAME,
    SYNTH_KINDS(SYNTH_KIND_ENUM)
#undef SYNTH_KIND_ENUM
        SYNTH_N_KINDS
} SynthKind;

enum { SYNTH_MAX_OBJECTS = 64, SYNTH_MAX_PARTS = 4, SYNTH_MIN_AREA = 24 };

typedef struct SynthConfig {
    uint64_t seed;
    int64_t height, width;        /* px, 64 .. 4096 */
    int min_objects, max_objects; /* of a scene, 1 .. SYNTH_MAX_OBJECTS; parts come on top */
    double scale;                 /* of the objects, 0.25 .. 4; 1: as the kinds above say */
    int64_t min_area; /* px, SYNTH_MIN_AREA or more: an object of which less is seen has no mask */
} SynthConfig;

typedef struct SynthMask {
    SynthKind kind;
    int whole;       /* mask that this is a part of; -1: none, or none of its own is seen */
    Rle mask;        /* visible pixels, those of its parts included */
    double point[2]; /* x, y of the centre of one of its pixels, px */
} SynthMask;

typedef struct SynthImage { /* memory of the painter, valid until its next use */
    int64_t height, width;  /* px */
    const uint8_t *pixels;  /* (height, width, 3) RGB */
    const SynthMask *masks; /* never empty */
    int64_t n_masks;
} SynthImage;

typedef struct SynthPainter SynthPainter; /* the canvas of one thread */

/* synth_painter_create: a painter of scenes of the config.
 * errors  E_CONFIG naming the value that is out of its range; E_MEMORY */
Status synth_painter_create(const SynthConfig *config, SynthPainter **out);
void synth_painter_destroy(SynthPainter *painter);

/* synth_paint: paints scene `number`.
 * errors  E_CONFIG if hardly a scene of this config has an object of min_area; E_MEMORY */
Status synth_paint(SynthPainter *painter, uint64_t number, SynthImage *image);

const char *synth_kind_name(SynthKind kind);

#endif
