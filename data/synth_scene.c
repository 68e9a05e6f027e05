/* Plans a scene: ground, light, objects and their parts. See synth_scene.h. */
#include "data/synth_scene.h"

typedef struct KindRow {
    int weight;
    double low, high; /* radius, shorter sides of the image */
    bool parts;
} KindRow;

static const KindRow kinds[SYNTH_N_KINDS] = {
#define SYNTH_KIND_ROW(NAME, name, weight, low, high, parts) {weight, low, high, parts},
    SYNTH_KINDS(SYNTH_KIND_ROW)
#undef SYNTH_KIND_ROW
};

/* ---- Colours ---- */

static const float muted[2] = {0.05f, 0.45f}, vivid[2] = {0.1f, 0.9f};
static const float medium[2] = {0.25f, 0.85f}, any[2] = {0.08f, 0.97f};

/* A colour at least `contrast` from one and, if given, from another; after many tries the best of
 * them. */
static void draw_contrasting(Draws *draws, const float one[3], const float other[3], float contrast,
                             float rgb[3])
{
    float best = -1;
    for (int attempt = 0; attempt < 24 && best < contrast; attempt++) {
        float candidate[3];
        colour_draw(draws, vivid, any, candidate);
        float distance = fminf(colour_distance(candidate, one), colour_distance(candidate, other));
        if (distance <= best) continue;
        best = distance;
        for (int i = 0; i < 3; i++) rgb[i] = candidate[i];
    }
}

/* The second colour of a texture: a shade of the first, or now and then another colour. */
static void draw_second(Draws *draws, const float first[3], double strength, float rgb[3])
{
    float factor = 1 + (draw_chance(draws, 0.5) ? 1 : -1) * (float)strength;
    colour_draw(draws, vivid, any, rgb);
    if (draw_chance(draws, 0.25)) return;
    for (int i = 0; i < 3; i++) rgb[i] = first[i] * factor + 0.12f * (rgb[i] - 0.5f);
}

/* ---- Ground and light ---- */

static void draw_ground(Draws *draws, float side, Material *ground)
{
    material_draw(draws, 0.5f * side, ground);
    ground->mottle = draw_scale(draws, 0.02, 0.08);
    colour_draw(draws, muted, medium, ground->first);
    float other[3];
    colour_draw(draws, muted, medium, other);
    float share = draw_between(draws, 0.1, 0.45);
    for (int i = 0; i < 3; i++)
        ground->second[i] = ground->first[i] + share * (other[i] - ground->first[i]);
}

static void draw_light(Draws *draws, Scene *scene)
{
    double angle = draw_between(draws, 0, 6.2831853);
    scene->light_x = (float)cos(angle);
    scene->light_y = (float)sin(angle);
    float reach = draw_between(draws, 2, 7);
    scene->shadow_x = (int)lrintf(-scene->light_x * reach);
    scene->shadow_y = (int)lrintf(-scene->light_y * reach);
    scene->slope_x = draw_between(draws, -0.35, 0.35);
    scene->slope_y = draw_between(draws, -0.35, 0.35);
    scene->edge_px = draw_between(draws, 1, 1.7);
    scene->grain = draw_between(draws, 0.005, 0.025);
}

static void draw_background(const SynthConfig *config, Draws *draws, Scene *scene)
{
    float side = (float)(config->height < config->width ? config->height : config->width);
    for (int i = 0; i < 2; i++) draw_ground(draws, side, &scene->ground[i]);
    double tilt = draw_between(draws, -0.15, 0.15);
    float height = draw_between(draws, 0.2, 0.6) * (float)config->height;
    scene->border_x = (float)sin(tilt);
    scene->border_y = (float)cos(tilt);
    scene->border_offset = height;
    if (draw_chance(draws, 0.6)) scene->ground[1] = scene->ground[0];
}

/* ---- Objects ---- */

static SynthKind draw_kind(Draws *draws)
{
    int total = 0, kind = 0;
    for (int i = 0; i < SYNTH_N_KINDS; i++) total += kinds[i].weight;
    int ticket = draw_whole(draws, 0, total - 1);
    while (ticket >= kinds[kind].weight) ticket -= kinds[kind++].weight;
    return (SynthKind)kind;
}

/* Mostly a place away from the others; some are left to chance, and overlap. */
static void draw_place(const SynthConfig *config, Draws *draws, const Scene *scene, Shape *shape)
{
    int attempts = draw_chance(draws, 0.55) ? 6 : 1;
    float best = -INFINITY;
    for (int i = 0; i < attempts; i++) {
        float x = draw_between(draws, 0, 1) * (float)config->width;
        float y = draw_between(draws, 0, 1) * (float)config->height;
        float room = INFINITY;
        for (int other = 0; other < scene->n_objects; other++)
            room = fminf(room, shape_distance(&scene->objects[other].shape, x, y));
        if (i > 0 && room <= best) continue;
        best = room;
        shape_move(shape, x, y);
    }
}

static void draw_surface(Draws *draws, float radius, SceneObject *object)
{
    bool round = draw_chance(draws, 0.4); /* as a ball, or flat with a rim */
    object->relief = draw_between(draws, 0, round ? 0.45 : 0.3);
    object->relief_px = fmaxf(1.5f, radius * (round ? 0.6f : draw_between(draws, 0.05, 0.15)));
    object->shadow = draw_chance(draws, 0.6) ? draw_between(draws, 0.1, 0.5) : 0;
}

static void draw_material(Draws *draws, float radius, const float behind[3], const float beside[3],
                          SceneObject *object)
{
    float contrast = draw_chance(draws, 0.2) ? draw_between(draws, 0.12, 0.3) : 0.32f;
    material_draw(draws, radius, &object->material);
    draw_contrasting(draws, behind, beside, contrast, object->material.first);
    draw_second(draws, object->material.first, draw_between(draws, 0.15, 0.5),
                object->material.second);
    object->material.x += object->shape.x;
    object->material.y += object->shape.y;
    if (object->material.texture == TEXTURE_GRADIENT) {
        object->material.x = object->shape.x;
        object->material.y = object->shape.y;
    }
}

static SceneObject *add_part(Scene *scene, Draws *draws, SynthKind kind, float radius, int whole)
{
    SceneObject *part = &scene->objects[scene->n_objects++];
    *part = (SceneObject){.kind = kind, .whole = whole, .inside = true};
    shape_draw(kind, draws, radius, &part->shape);
    return part;
}

/* Places a part at polar coordinates around its whole and paints it unlike the whole. */
static void finish_part(Scene *scene, Draws *draws, SceneObject *part, double angle, float reach,
                        float radius)
{
    const SceneObject *whole = &scene->objects[part->whole];
    shape_move(&part->shape, whole->shape.x + reach * (float)cos(angle),
               whole->shape.y + reach * (float)sin(angle));
    draw_material(draws, radius, whole->material.first, whole->material.first, part);
    draw_surface(draws, radius, part);
    part->shadow = 0;
}

/* One part in the middle, or a few around it. */
static void draw_inner_parts(Scene *scene, Draws *draws, float radius, int whole)
{
    static const SynthKind motifs[] = {SYNTH_ELLIPSE, SYNTH_ELLIPSE, SYNTH_BOX, SYNTH_CONVEX,
                                       SYNTH_STAR,    SYNTH_RING}; /* the last two only if large */
    int n = draw_chance(draws, 0.5) ? 1 : draw_whole(draws, 2, SYNTH_MAX_PARTS);
    SynthKind kind = motifs[draw_whole(draws, 0, n == 1 ? 5 : 3)];
    float size = radius * draw_between(draws, n == 1 ? 0.25 : 0.15, n == 1 ? 0.5 : 0.25);
    float reach = radius * (n == 1 ? draw_between(draws, 0, 0.2) : 0.42f);
    double start = draw_between(draws, 0, 6.2831853);
    for (int i = 0; i < n; i++) {
        SceneObject *part = add_part(scene, draws, kind, size, whole);
        finish_part(scene, draws, part, start + 6.2831853 * i / n, reach, size);
    }
}

/* A handle or stem: centred on the rim and painted before its whole, which hides its inner half. */
static void draw_outer_part(Scene *scene, Draws *draws, float radius, int whole)
{
    static const SynthKind handles[] = {SYNTH_RING, SYNTH_ROD, SYNTH_ELLIPSE, SYNTH_BOX};
    SynthKind kind = handles[draw_whole(draws, 0, 3)];
    float size = radius * (kind == SYNTH_ROD ? 1.2f : draw_between(draws, 0.35, 0.5));
    SceneObject *part = add_part(scene, draws, kind, size, whole);
    part->inside = false;
    double angle = draw_between(draws, 0, 6.2831853);
    part->shape.cosine = (float)cos(angle);
    part->shape.sine = (float)sin(angle);
    finish_part(scene, draws, part, angle, radius, size);
    SceneObject swapped = scene->objects[whole];
    scene->objects[whole] = *part;
    *part = swapped;
    scene->objects[whole].whole = scene->n_objects - 1;
}

static void draw_object(const SynthConfig *config, uint64_t number, int i, int n, Scene *scene)
{
    Draws draws = draws_open(config->seed, number, SYNTH_STREAM_OBJECT + (uint32_t)i);
    float side = (float)(config->height < config->width ? config->height : config->width);
    SceneObject *object = &scene->objects[scene->n_objects];
    *object = (SceneObject){.kind = draw_kind(&draws), .whole = -1};
    const KindRow *row = &kinds[object->kind];
    /* The far ones tend to be the large ones, so that more remains to be seen. */
    double size = 0.5 * (draw_between(&draws, 0, 1) + 1 - (double)i / n);
    float crowd = fminf(fmaxf(sqrtf(14 / (float)n), 0.8f), 2); /* few are larger */
    float radius = side * crowd * (float)config->scale *
                   (float)(row->low * pow(row->high / row->low, size));
    shape_draw(object->kind, &draws, radius, &object->shape);
    draw_place(config, &draws, scene, &object->shape);
    draw_material(&draws, radius, scene->ground[0].first, scene->ground[1].first, object);
    draw_surface(&draws, radius, object);
    int whole = scene->n_objects++;
    if (!row->parts || radius < 0.07f * side) return;
    if (draw_chance(&draws, 0.15))
        draw_inner_parts(scene, &draws, radius, whole);
    else if (draw_chance(&draws, 0.2))
        draw_outer_part(scene, &draws, radius, whole);
}

void scene_draw(const SynthConfig *config, uint64_t number, Scene *scene)
{
    Draws draws = draws_open(config->seed, number, SYNTH_STREAM_SCENE);
    Draws noise = draws_open(config->seed, number, SYNTH_STREAM_NOISE);
    int n = draw_whole(&draws, config->min_objects, config->max_objects);
    scene->n_objects = 0;
    noise_fill(&scene->noise, &noise);
    draw_light(&draws, scene);
    draw_background(config, &draws, scene);
    for (int i = 0; i < n; i++) draw_object(config, number, i, n, scene);
}
