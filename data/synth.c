/* Scenes to pixels and masks. See synth.h. */
#include "data/synth.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "data/buffer.h"
#include "data/synth_paint.h"

typedef struct View {                 /* what is seen of an object */
    int64_t own_px;                   /* without its parts */
    int64_t left, top, right, bottom; /* px, inclusive, of it with its parts */
} View;

struct SynthPainter {
    SynthConfig config;
    Scene scene;
    Canvas canvas;
    uint8_t *dense; /* (height, width) the mask at hand */
    uint32_t *runs; /* (height * width + 2) its runs */
    Buffer counts;  /* of all masks */
    View views[SCENE_MAX_OBJECTS];
    int mask_of[SCENE_MAX_OBJECTS];       /* mask of an object, or -1 */
    int64_t first_run[SCENE_MAX_OBJECTS]; /* of a mask, in counts */
    SynthMask masks[SCENE_MAX_OBJECTS];
};

const char *synth_kind_name(SynthKind kind)
{
    static const char *const names[SYNTH_N_KINDS] = {
#define SYNTH_KIND_NAME(NAME, name, weight, low, high, parts) #name,
        SYNTH_KINDS(SYNTH_KIND_NAME)
#undef SYNTH_KIND_NAME
    };
    return names[kind];
}

static Status check_config(const SynthConfig *config)
{
    if (config->height < 64 || config->height > 4096 || config->width < 64 || config->width > 4096)
        return status_fail(E_CONFIG, "scenes of %lld x %lld px; wanted sides of 64 to 4096",
                           (long long)config->width, (long long)config->height);
    if (config->min_objects < 1 || config->max_objects > SYNTH_MAX_OBJECTS ||
        config->min_objects > config->max_objects)
        return status_fail(E_CONFIG,
                           "scenes of %d to %d objects; wanted numbers of 1 to %d, rising",
                           config->min_objects, config->max_objects, SYNTH_MAX_OBJECTS);
    if (!(config->scale >= 0.25 && config->scale <= 4))
        return status_fail(E_CONFIG, "objects scaled by %g; wanted 0.25 to 4", config->scale);
    if (config->min_area < SYNTH_MIN_AREA)
        return status_fail(E_CONFIG, "masks of %lld px or more; wanted %d or more",
                           (long long)config->min_area, SYNTH_MIN_AREA);
    return OK;
}

Status synth_painter_create(const SynthConfig *config, SynthPainter **out)
{
    TRY(check_config(config));
    SynthPainter *painter = calloc(1, sizeof *painter);
    if (painter == NULL) return status_fail(E_MEMORY, "out of memory: painter of scenes");
    size_t n_px = (size_t)(config->height * config->width);
    Canvas *canvas = &painter->canvas;
    painter->config = *config;
    canvas->height = config->height;
    canvas->width = config->width;
    canvas->colour = malloc(n_px * 3 * sizeof(float));
    canvas->distance = malloc(n_px * sizeof(float));
    canvas->seen = malloc(n_px * sizeof(int16_t));
    canvas->pixels = malloc(n_px * 3);
    painter->dense = malloc(n_px);
    painter->runs = malloc((n_px + 2) * sizeof(uint32_t));
    if (canvas->colour && canvas->distance && canvas->seen && canvas->pixels && painter->dense &&
        painter->runs) {
        *out = painter;
        return OK;
    }
    synth_painter_destroy(painter);
    return status_fail(E_MEMORY, "out of memory: a canvas of %lld x %lld px",
                       (long long)config->width, (long long)config->height);
}

void synth_painter_destroy(SynthPainter *painter)
{
    if (painter == NULL) return;
    free(painter->canvas.colour);
    free(painter->canvas.distance);
    free(painter->canvas.seen);
    free(painter->canvas.pixels);
    free(painter->dense);
    free(painter->runs);
    buffer_free(&painter->counts);
    free(painter);
}

/* ---- What is seen ---- */

static void view_add(View *view, int64_t x, int64_t y)
{
    if (x < view->left) view->left = x;
    if (x > view->right) view->right = x;
    if (y < view->top) view->top = y;
    if (y > view->bottom) view->bottom = y;
}

static void find_views(SynthPainter *painter)
{
    const Canvas *canvas = &painter->canvas;
    for (int i = 0; i < painter->scene.n_objects; i++)
        painter->views[i] = (View){
            .left = canvas->width, .top = canvas->height, .right = -1, .bottom = -1};
    for (int64_t y = 0; y < canvas->height; y++)
        for (int64_t x = 0; x < canvas->width; x++) {
            int object = canvas->seen[y * canvas->width + x];
            if (object < 0) continue;
            int whole = painter->scene.objects[object].whole;
            painter->views[object].own_px++;
            view_add(&painter->views[object], x, y);
            if (whole >= 0) view_add(&painter->views[whole], x, y);
        }
}

/* ---- Masks ---- */

/* The columns left..right of the object's mask, dense. Returns its pixels. */
static int64_t dense_mask(SynthPainter *painter, int object)
{
    const Canvas *canvas = &painter->canvas;
    const View *view = &painter->views[object];
    int64_t width = view->right - view->left + 1, area = 0;
    memset(painter->dense, 0, (size_t)(canvas->height * width));
    for (int64_t y = view->top; y <= view->bottom; y++)
        for (int64_t x = view->left; x <= view->right; x++) {
            int seen = canvas->seen[y * canvas->width + x];
            bool part = seen >= 0 && painter->scene.objects[seen].whole == object;
            bool member = part || seen == object;
            painter->dense[y * width + x - view->left] = member;
            area += member;
        }
    return area;
}

/* Runs of the whole image from those of the columns that hold the mask. Returns their number. */
static int64_t encode_mask(SynthPainter *painter, int object)
{
    const Canvas *canvas = &painter->canvas;
    const View *view = &painter->views[object];
    int64_t height = canvas->height, behind = (canvas->width - 1 - view->right) * height;
    int64_t n = rle_encode(painter->dense, height, view->right - view->left + 1, painter->runs);
    painter->runs[0] += (uint32_t)(view->left * height);
    if (n % 2 == 1)
        painter->runs[n - 1] += (uint32_t)behind;
    else if (behind > 0)
        painter->runs[n++] = (uint32_t)behind;
    return n;
}

/* The pixel of this number, in reading order. */
static void find_point(const SynthPainter *painter, int object, int64_t number, double point[2])
{
    const View *view = &painter->views[object];
    int64_t width = view->right - view->left + 1, at = view->top * width;
    while (!painter->dense[at] || number-- > 0) at++;
    point[0] = (double)(view->left + at % width) + 0.5;
    point[1] = (double)(at / width) + 0.5;
}

static Status add_mask(SynthPainter *painter, Draws *points, int object, int64_t *n_masks,
                       int64_t *n_runs)
{
    int whole = painter->scene.objects[object].whole;
    SynthMask *mask = &painter->masks[*n_masks];
    int64_t area = dense_mask(painter, object), n = encode_mask(painter, object);
    *mask = (SynthMask){.kind = painter->scene.objects[object].kind, .whole = whole};
    mask->mask = (Rle){.height = painter->canvas.height, .width = painter->canvas.width, .n = n};
    find_point(painter, object, draw_whole(points, 0, (int)area - 1), mask->point);
    TRY(buffer_grow(&painter->counts, (size_t)(*n_runs + n) * sizeof(uint32_t)));
    memcpy((uint32_t *)painter->counts.data + *n_runs, painter->runs, (size_t)n * sizeof(uint32_t));
    painter->first_run[*n_masks] = *n_runs;
    painter->mask_of[object] = (int)(*n_masks)++;
    *n_runs += n;
    return OK;
}

/* A whole of which only parts are seen would repeat their masks, so its own pixels count. */
static Status make_masks(SynthPainter *painter, Draws points, int64_t *n_masks)
{
    int64_t n_runs = 0;
    *n_masks = 0;
    for (int i = 0; i < painter->scene.n_objects; i++) {
        painter->mask_of[i] = -1;
        if (painter->views[i].own_px >= painter->config.min_area)
            TRY(add_mask(painter, &points, i, n_masks, &n_runs));
    }
    for (int64_t i = 0; i < *n_masks; i++) {
        SynthMask *mask = &painter->masks[i];
        mask->mask.counts = (uint32_t *)painter->counts.data + painter->first_run[i];
        if (mask->whole >= 0) mask->whole = painter->mask_of[mask->whole];
    }
    return OK;
}

Status synth_paint(SynthPainter *painter, uint64_t number, SynthImage *image)
{
    uint64_t seed = painter->config.seed;
    int64_t n_masks = 0;
    for (uint64_t again = 0; n_masks == 0; again++) {
        /* All objects may be too small or lie outside the image: then the scene is drawn anew. */
        if (again == 100)
            return status_fail(E_CONFIG,
                               "100 scenes without an object of %lld px; paint larger or more "
                               "objects, or ask for less",
                               (long long)painter->config.min_area);
        uint64_t key = number + (again << 48);
        scene_draw(&painter->config, key, &painter->scene);
        scene_paint(&painter->scene, draws_open(seed, key, SYNTH_STREAM_GRAIN), &painter->canvas);
        find_views(painter);
        TRY(make_masks(painter, draws_open(seed, key, SYNTH_STREAM_POINTS), &n_masks));
    }
    *image = (SynthImage){.height = painter->canvas.height,
                          .width = painter->canvas.width,
                          .pixels = painter->canvas.pixels,
                          .masks = painter->masks,
                          .n_masks = n_masks};
    return OK;
}
