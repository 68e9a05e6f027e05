/* Pictures of `retort eval`, read back with the PNG library's own reader. */
#include <criterion/criterion.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/overlay.h"
#include "tests/support.h"
#include "train/commands.h"
#include "train/eval_pictures.h"

enum { WIDTH = 120, HEIGHT = 90, FACTOR = 5 }; /* 512 / 120, rounded up */

static void must(Status status) { cr_assert_eq(status, OK, "%s", status_message()); }

static uint8_t *read_png(const char *path, png_image *image)
{
    *image = (png_image){.version = PNG_IMAGE_VERSION};
    cr_assert(png_image_begin_read_from_file(image, path), "%s", path);
    image->format = PNG_FORMAT_RGB;
    uint8_t *rgb = mem_alloc(PNG_IMAGE_SIZE(*image));
    cr_assert(png_image_finish_read(image, NULL, rgb, 0, NULL));
    return rgb;
}

static const uint8_t *pixel(const uint8_t *rgb, int y, int x)
{
    return rgb + 3 * ((size_t)y * WIDTH * FACTOR + (size_t)x);
}

static bool is_colour(const uint8_t *pixel, Colour colour)
{
    return memcmp(pixel, colour.rgb, 3) == 0;
}

/* The ones of rows and columns from first to before end. */
static uint8_t *square(int first, int end)
{
    uint8_t *mask = mem_alloc(WIDTH * HEIGHT);
    for (int i = 0; i < WIDTH * HEIGHT; i++) {
        int y = i / WIDTH, x = i % WIDTH;
        mask[i] = y >= first && y < end && x >= first && x < end;
    }
    return mask;
}

static void paint_scenes(const char *folder)
{
    char *words[] = {(char *)folder, "--images=2", "--size=120x90", "--masks=1..2"};
    must(command_synth(&(Args){.n = 4, .words = words}));
}

Test(eval_pictures, show_prediction_truth_and_prompt)
{
    char folder[256], path[300];
    test_folder("eval_pictures", folder, sizeof folder);
    paint_scenes(folder);
    static const char *const kinds[] = {"box", "click1"};
    ImageReader reader = {0};
    EvalPictures *pictures;
    must(image_reader_open(&reader));
    snprintf(path, sizeof path, "%s/sa_1.jpg", folder);
    must(image_read(&reader, path, 0));
    must(eval_pictures_open(folder, 1, 2, &pictures));
    eval_pictures_begin(pictures, &reader);
    cr_assert(eval_pictures_wanted(pictures));
    uint8_t *truth = square(20, 60), *prediction = square(30, 70);
    double box[4] = {20, 20, 60, 60}, point[2] = {40, 40};
    int32_t label = 1;
    must(eval_pictures_add(pictures, 0, 3, &(Prompt){.box = box}, truth, prediction));
    must(eval_pictures_add(pictures, 1, 0,
                           &(Prompt){.n_points = 1, .points = point, .labels = &label}, truth,
                           prediction));
    must(eval_pictures_end(pictures, path, kinds));
    eval_pictures_begin(pictures, &reader);
    cr_expect_not(eval_pictures_wanted(pictures), "one image was asked for");
    must(eval_pictures_end(pictures, path, kinds));

    png_image image;
    snprintf(path, sizeof path, "%s/sa_1_box.png", folder);
    uint8_t *rgb = read_png(path, &image);
    cr_expect_eq(image.width, WIDTH * FACTOR);
    cr_expect_eq(image.height, HEIGHT * FACTOR);
    const uint8_t *photo = reader.image.pixels + 3 * (10 * WIDTH + 10);
    cr_expect_eq(memcmp(pixel(rgb, 10 * FACTOR + 2, 10 * FACTOR + 2), photo, 3), 0);
    cr_expect(is_colour(pixel(rgb, 40 * FACTOR, 70 * FACTOR - 1), overlay_colour(3)));
    cr_expect(is_colour(pixel(rgb, 40 * FACTOR, 20 * FACTOR), (Colour){{255, 255, 255}}));
    cr_expect(is_colour(pixel(rgb, 35 * FACTOR, 60 * FACTOR - 1), (Colour){{255, 255, 255}}),
              "the truth lies on top of the prediction");
    cr_expect_neq(memcmp(pixel(rgb, 50 * FACTOR, 50 * FACTOR),
                         reader.image.pixels + 3 * (50 * WIDTH + 50), 3),
                  0, "the prediction is tinted");
    free(rgb);
    snprintf(path, sizeof path, "%s/sa_1_click1.png", folder);
    rgb = read_png(path, &image);
    cr_expect_gt(pixel(rgb, 40 * FACTOR + 2, 40 * FACTOR + 2)[1], 150, "a green dot");
    cr_expect_lt(pixel(rgb, 40 * FACTOR + 2, 40 * FACTOR + 2)[0], 100);
    free(rgb);
    free(truth);
    free(prediction);
    eval_pictures_close(pictures);
    image_reader_close(&reader);
}

Test(eval_pictures, folder_that_cannot_be)
{
    EvalPictures *pictures = NULL;
    cr_expect_eq(eval_pictures_open("/dev/null/pictures", 1, 1, &pictures), E_FILE);
}
