/* Shapes on a background, their run-length masks and the JSON around them. See make_scenes.h.
 *
 * An image is a grid of 4 x 4 cells, and a shape stays inside its cell: so no shape hides another,
 * and each mask is what the picture shows. */
#include "tests/make_scenes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <turbojpeg.h>

#include "base/memory.h"
#include "base/rng.h"
#include "data/rle.h"

enum { CELLS = 4, QUALITY = 90 };

typedef struct Scene {
    int id, width, height, n_masks;
    uint8_t *pixels;                  /* (height,width,3) */
    uint8_t *masks[SCENES_MAX_MASKS]; /* (height,width) each */
} Scene;

static int draw(const Scene *scene, int what, int low, int high)
{
    RngKey key = {.purpose = RNG_TEST, .sample = (uint64_t)scene->id};
    return low + (int)rng_below(key, (uint64_t)what, (uint64_t)(high - low + 1));
}

/* Discs and rectangles in turn; the radius or half side leaves a border in the cell. */
static bool covers(int shape, int half, int dx, int dy)
{
    return shape % 2 ? dx * dx + dy * dy <= half * half : abs(dx) <= half && abs(dy) <= half / 2;
}

static void paint_shape(Scene *scene, int shape)
{
    int cell_width = scene->width / CELLS, cell_height = scene->height / CELLS;
    int smaller = cell_width < cell_height ? cell_width : cell_height;
    int half = draw(scene, 8 * shape, smaller / 6, smaller / 2 - 2);
    int centre_x = shape % CELLS * cell_width + cell_width / 2,
        centre_y = shape / CELLS * cell_height + cell_height / 2;
    for (int y = 0; y < scene->height; y++)
        for (int x = 0; x < scene->width; x++) {
            int64_t at = (int64_t)y * scene->width + x;
            if (!covers(shape, half, x - centre_x, y - centre_y)) continue;
            scene->masks[shape][at] = 1;
            for (int c = 0; c < 3; c++)
                scene->pixels[3 * at + c] = (uint8_t)draw(scene, 8 * shape + 1 + c, 130, 255);
        }
}

static Scene paint(int id, int n_masks)
{
    Scene scene = {.id = id, .n_masks = n_masks};
    scene.width = draw(&scene, 1000, 160, 256);
    scene.height = draw(&scene, 1001, 160, 256);
    size_t n_pixels = (size_t)scene.width * (size_t)scene.height;
    scene.pixels = mem_alloc(3 * n_pixels);
    for (size_t i = 0; i < 3 * n_pixels;
         i++) /* a soft slope, so that no two images have one background */
        scene.pixels[i] = (uint8_t)(20 +
                                    (i / 3 % (size_t)scene.width + i / 3 / (size_t)scene.width) *
                                        (size_t)(id % 5 + 1) / 20);
    for (int m = 0; m < n_masks; m++) {
        scene.masks[m] = mem_alloc(n_pixels);
        paint_shape(&scene, m);
    }
    return scene;
}

static void write_file(const char *folder, int id, const char *ending, const void *data,
                       size_t n_bytes)
{
    char path[300];
    snprintf(path, sizeof path, "%s/sa_%d.%s", folder, id, ending);
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(data, 1, n_bytes, file) == n_bytes && fclose(file) == 0,
              "cannot write %s", path);
}

static void write_jpeg(const char *folder, const Scene *scene)
{
    unsigned char *jpeg = NULL;
    unsigned long n_bytes = 0;
    tjhandle encoder = tjInitCompress();
    int failed = tjCompress2(encoder, scene->pixels, scene->width, 0, scene->height, TJPF_RGB,
                             &jpeg, &n_bytes, TJSAMP_444, QUALITY, TJFLAG_ACCURATEDCT);
    cr_assert_eq(failed, 0, "%s", tjGetErrorStr2(encoder));
    write_file(folder, scene->id, "jpg", jpeg, n_bytes);
    tjFree(jpeg);
    tjDestroy(encoder);
}

/* A compressed string may hold backslashes, which JSON escapes; it holds no other character that it
 * must. */
static void print_counts(FILE *json, const Rle *rle)
{
    char *text = mem_alloc((size_t)rle->n * RLE_MAX_CHARS_PER_RUN);
    size_t n = rle_to_string(rle, text);
    for (size_t i = 0; i < n; i++) fprintf(json, text[i] == '\\' ? "\\\\" : "%c", text[i]);
    free(text);
}

static void print_annotation(FILE *json, const Scene *scene, int mask)
{
    int64_t box[4], n_pixels = (int64_t)scene->width * scene->height;
    Rle rle = {.height = scene->height, .width = scene->width};
    rle.counts = mem_alloc((size_t)(n_pixels + 1) * sizeof *rle.counts);
    rle.n = rle_encode(scene->masks[mask], scene->height, scene->width, rle.counts);
    rle_bbox(&rle, box);
    /* SA-1B's width and height are last pixel - first pixel. */
    fprintf(json, "%s{\"id\": %d, \"bbox\": [%d, %d, %d, %d], \"area\": %lld, ", mask ? ", " : "",
            100 * scene->id + mask, (int)box[0], (int)box[1], (int)box[2] - 1, (int)box[3] - 1,
            (long long)rle_area(&rle));
    fprintf(json,
            "\"point_coords\": [[%.1f, %.1f]], \"predicted_iou\": 1.0, \"stability_score\": 1.0, ",
            (double)box[0] + (double)box[2] / 2, (double)box[1] + (double)box[3] / 2);
    fprintf(json,
            "\"crop_box\": [0, 0, %d, %d], \"segmentation\": {\"size\": [%d, %d], \"counts\": \"",
            scene->width, scene->height, scene->height, scene->width);
    print_counts(json, &rle);
    fprintf(json, "\"}}");
    free(rle.counts);
}

static void write_json(const char *folder, const Scene *scene)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *json = open_memstream(&text, &n_bytes);
    fprintf(json,
            "{\"image\": {\"image_id\": %d, \"width\": %d, \"height\": %d, \"file_name\": "
            "\"sa_%d.jpg\"}, "
            "\"annotations\": [",
            scene->id, scene->width, scene->height, scene->id);
    for (int m = 0; m < scene->n_masks; m++) print_annotation(json, scene, m);
    fprintf(json, "]}\n");
    fclose(json);
    write_file(folder, scene->id, "json", text, n_bytes);
    free(text);
}

void make_scenes(const char *folder, int n_images, int n_masks)
{
    cr_assert(n_masks >= 1 && n_masks <= SCENES_MAX_MASKS);
    for (int i = 0; i < n_images; i++) {
        int here = n_masks - i % 3;
        Scene scene = paint(i + 1, here > 0 ? here : 1);
        write_jpeg(folder, &scene);
        write_json(folder, &scene);
        free(scene.pixels);
        for (int m = 0; m < scene.n_masks; m++) free(scene.masks[m]);
    }
}
