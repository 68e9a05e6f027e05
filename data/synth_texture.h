/* Colours and textures of the scene painter.
 *
 * A material is a function from places in the image to colours; noise comes from one table per
 * scene, read at many scales, angles and offsets. Called by data/synth_scene.c (draws materials)
 * and data/synth_paint.c (paints them).
 */
#ifndef RETORT_DATA_SYNTH_TEXTURE_H
#define RETORT_DATA_SYNTH_TEXTURE_H

#include "data/synth_draw.h"

enum { NOISE_SIDE = 64 };

typedef struct Noise { /* periodic lattice of values in [-1,1] */
    float value[NOISE_SIDE][NOISE_SIDE];
} Noise;

typedef enum Texture {
    TEXTURE_PLAIN,
    TEXTURE_GRADIENT,
    TEXTURE_STRIPES,
    TEXTURE_CHECKS,
    TEXTURE_SPOTS,
    TEXTURE_CLOUDS, /* smooth noise */
    TEXTURE_GRAIN,  /* noise drawn out along one axis, as of wood */
    TEXTURE_N
} Texture;

typedef struct Material {
    Texture texture;
    float first[3], second[3]; /* the colours that it mixes, 0..1 */
    float x, y, cosine, sine;  /* frame of the texture in the image, px */
    float period_px;           /* of stripes, checks, spots and noise; length of a gradient */
    float mottle;              /* amplitude of the fine noise on everything */
} Material;

void noise_fill(Noise *noise, Draws *draws);

/* noise_at: smooth between the lattice's points, which are 1 apart. */
float noise_at(const Noise *noise, float x, float y);

/* colour_draw: a colour of a saturation and brightness within the limits. */
void colour_draw(Draws *draws, const float saturation[2], const float brightness[2], float rgb[3]);
float colour_distance(const float a[3], const float b[3]);

/* material_draw: texture and scale; the colours are the caller's.
 * units   size_px: of what it covers, about */
void material_draw(Draws *draws, float size_px, Material *material);

/* material_colour: the colour at a place of the image, before light falls on it. */
void material_colour(const Material *material, const Noise *noise, float x, float y, float rgb[3]);

#endif
