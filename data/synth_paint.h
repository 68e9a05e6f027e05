/* Paints a planned scene: pixels, and for each pixel the object that is seen there.
 *
 * Called by data/synth.c.
 */
#ifndef RETORT_DATA_SYNTH_PAINT_H
#define RETORT_DATA_SYNTH_PAINT_H

#include "data/synth_scene.h"

typedef struct Canvas {
    int64_t height, width; /* px */
    float *colour;         /* (height, width, 3) 0..1 */
    float *distance;       /* (height, width) scratch: distances to the object at hand */
    int16_t *seen;         /* (height, width) object seen at the pixel's centre, -1: ground */
    uint8_t *pixels;       /* (height, width, 3) RGB */
} Canvas;

/* scene_paint: fills `seen` and `pixels`.
 * grain   the stream of the noise of each pixel */
void scene_paint(const Scene *scene, Draws grain, Canvas *canvas);

#endif
