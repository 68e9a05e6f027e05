/* The transforms of data/ against every row that the official loader gives for a real sample:
 * decoded bytes, image tensors, 65 masks at two sizes, flipped and not, boxes, and the inference
 * path. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/soft_runs.h"
#include "data/image.h"
#include "data/mask.h"
#include "data/prompts.h"
#include "data/source.h"
#include "tests/support.h"

static const char sa_1_jpg[] = "data/sa1b/pairs/sa_1.jpg";
static const char sa_1_json[] = "data/sa1b/pairs/sa_1.json";

enum { N_CELLS = 8 };

typedef struct Row { /* of the table: a, b, v0..v5 */
    char mode[32], item[80];
    double cell[N_CELLS];
} Row;

typedef struct Scene { /* sa_1 as one mode of the table sees it */
    char mode[32];
    int64_t side;
    float *image;
    uint32_t *words;
    int32_t *rows; /* (n_masks, side + 1) */
    ImageSize extent;
    Annotations annotations;
    double *boxes; /* (n_masks, 4) x y w h in the side frame */
    float *dense;  /* one mask, (side, side) */
} Scene;

enum { MAX_WORDS = 1 << 20 };

static void read_row(char *line, Row *row)
{
    char *field[4 + N_CELLS] = {0}, *rest = line;
    line[strcspn(line, "\n")] = '\0';
    for (int i = 0; i < 4 + N_CELLS && rest != NULL; i++) field[i] = strsep(&rest, "\t");
    snprintf(row->mode, sizeof row->mode, "%s", field[1]);
    snprintf(row->item, sizeof row->item, "%s", field[2]);
    for (int i = 0; i < N_CELLS; i++)
        row->cell[i] = field[4 + i] ? strtod(field[4 + i], NULL) : 0.0;
}

static void make_masks(Scene *scene, ImageSize full, bool flip)
{
    MaskResampler resampler = {0};
    LoaderConfig config = {.image_size = scene->side, .frame = scene->side};
    int64_t n = scene->annotations.n_items, used = 0;
    scene->words = malloc(MAX_WORDS * sizeof *scene->words);
    scene->rows = malloc((size_t)(n * (scene->side + 1)) * sizeof *scene->rows);
    scene->boxes = malloc((size_t)n * 4 * sizeof *scene->boxes);
    scene->dense = malloc((size_t)(scene->side * scene->side) * sizeof *scene->dense);
    cr_assert_eq(mask_resampler_prepare(&resampler, full, scene->extent, flip), OK);
    for (int64_t m = 0; m < n; m++) {
        const Annotation *item = &scene->annotations.items[m];
        double *box = scene->boxes + 4 * m;
        cr_assert_eq(mask_to_soft_runs(&resampler, &item->mask, scene->side, scene->words, &used,
                                       MAX_WORDS, scene->rows + m * (scene->side + 1)),
                     OK);
        prompts_box(&config, item->bbox, full, scene->extent, flip, box);
        box[2] -= box[0], box[3] -= box[1];
    }
    mask_resampler_free(&resampler);
}

static void make_scene(Scene *scene, const char *mode, ImageReader *reader)
{
    char path[256];
    bool flip = strstr(mode, ".flip") != NULL;
    snprintf(scene->mode, sizeof scene->mode, "%s", mode);
    scene->side = strtol(strchr(mode, '.') + 1, NULL, 10);
    scene->image = malloc((size_t)(scene->side * scene->side * 3) * sizeof *scene->image);
    if (strncmp(mode, "infer", 5) == 0) {
        cr_assert_eq(image_to_infer_tensor(reader, scene->side, scene->image, &scene->extent), OK);
        return;
    }
    cr_assert_eq(image_to_train_tensor(reader, scene->side, flip, scene->image, &scene->extent),
                 OK);
    shared_path(sa_1_json, path, sizeof path);
    cr_assert_eq(annotations_read(path, &scene->annotations), OK);
    make_masks(scene, image_full_size(reader), flip);
}

static void free_scene(Scene *scene)
{
    annotations_free(&scene->annotations);
    free(scene->image), free(scene->words), free(scene->rows), free(scene->boxes),
        free(scene->dense);
    *scene = (Scene){0};
}

static void near(const Row *row, int cell, double got, double tolerance)
{
    double wanted = row->cell[cell];
    cr_expect(fabs(got - wanted) <= tolerance, "%s %s, column %d: %.9g, wanted %.9g", row->mode,
              row->item, cell, got, wanted);
}

static void check_bytes(const Row *row, const uint8_t *bytes, int64_t n)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += bytes[i];
    const int64_t places[] = {0, n / 7, n / 3, n / 2, 2 * n / 3, n - 1};
    near(row, 0, (double)sum, 0);
    near(row, 1, (double)crc32(0, bytes, (uInt)n), 0);
    for (int i = 0; i < 6; i++) near(row, 2 + i, bytes[places[i]], 0);
}

/* The table lists the tensor channel by channel, height, width. */
static void check_image(const Row *row, const Scene *scene)
{
    int64_t area = scene->side * scene->side, n = 3 * area;
    double mean = 0.0, square = 0.0, tolerance = row->mode[0] == 'i' ? 1e-6 : 1e-4;
    for (int64_t i = 0; i < n; i++) mean += (double)scene->image[i] / (double)n;
    for (int64_t i = 0; i < n; i++) square += pow((double)scene->image[i] - mean, 2) / (double)n;
    const int64_t places[] = {0, n / 7, n / 3, n / 2, 2 * n / 3, n - 1};
    near(row, 0, mean, tolerance);
    near(row, 1, sqrt(square), tolerance);
    for (int i = 0; i < 6; i++)
        near(row, 2 + i, scene->image[places[i] % area * 3 + places[i] / area], tolerance);
}

static void check_mask(const Row *row, Scene *scene, int64_t m)
{
    const int32_t *rows = scene->rows + m * (scene->side + 1);
    double sum = 0.0;
    for (int64_t y = 0; y < scene->side; y++) {
        float *line = scene->dense + y * scene->side;
        soft_runs_expand_row(scene->words + rows[y], scene->words + rows[y + 1], line, scene->side);
        for (int64_t x = 0; x < scene->side; x++) sum += line[x];
    }
    near(row, 0, sum, 1e-5 * row->cell[0]);
    near(row, 1, (double)mask_count_above(scene->words, rows, scene->side, 0.0f), 0);
    near(row, 2, (double)mask_count_above(scene->words, rows, scene->side, 0.5f), 2);
    for (int i = 0; i < 4; i++) near(row, 3 + i, scene->boxes[4 * m + i], 1e-4);
}

/* at: flat positions of six pixels; the dense mask is still that of the row before. */
static void check_soft_values(const Row *row, const Row *at, const Scene *scene)
{
    for (int i = 0; i < 6; i++) near(row, 2 + i, scene->dense[(int64_t)at->cell[2 + i]], 1e-4);
}

static void check_row(const Row *row, const Row *before, Scene *scene, ImageReader *reader)
{
    long m;
    char rest[32] = "";
    if (strcmp(row->mode, "decoded") == 0) {
        check_bytes(row, reader->image.pixels, reader->image.height * reader->image.width * 3);
        return;
    }
    if (strcmp(row->mode, scene->mode) != 0) {
        free_scene(scene);
        make_scene(scene, row->mode, reader);
    }
    if (strncmp(row->item, "rgb", 3) == 0)
        check_bytes(row, reader->bytes.data, scene->extent.height * scene->extent.width * 3);
    else if (strcmp(row->item, "image") == 0)
        check_image(row, scene);
    else if (sscanf(row->item, "mask %ld %31[^\n]", &m, rest) == 1)
        check_mask(row, scene, m);
    else if (strcmp(rest, "soft value") == 0)
        check_soft_values(row, before, scene);
    else
        cr_assert_str_eq(rest, "soft at");
}

Test(known_answers, every_row_of_the_official_loader)
{
    char path[256], line[1024];
    SKIP_WITHOUT(sa_1_json, path);
    SKIP_WITHOUT(sa_1_jpg, path);
    ImageReader reader = {0};
    cr_assert_eq(image_reader_open(&reader), OK);
    cr_assert_eq(image_read(&reader, path, 0), OK, "%s", status_message());
    SKIP_WITHOUT("spec/kat/loader_sa1.tsv", path);
    FILE *table = fopen(path, "r");
    cr_assert_not_null(table);
    Scene scene = {0};
    Row row = {0}, before = {0};
    int n_rows = 0;
    while (fgets(line, sizeof line, table)) {
        if (strncmp(line, "sa_1\t", 5) != 0) continue;
        before = row;
        read_row(line, &row);
        check_row(&row, &before, &scene, &reader);
        n_rows++;
    }
    cr_expect_eq(n_rows, 1 + 4 * (1 + 3 * 65) + 4, "%d rows", n_rows);
    fclose(table);
    free_scene(&scene);
    image_reader_close(&reader);
}
