/* Distances to shapes, and how each kind of object is drawn. See synth_shapes.h. */
#include "data/synth_shapes.h"

#include <assert.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* ---- Distances ---- */

/* First-order distance: exact in sign, good near the border, where edges and shadows are drawn. */
static float ellipse_distance(const Body *body, float x, float y)
{
    float u = (x - body->x) / body->a, v = (y - body->y) / body->b;
    float level = sqrtf(u * u + v * v);
    u /= body->a;
    v /= body->b;
    float slope = sqrtf(u * u + v * v);
    if (slope < 1e-9f) return -fminf(body->a, body->b);
    return level * (level - 1) / slope;
}

static float box_distance(const Body *body, float x, float y)
{
    float u = fabsf(x - body->x) - body->a + body->thickness;
    float v = fabsf(y - body->y) - body->b + body->thickness;
    float outside_u = fmaxf(u, 0), outside_v = fmaxf(v, 0);
    return sqrtf(outside_u * outside_u + outside_v * outside_v) + fminf(fmaxf(u, v), 0) -
           body->thickness;
}

static float squared_distance_to_segment(const float a[2], const float b[2], float x, float y)
{
    float along_x = b[0] - a[0], along_y = b[1] - a[1], from_x = x - a[0], from_y = y - a[1];
    float length = along_x * along_x + along_y * along_y;
    float t = length > 0 ? (from_x * along_x + from_y * along_y) / length : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    from_x -= t * along_x;
    from_y -= t * along_y;
    return from_x * from_x + from_y * from_y;
}

/* A ray to the right crosses the border an odd number of times from inside. */
static bool ray_crosses(const float a[2], const float b[2], float x, float y)
{
    if ((a[1] > y) == (b[1] > y)) return false;
    return x < a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]);
}

static float outline_distance(const Shape *shape, float x, float y)
{
    float nearest = INFINITY;
    bool inside = false;
    const float *last = shape->vertices[shape->n_vertices - 1];
    for (int i = 0; i < shape->n_vertices; i++) {
        const float *vertex = shape->vertices[i];
        nearest = fminf(nearest, squared_distance_to_segment(last, vertex, x, y));
        inside ^= ray_crosses(last, vertex, x, y);
        last = vertex;
    }
    return (inside ? -sqrtf(nearest) : sqrtf(nearest)) - shape->body.thickness;
}

static float line_distance(const Shape *shape, float x, float y)
{
    float nearest = INFINITY;
    for (int i = 1; i < shape->n_vertices; i++)
        nearest = fminf(
            nearest, squared_distance_to_segment(shape->vertices[i - 1], shape->vertices[i], x, y));
    return sqrtf(nearest) - shape->body.thickness;
}

static float body_distance(const Shape *shape, const Body *body, float x, float y)
{
    switch (body->form) {
    case BODY_ELLIPSE: return ellipse_distance(body, x, y);
    case BODY_BOX: return box_distance(body, x, y);
    case BODY_OUTLINE: return outline_distance(shape, x, y);
    default: return line_distance(shape, x, y);
    }
}

float shape_distance(const Shape *shape, float x, float y)
{
    float from_x = x - shape->x, from_y = y - shape->y;
    float u = shape->cosine * from_x + shape->sine * from_y;
    float v = shape->cosine * from_y - shape->sine * from_x;
    float distance = body_distance(shape, &shape->body, u, v);
    for (int i = 0; i < shape->n_cuts; i++)
        distance = fmaxf(distance, -body_distance(shape, &shape->cuts[i], u, v));
    return distance;
}

/* The body's box in the shape's frame. */
static ShapeBox body_box(const Shape *shape)
{
    const Body *body = &shape->body;
    if (body->form == BODY_ELLIPSE || body->form == BODY_BOX)
        return (ShapeBox){body->x - body->a, body->y - body->b, body->x + body->a,
                          body->y + body->b};
    ShapeBox box = {INFINITY, INFINITY, -INFINITY, -INFINITY};
    for (int i = 0; i < shape->n_vertices; i++) {
        float x = shape->vertices[i][0], y = shape->vertices[i][1], reach = body->thickness;
        box.left = fminf(box.left, x - reach);
        box.top = fminf(box.top, y - reach);
        box.right = fmaxf(box.right, x + reach);
        box.bottom = fmaxf(box.bottom, y + reach);
    }
    return box;
}

ShapeBox shape_bounds(const Shape *shape)
{
    ShapeBox own = body_box(shape), box = {INFINITY, INFINITY, -INFINITY, -INFINITY};
    for (int corner = 0; corner < 4; corner++) {
        float u = corner & 1 ? own.right : own.left, v = corner & 2 ? own.bottom : own.top;
        float x = shape->x + shape->cosine * u - shape->sine * v;
        float y = shape->y + shape->sine * u + shape->cosine * v;
        box.left = fminf(box.left, x);
        box.top = fminf(box.top, y);
        box.right = fmaxf(box.right, x);
        box.bottom = fmaxf(box.bottom, y);
    }
    return box;
}

void shape_move(Shape *shape, float x, float y)
{
    shape->x = x;
    shape->y = y;
}

/* ---- Kinds ---- */

static void add_vertex(Shape *shape, double x, double y)
{
    assert(shape->n_vertices < SHAPE_MAX_VERTICES);
    shape->vertices[shape->n_vertices][0] = (float)x;
    shape->vertices[shape->n_vertices][1] = (float)y;
    shape->n_vertices++;
}

static void draw_ellipse(Draws *draws, float radius, Shape *shape)
{
    shape->body = (Body){
        .form = BODY_ELLIPSE, .a = radius, .b = radius * draw_between(draws, 0.4, 1)};
}

static void draw_box(Draws *draws, float radius, Shape *shape)
{
    float b = radius * draw_between(draws, 0.3, 0.9);
    shape->body = (Body){
        .form = BODY_BOX, .a = radius, .b = b, .thickness = b * draw_between(draws, 0, 0.6)};
}

/* Corners on an ellipse, so the polygon is convex. */
static void draw_convex(Draws *draws, float radius, Shape *shape)
{
    int n = draw_whole(draws, 3, 7);
    double flat = draw_between(draws, 0.5, 1);
    float corner = radius * draw_between(draws, 0, 0.12);
    shape->body = (Body){.form = BODY_OUTLINE, .thickness = corner};
    for (int i = 0; i < n; i++) {
        double angle = 2 * pi * (i + draw_between(draws, -0.3, 0.3)) / n;
        add_vertex(shape, (radius - corner) * cos(angle), (radius - corner) * flat * sin(angle));
    }
}

static void draw_star(Draws *draws, float radius, Shape *shape)
{
    int n = draw_whole(draws, 4, 8);
    double inner = draw_between(draws, 0.3, 0.6), flat = draw_between(draws, 0.7, 1);
    float corner = radius * draw_between(draws, 0, 0.06);
    shape->body = (Body){.form = BODY_OUTLINE, .thickness = corner};
    for (int i = 0; i < 2 * n; i++) {
        double reach = (radius - corner) * (i % 2 ? inner : draw_between(draws, 0.85, 1));
        add_vertex(shape, reach * cos(pi * i / n), reach * flat * sin(pi * i / n));
    }
}

/* Letters made of bars: pairs of digits are x and y of the corners, each one of six levels from
 * side to side. */
static void draw_bracket(Draws *draws, float radius, Shape *shape)
{
    static const char *const letters[] = {
        "001014545505",             /* L */
        "0010144440505505",         /* U */
        "0050513135252101",         /* T */
        "0030345455252101",         /* Z */
        "203032525333352523030222", /* plus */
    };
    const char *letter = letters[draw_whole(draws, 0, 4)];
    double bar = draw_between(draws, 0.4, 0.7), flat = draw_between(draws, 0.6, 1);
    const double levels[] = {-1, bar - 1, -bar / 2, bar / 2, 1 - bar, 1};
    shape->body = (Body){.form = BODY_OUTLINE, .thickness = radius * draw_between(draws, 0, 0.06)};
    double reach = 0.8 * radius;
    for (; *letter; letter += 2)
        add_vertex(shape, reach * levels[letter[0] - '0'], reach * flat * levels[letter[1] - '0']);
}

static void draw_crescent(Draws *draws, float radius, Shape *shape)
{
    shape->body = (Body){.form = BODY_ELLIPSE, .a = radius, .b = radius};
    float cut = radius * draw_between(draws, 0.65, 1);
    shape->cuts[shape->n_cuts++] = (Body){
        .form = BODY_ELLIPSE, .a = cut, .b = cut, .x = radius * draw_between(draws, 0.4, 0.7)};
}

static void draw_ring(Draws *draws, float radius, Shape *shape)
{
    draw_ellipse(draws, radius, shape);
    Body hole = shape->body;
    float rim = hole.b * draw_between(draws, 0.2, 0.5);
    hole.a -= rim;
    hole.b -= rim;
    hole.x = rim * draw_between(draws, -0.3, 0.3);
    shape->cuts[shape->n_cuts++] = hole;
}

static void draw_plate(Draws *draws, float radius, Shape *shape)
{
    draw_box(draws, radius, shape);
    shape->body.b = fmaxf(shape->body.b, 0.5f * radius);
    int n = draw_whole(draws, 1, SHAPE_MAX_CUTS);
    bool round = draw_chance(draws, 0.6);
    float cell = shape->body.a / (float)n, size = draw_between(draws, 0.5, 0.75);
    for (int i = 0; i < n; i++) {
        Body *hole = &shape->cuts[shape->n_cuts++];
        *hole = (Body){.form = round ? BODY_ELLIPSE : BODY_BOX};
        hole->x = cell * (float)(2 * i + 1 - n);
        hole->a = cell * size;
        hole->b = shape->body.b * size;
        if (round && n > 1) hole->b = fminf(hole->b, 1.5f * hole->a);
    }
}

static void draw_arc(Draws *draws, float radius, Shape *shape)
{
    enum { N = 24 };
    double span = draw_between(draws, 0.6 * pi, 1.7 * pi), flat = draw_between(draws, 0.7, 1);
    shape->body = (Body){.form = BODY_LINE, .thickness = radius * draw_between(draws, 0.1, 0.25)};
    double reach = radius - shape->body.thickness;
    for (int i = 0; i < N; i++) {
        double angle = span * ((double)i / (N - 1) - 0.5);
        add_vertex(shape, reach * cos(angle), reach * flat * sin(angle));
    }
}

static void draw_blob(Draws *draws, float radius, Shape *shape)
{
    enum { N_WAVES = 4 };
    double wave[N_WAVES], phase[N_WAVES], flat = draw_between(draws, 0.55, 1);
    for (int k = 0; k < N_WAVES; k++) {
        wave[k] = draw_between(draws, 0.04, 0.3) / (1 + 0.5 * k);
        phase[k] = draw_between(draws, 0, 2 * pi);
    }
    shape->body = (Body){.form = BODY_OUTLINE};
    for (int i = 0; i < SHAPE_MAX_VERTICES; i++) {
        double angle = 2 * pi * i / SHAPE_MAX_VERTICES, reach = 0.75;
        for (int k = 0; k < N_WAVES; k++) reach += 0.75 * wave[k] * cos((k + 2) * angle + phase[k]);
        reach = fmax(reach, 0.15) * radius;
        add_vertex(shape, reach * cos(angle), reach * flat * sin(angle));
    }
}

static float thin(Draws *draws, float radius)
{
    return fmaxf(1.3f, radius * draw_between(draws, 0.02, 0.06));
}

static void draw_rod(Draws *draws, float radius, Shape *shape)
{
    shape->body = (Body){.form = BODY_LINE, .thickness = thin(draws, radius)};
    add_vertex(shape, -radius, 0);
    add_vertex(shape, radius, 0);
    if (draw_chance(draws, 0.3)) add_vertex(shape, radius * 0.8, radius * 0.3); /* a hook */
}

/* A cubic curve through the frame from end to end. */
static void draw_stroke(Draws *draws, float radius, Shape *shape)
{
    enum { N = 20 };
    double bend[2] = {draw_between(draws, -2.5, 2.5), draw_between(draws, -2.5, 2.5)};
    double back = draw_between(draws, -0.5, 1);
    shape->body = (Body){.form = BODY_LINE, .thickness = thin(draws, radius)};
    for (int i = 0; i < N; i++) {
        double t = (double)i / (N - 1), s = 1 - t;
        double x = -s * s * s - 3 * s * s * t * back + 3 * s * t * t * back + t * t * t;
        double y = 3 * s * t * (s * bend[0] + t * bend[1]);
        add_vertex(shape, radius * x, 0.5 * radius * y);
    }
}

static void draw_tiny(Draws *draws, float radius, Shape *shape)
{
    switch (draw_whole(draws, 0, 3)) {
    case 0: draw_ellipse(draws, radius, shape); break;
    case 1: draw_box(draws, radius, shape); break;
    case 2: draw_star(draws, 1.3f * radius, shape); break;
    default: draw_convex(draws, 1.1f * radius, shape); break;
    }
}

void shape_draw(SynthKind kind, Draws *draws, float radius, Shape *shape)
{
    static void (*const draw[SYNTH_N_KINDS])(Draws *, float, Shape *) = {
#define SYNTH_KIND_DRAW(NAME, name, weight, low, high, parts) draw_##name,
        SYNTH_KINDS(SYNTH_KIND_DRAW)
#undef SYNTH_KIND_DRAW
    };
    double angle = draw_between(draws, 0, 2 * pi);
    memset(shape, 0, sizeof *shape);
    shape->cosine = (float)cos(angle);
    shape->sine = (float)sin(angle);
    draw[kind](draws, radius, shape);
}
