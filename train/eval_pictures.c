/* Pictures of predictions beside the truth. See eval_pictures.h. */
#include "train/eval_pictures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/overlay.h"
#include "data/png.h"

enum { LEAST_SIDE_PX = 512 }; /* of a picture; smaller images are enlarged by a whole factor */

static const Colour truth_colour = {{255, 255, 255}};

typedef struct Drawn { /* a prompt, kept until all masks are drawn below it */
    int kind;
    int64_t number, n_points;
    bool has_box;
    double box[4], *points;
    int32_t *labels;
} Drawn;

struct EvalPictures {
    char *folder;
    int64_t n_left; /* images to be drawn yet */
    int n_kinds;
    bool drawing;
    ImageSize size; /* of the image, px */
    int64_t factor; /* of enlargement */
    Canvas *canvas; /* of each kind */
    uint8_t *mask;  /* an enlarged one */
    DistanceScratch scratch;
    Drawn *prompts;
    int n_prompts, capacity;
};

/* ---- opening ---- */

Status eval_pictures_open(const char *folder, int64_t n_images, int n_kinds, EvalPictures **out)
{
    TRY(file_make_folders(folder));
    EvalPictures *p = mem_alloc(sizeof *p);
    *p = (EvalPictures){.folder = mem_string(folder), .n_left = n_images, .n_kinds = n_kinds};
    p->canvas = mem_alloc((size_t)n_kinds * sizeof *p->canvas);
    *out = p;
    return OK;
}

static void forget_image(EvalPictures *p)
{
    for (int i = 0; i < p->n_prompts; i++) {
        free(p->prompts[i].points);
        free(p->prompts[i].labels);
    }
    for (int kind = 0; kind < p->n_kinds; kind++) {
        free(p->canvas[kind].rgb);
        p->canvas[kind] = (Canvas){0};
    }
    free(p->mask);
    p->mask = NULL;
    p->n_prompts = 0;
    p->drawing = false;
}

void eval_pictures_close(EvalPictures *pictures)
{
    if (!pictures) return;
    forget_image(pictures);
    distance_scratch_free(&pictures->scratch);
    free(pictures->prompts);
    free(pictures->canvas);
    free(pictures->folder);
    free(pictures);
}

/* ---- an image ---- */

/* dst: factor times as high and wide; every cell of n_bytes becomes a square. */
static void enlarge(const uint8_t *src, ImageSize size, int64_t factor, int64_t n_bytes,
                    uint8_t *dst)
{
    int64_t width = size.width * factor;
    for (int64_t y = 0; y < size.height * factor; y++)
        for (int64_t x = 0; x < width; x++)
            memcpy(dst + (y * width + x) * n_bytes,
                   src + (y / factor * size.width + x / factor) * n_bytes, (size_t)n_bytes);
}

void eval_pictures_begin(EvalPictures *p, const ImageReader *reader)
{
    forget_image(p);
    if (p->n_left == 0) return;
    p->drawing = true;
    p->size = image_full_size(reader);
    int64_t side = p->size.height > p->size.width ? p->size.height : p->size.width;
    p->factor = side < LEAST_SIDE_PX ? (LEAST_SIDE_PX + side - 1) / side : 1;
    ImageSize size = {p->size.height * p->factor, p->size.width * p->factor};
    size_t n_px = (size_t)(size.height * size.width);
    p->mask = mem_alloc(n_px);
    for (int kind = 0; kind < p->n_kinds; kind++) {
        p->canvas[kind] = (Canvas){.rgb = mem_alloc(3 * n_px), .size = size};
        enlarge(reader->image.pixels, p->size, p->factor, 3, p->canvas[kind].rgb);
    }
}

bool eval_pictures_wanted(const EvalPictures *pictures) { return pictures->drawing; }

/* Of a pixel's centre, or an edge between pixels, in the enlarged picture. */
static double enlarged(const EvalPictures *p, double px)
{
    return (px + 0.5) * (double)p->factor - 0.5;
}

static void keep_prompt(EvalPictures *p, int kind, int64_t number, const Prompt *prompt)
{
    p->prompts = mem_grow(p->prompts, &p->capacity, p->n_prompts + 1, sizeof *p->prompts);
    Drawn *drawn = &p->prompts[p->n_prompts++];
    size_t n = (size_t)prompt->n_points;
    *drawn = (Drawn){.kind = kind,
                     .number = number,
                     .n_points = prompt->n_points,
                     .has_box = prompt->box != NULL,
                     .points = mem_alloc((2 * n + 1) * sizeof(double)),
                     .labels = mem_alloc((n + 1) * sizeof(int32_t))};
    for (int i = 0; prompt->box && i < 4; i++) drawn->box[i] = enlarged(p, prompt->box[i]);
    for (size_t i = 0; i < 2 * n; i++) drawn->points[i] = enlarged(p, prompt->points[i]);
    for (size_t i = 0; i < n; i++) drawn->labels[i] = prompt->labels[i];
}

Status eval_pictures_add(EvalPictures *pictures, int kind, int64_t number, const Prompt *prompt,
                         const uint8_t *truth, const uint8_t *prediction)
{
    EvalPictures *p = pictures;
    Canvas *canvas = &p->canvas[kind];
    enlarge(prediction, p->size, p->factor, 1, p->mask);
    TRY(overlay_mask(canvas, p->mask, overlay_colour(number), &p->scratch));
    enlarge(truth, p->size, p->factor, 1, p->mask);
    TRY(overlay_outline(canvas, p->mask, truth_colour, &p->scratch));
    keep_prompt(p, kind, number, prompt);
    return OK;
}

/* ---- writing ---- */

static void draw_prompt(EvalPictures *p, const Drawn *drawn)
{
    Canvas *canvas = &p->canvas[drawn->kind];
    if (drawn->has_box) overlay_box(canvas, drawn->box, overlay_colour(drawn->number));
    for (int64_t i = 0; i < drawn->n_points; i++)
        overlay_point(canvas, drawn->points[2 * i], drawn->points[2 * i + 1],
                      drawn->labels[i] == 1);
}

static Status write_picture(const EvalPictures *p, const char *image_path, int kind,
                            const char *kind_name)
{
    char name[512];
    const char *slash = strrchr(image_path, '/'), *file = slash ? slash + 1 : image_path;
    const char *dot = strrchr(file, '.');
    int n = (int)(dot ? dot - file : (ptrdiff_t)strlen(file));
    snprintf(name, sizeof name, "%.*s_%s.png", n < 400 ? n : 400, file, kind_name);
    char *path = file_join(p->folder, name);
    Status status = png_write(path, p->canvas[kind].rgb, p->canvas[kind].size, PNG_RGB);
    free(path);
    return status;
}

Status eval_pictures_end(EvalPictures *pictures, const char *image_path, const char *const *kinds)
{
    EvalPictures *p = pictures;
    Status status = OK;
    if (!p->drawing) return OK;
    for (int i = 0; i < p->n_prompts; i++) draw_prompt(p, &p->prompts[i]);
    for (int kind = 0; kind < p->n_kinds && status == OK; kind++)
        status = write_picture(p, image_path, kind, kinds[kind]);
    p->n_left--;
    forget_image(p);
    return status;
}
