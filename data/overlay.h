/* Masks and prompts drawn onto a picture. Used by `retort segment` and `retort eval`. */
#ifndef RETORT_DATA_OVERLAY_H
#define RETORT_DATA_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "data/distance.h"
#include "data/resize.h"

typedef struct Colour {
    uint8_t rgb[3];
} Colour;

/* overlay_colour: one of a few colours that are easily told apart, in turn. */
Colour overlay_colour(int64_t number);

typedef struct Canvas {
    uint8_t *rgb; /* (size.height, size.width, 3), memory of the caller */
    ImageSize size;
} Canvas;

/* overlay_mask: tints the pixels of a mask and draws its outline, which lies inside the mask.
 * shapes  mask (size.height, size.width), nonzero = foreground
 * errors  E_MEMORY */
Status overlay_mask(Canvas *canvas, const uint8_t *mask, Colour colour, DistanceScratch *scratch);

/* overlay_outline: the outline alone. */
Status overlay_outline(Canvas *canvas, const uint8_t *mask, Colour colour,
                       DistanceScratch *scratch);

/* overlay_box: the frame of the box x0, y0, x1, y1. overlay_point: a disc with a white rim, green
 * for foreground, red for background. Units: px; what lies outside the picture is cut off. */
void overlay_box(Canvas *canvas, const double box[4], Colour colour);
void overlay_point(Canvas *canvas, double x, double y, bool foreground);

#endif
