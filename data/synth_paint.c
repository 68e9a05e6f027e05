/* Paints ground, shadows, objects, light and grain. See synth_paint.h. */
#include "data/synth_paint.h"

enum { SHADOW_REACH_PX = 14 }; /* offset and blur of a shadow, at most */

typedef struct Window {               /* the part of the image that an object can change, px */
    int64_t left, top, right, bottom; /* right and bottom are outside */
} Window;

static float clamp(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}

static float *colour_at(const Canvas *canvas, int64_t x, int64_t y)
{
    return canvas->colour + 3 * (y * canvas->width + x);
}

/* ---- Ground ---- */

static void paint_ground(const Scene *scene, Canvas *canvas)
{
    for (int64_t y = 0; y < canvas->height; y++)
        for (int64_t x = 0; x < canvas->width; x++) {
            float u = (float)x + 0.5f, v = (float)y + 0.5f;
            float beyond = u * scene->border_x + v * scene->border_y - scene->border_offset;
            const Material *ground = &scene->ground[beyond > 0];
            float *colour = colour_at(canvas, x, y);
            material_colour(ground, &scene->noise, u, v, colour);
            float patches = 0.06f * noise_at(&scene->noise, u * 0.02f, v * 0.02f) +
                            0.04f * noise_at(&scene->noise, u * 0.07f + 20, v * 0.07f);
            for (int i = 0; i < 3; i++) colour[i] *= 1 + patches;
            canvas->seen[y * canvas->width + x] = -1;
        }
}

/* ---- Objects ---- */

static Window object_window(const SceneObject *object, const Canvas *canvas)
{
    ShapeBox box = shape_bounds(&object->shape);
    float margin = object->shadow > 0 ? SHADOW_REACH_PX : 2;
    float width = (float)canvas->width, height = (float)canvas->height;
    return (Window){
        .left = (int64_t)clamp(floorf(box.left - margin), 0, width),
        .top = (int64_t)clamp(floorf(box.top - margin), 0, height),
        .right = (int64_t)clamp(ceilf(box.right + margin), 0, width),
        .bottom = (int64_t)clamp(ceilf(box.bottom + margin), 0, height),
    };
}

static void measure(const Scene *scene, const SceneObject *object, Window window, Canvas *canvas)
{
    const Shape *whole = object->inside ? &scene->objects[object->whole].shape : NULL;
    for (int64_t y = window.top; y < window.bottom; y++)
        for (int64_t x = window.left; x < window.right; x++) {
            float u = (float)x + 0.5f, v = (float)y + 0.5f;
            float distance = shape_distance(&object->shape, u, v);
            if (whole) distance = fmaxf(distance, shape_distance(whole, u, v));
            canvas->distance[y * canvas->width + x] = distance;
        }
}

/* The distance at a pixel of the window, or of the nearest one in it. */
static float distance_at(const Canvas *canvas, Window window, int64_t x, int64_t y)
{
    x = x < window.left ? window.left : x >= window.right ? window.right - 1 : x;
    y = y < window.top ? window.top : y >= window.bottom ? window.bottom - 1 : y;
    return canvas->distance[y * canvas->width + x];
}

static void paint_shadow(const Scene *scene, const SceneObject *object, Window window,
                         Canvas *canvas)
{
    const float blur_px = 4;
    for (int64_t y = window.top; y < window.bottom; y++)
        for (int64_t x = window.left; x < window.right; x++) {
            float distance = distance_at(canvas, window, x - scene->shadow_x, y - scene->shadow_y);
            float dark = object->shadow * clamp(0.5f - distance / blur_px, 0, 1);
            float *colour = colour_at(canvas, x, y);
            for (int i = 0; i < 3; i++) colour[i] *= 1 - dark;
        }
}

/* Light on the rim: the surface falls off towards the edge, in the direction in which distance
 * grows. */
static float relief_at(const Scene *scene, const SceneObject *object, Window window,
                       const Canvas *canvas, int64_t x, int64_t y)
{
    float inward = 1 + canvas->distance[y * canvas->width + x] / object->relief_px;
    if (inward <= 0) return 1;
    float slope_x = distance_at(canvas, window, x + 1, y) - distance_at(canvas, window, x - 1, y);
    float slope_y = distance_at(canvas, window, x, y + 1) - distance_at(canvas, window, x, y - 1);
    float towards = clamp(0.5f * (slope_x * scene->light_x + slope_y * scene->light_y), -1, 1);
    return 1 + object->relief * fminf(inward, 1) * towards;
}

static void paint_object(const Scene *scene, int index, Window window, Canvas *canvas)
{
    const SceneObject *object = &scene->objects[index];
    for (int64_t y = window.top; y < window.bottom; y++)
        for (int64_t x = window.left; x < window.right; x++) {
            float distance = canvas->distance[y * canvas->width + x];
            float cover = clamp(0.5f - distance / scene->edge_px, 0, 1);
            if (distance <= 0) canvas->seen[y * canvas->width + x] = (int16_t)index;
            if (cover == 0) continue;
            float own[3], *colour = colour_at(canvas, x, y);
            float u = (float)x + 0.5f, v = (float)y + 0.5f;
            material_colour(&object->material, &scene->noise, u, v, own);
            float light = relief_at(scene, object, window, canvas, x, y);
            for (int i = 0; i < 3; i++) colour[i] += cover * (own[i] * light - colour[i]);
        }
}

/* ---- Light and grain ---- */

static void develop(const Scene *scene, Draws grain, Canvas *canvas)
{
    for (int64_t y = 0; y < canvas->height; y++)
        for (int64_t x = 0; x < canvas->width; x++) {
            float light = 1 + scene->slope_x * ((float)x / (float)canvas->width - 0.5f) +
                          scene->slope_y * ((float)y / (float)canvas->height - 0.5f);
            uint64_t bits = rng_u64(grain.key, grain.next++);
            const float *colour = colour_at(canvas, x, y);
            uint8_t *pixel = canvas->pixels + 3 * (y * canvas->width + x);
            for (int i = 0; i < 3; i++, bits >>= 16) { /* the sum of two bytes: a triangle */
                float noise = (float)((bits & 255) + (bits >> 8 & 255)) / 255 - 1;
                float value = colour[i] * light + scene->grain * noise;
                pixel[i] = (uint8_t)(255 * clamp(value, 0, 1) + 0.5f);
            }
        }
}

void scene_paint(const Scene *scene, Draws grain, Canvas *canvas)
{
    paint_ground(scene, canvas);
    for (int i = 0; i < scene->n_objects; i++) {
        const SceneObject *object = &scene->objects[i];
        Window window = object_window(object, canvas);
        if (window.left >= window.right || window.top >= window.bottom) continue;
        measure(scene, object, window, canvas);
        if (object->shadow > 0) paint_shadow(scene, object, window, canvas);
        paint_object(scene, i, window, canvas);
    }
    develop(scene, grain, canvas);
}
