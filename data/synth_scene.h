/* What stands in a scene: the plan that the painter paints.
 *
 * Objects lie in painting order, the farthest first, and a part follows or precedes its whole
 * directly. Called by data/synth.c.
 */
#ifndef RETORT_DATA_SYNTH_SCENE_H
#define RETORT_DATA_SYNTH_SCENE_H

#include "data/synth.h"
#include "data/synth_shapes.h"
#include "data/synth_texture.h"

enum { SCENE_MAX_OBJECTS = SYNTH_MAX_OBJECTS * (1 + SYNTH_MAX_PARTS) };

typedef struct SceneObject {
    SynthKind kind;
    Shape shape;
    Material material;
    int whole;       /* object that this is a part of, or -1 */
    bool inside;     /* a part: only where its whole is; else it may stand out behind it */
    float relief;    /* strength of light and shade on its rim */
    float relief_px; /* width of the rim */
    float shadow;    /* strength of the shadow it throws, 0 for none */
} SceneObject;

typedef struct Scene {
    Material ground[2];                      /* wall and floor, or the same twice */
    float border_x, border_y, border_offset; /* floor: x border_x + y border_y > border_offset */
    float light_x, light_y;                  /* direction that light comes from */
    float slope_x, slope_y;                  /* change of brightness over the image */
    int shadow_x, shadow_y;                  /* offset of shadows, px */
    float edge_px;                           /* width of the soft edge */
    float grain;                             /* amplitude of the noise of each pixel */
    Noise noise;
    SceneObject objects[SCENE_MAX_OBJECTS];
    int n_objects;
} Scene;

/* scene_draw: plans scene `number` of the config. */
void scene_draw(const SynthConfig *config, uint64_t number, Scene *scene);

#endif
