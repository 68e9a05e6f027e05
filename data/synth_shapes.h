/* Shapes of the scene painter, as signed distances: negative inside, in px.
 *
 * One function gives the exact mask (distance <= 0 at the pixel's centre), the soft edge of the
 * picture, shadow and relief. A shape is one body with holes cut out of it; bodies are ellipses,
 * rounded boxes, closed outlines and lines of some thickness, and every kind of object is made of
 * them. Called by data/synth_scene.c and data/synth_paint.c.
 */
#ifndef RETORT_DATA_SYNTH_SHAPES_H
#define RETORT_DATA_SYNTH_SHAPES_H

#include "data/synth.h"
#include "data/synth_draw.h"

enum { SHAPE_MAX_VERTICES = 48, SHAPE_MAX_CUTS = 4 };

typedef enum BodyForm { BODY_ELLIPSE, BODY_BOX, BODY_OUTLINE, BODY_LINE } BodyForm;

typedef struct Body { /* in the shape's frame, px */
    BodyForm form;
    float x, y, a, b; /* ellipse, box: centre and half axes */
    float thickness;  /* box, outline: radius of corners; line: half its thickness */
} Body;

typedef struct Shape {
    float x, y, cosine, sine; /* the frame: centre in the image, px, and rotation */
    Body body;
    Body cuts[SHAPE_MAX_CUTS]; /* ellipses and boxes */
    int n_cuts;
    float vertices[SHAPE_MAX_VERTICES][2]; /* of an outline or a line */
    int n_vertices;
} Shape;

typedef struct ShapeBox { /* px, in the image */
    float left, top, right, bottom;
} ShapeBox;

/* shape_draw: a shape of the kind, its frame at (0,0) with a random rotation.
 * units   radius in px, of a circle that about holds it */
void shape_draw(SynthKind kind, Draws *draws, float radius, Shape *shape);
void shape_move(Shape *shape, float x, float y);

float shape_distance(const Shape *shape, float x, float y);
ShapeBox shape_bounds(const Shape *shape);

#endif
