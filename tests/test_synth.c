/* Painted scenes and the files `retort synth` writes of them. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/jpeg.h"
#include "data/json.h"
#include "data/source.h"
#include "data/synth.h"
#include "tests/support.h"
#include "train/commands.h"

enum { HEIGHT = 288, WIDTH = 384, N_PX = HEIGHT * WIDTH };

static const SynthConfig usual = {.seed = 7,
                                  .height = HEIGHT,
                                  .width = WIDTH,
                                  .min_objects = 8,
                                  .max_objects = 24,
                                  .scale = 1,
                                  .min_area = SYNTH_MIN_AREA};

/* ---- Scenes ---- */

static SynthPainter *open_painter(const SynthConfig *config)
{
    SynthPainter *painter;
    cr_assert_eq(synth_painter_create(config, &painter), OK, "%s", status_message());
    return painter;
}

static SynthImage paint(SynthPainter *painter, uint64_t number)
{
    SynthImage image;
    cr_assert_eq(synth_paint(painter, number, &image), OK, "%s", status_message());
    return image;
}

/* Background that cannot be reached from the border of the image. */
static bool has_hole(const uint8_t *mask)
{
    static int stack[N_PX];
    static uint8_t reached[N_PX];
    int n = 0;
    memcpy(reached, mask, N_PX);
    for (int i = 0; i < N_PX; i++) {
        int x = i % WIDTH, y = i / WIDTH;
        bool border = x == 0 || y == 0 || x == WIDTH - 1 || y == HEIGHT - 1;
        if (border && !reached[i]) reached[i] = 1, stack[n++] = i;
    }
    while (n > 0) {
        int i = stack[--n], x = i % WIDTH, y = i / WIDTH;
        const int next[4] = {x > 0 ? i - 1 : i, x < WIDTH - 1 ? i + 1 : i, y > 0 ? i - WIDTH : i,
                             y < HEIGHT - 1 ? i + WIDTH : i};
        for (int k = 0; k < 4; k++)
            if (!reached[next[k]]) reached[next[k]] = 1, stack[n++] = next[k];
    }
    return memchr(reached, 0, N_PX) != NULL;
}

/* Side of the largest square of mask pixels. */
static int thickness_px(const uint8_t *mask)
{
    static int side[N_PX]; /* of the largest square that ends at the pixel */
    int largest = 0;
    for (int i = 0; i < N_PX; i++) {
        side[i] = mask[i];
        if (mask[i] && i % WIDTH > 0 && i >= WIDTH) {
            int left = side[i - 1], above = side[i - WIDTH], both = side[i - WIDTH - 1];
            int least = left < above ? left : above;
            side[i] = 1 + (least < both ? least : both);
        }
        if (side[i] > largest) largest = side[i];
    }
    return largest;
}

Test(scenes, fifty_hold_every_kind_and_boxes_do_not_give_the_masks)
{
    SynthPainter *painter = open_painter(&usual);
    int64_t seen[SYNTH_N_KINDS] = {0}, n_masks = 0, n_parts = 0, n_tiny = 0, box[4];
    double fill = 0;
    for (uint64_t number = 1; number <= 50; number++) {
        SynthImage image = paint(painter, number);
        for (int64_t i = 0; i < image.n_masks; i++, n_masks++) {
            const SynthMask *mask = &image.masks[i];
            int64_t area = rle_area(&mask->mask);
            cr_assert_eq(rle_check(&mask->mask), OK, "%s", status_message());
            cr_assert_geq(area, SYNTH_MIN_AREA);
            rle_bbox(&mask->mask, box);
            fill += (double)area / (double)(box[2] * box[3]);
            seen[mask->kind] += mask->whole < 0; /* parts come in fewer kinds */
            n_parts += mask->whole >= 0;
            n_tiny += area < 100;
        }
    }
    for (int kind = 0; kind < SYNTH_N_KINDS; kind++)
        cr_expect_gt(seen[kind], 0, "no %s in 50 scenes", synth_kind_name((SynthKind)kind));
    cr_expect_leq(fill / (double)n_masks, 0.60, "box fill %.3f", fill / (double)n_masks);
    cr_expect_gt(n_parts, 20);
    cr_expect_gt(n_tiny, 20);
    synth_painter_destroy(painter);
}

Test(scenes, masks_with_holes_and_thin_masks_occur)
{
    static uint8_t dense[N_PX];
    SynthPainter *painter = open_painter(&usual);
    int n_holes = 0, n_lines = 0, n_thin = 0;
    for (uint64_t number = 1; number <= 10; number++) {
        SynthImage image = paint(painter, number);
        for (int64_t i = 0; i < image.n_masks; i++) {
            rle_decode(&image.masks[i].mask, dense);
            n_holes += has_hole(dense);
            if (image.masks[i].kind != SYNTH_ROD && image.masks[i].kind != SYNTH_STROKE) continue;
            n_lines++;
            n_thin += thickness_px(dense) < 6;
        }
    }
    cr_expect_gt(n_holes, 0);
    cr_expect_gt(2 * n_thin, n_lines, "%d of %d rods and strokes are thin", n_thin, n_lines);
    synth_painter_destroy(painter);
}

/* What is seen at a pixel is one object, and the wholes it belongs to. */
Test(scenes, masks_overlap_only_as_parts_do)
{
    static uint8_t dense[2][N_PX];
    SynthPainter *painter = open_painter(&usual);
    for (uint64_t number = 1; number <= 6; number++) {
        SynthImage image = paint(painter, number);
        for (int64_t i = 0; i < image.n_masks; i++)
            for (int64_t j = 0; j < i; j++) {
                int64_t common = 0, smaller = 0;
                rle_decode(&image.masks[i].mask, dense[0]);
                rle_decode(&image.masks[j].mask, dense[1]);
                for (int p = 0; p < N_PX; p++) common += dense[0][p] & dense[1][p];
                if (image.masks[i].whole == j) smaller = rle_area(&image.masks[i].mask);
                if (image.masks[j].whole == i) smaller = rle_area(&image.masks[j].mask);
                cr_assert_eq(common, smaller, "scene %d, masks %d and %d", (int)number, (int)i,
                             (int)j);
            }
    }
    synth_painter_destroy(painter);
}

Test(scenes, are_functions_of_seed_and_number)
{
    SynthConfig other_seed = usual;
    other_seed.seed++;
    SynthPainter *one = open_painter(&usual), *two = open_painter(&usual);
    SynthPainter *three = open_painter(&other_seed);
    paint(two, 4); /* what was painted before does not matter */
    SynthImage a = paint(one, 5), b = paint(two, 5), c = paint(three, 5);
    cr_expect_arr_eq(a.pixels, b.pixels, 3 * N_PX);
    cr_expect_eq(a.n_masks, b.n_masks);
    cr_expect(memcmp(a.pixels, c.pixels, 3 * N_PX) != 0);
    SynthImage d = paint(two, 6);
    cr_expect(memcmp(a.pixels, d.pixels, 3 * N_PX) != 0);
    synth_painter_destroy(one);
    synth_painter_destroy(two);
    synth_painter_destroy(three);
}

/* Few objects hide little of each other, so the seen area grows almost with the square. */
Test(scenes, of_larger_objects)
{
    double area[2] = {0};
    for (int i = 0; i < 2; i++) {
        SynthConfig config = usual;
        config.min_objects = config.max_objects = 2;
        config.scale = 0.5 * (i + 1);
        SynthPainter *painter = open_painter(&config);
        for (uint64_t number = 1; number <= 60; number++) {
            SynthImage image = paint(painter, number);
            for (int64_t m = 0; m < image.n_masks; m++)
                if (image.masks[m].whole < 0) area[i] += (double)rle_area(&image.masks[m].mask);
        }
        synth_painter_destroy(painter);
    }
    cr_expect_gt(area[1], 2 * area[0], "%g, %g px", area[0], area[1]);
    cr_expect_lt(area[1], 4 * area[0], "%g, %g px", area[0], area[1]);
}

/* The picture is the same; of its masks only the large enough are left, with their outlines. */
Test(scenes, without_masks_of_small_objects)
{
    SynthConfig config = usual;
    config.min_area = 700;
    SynthPainter *every = open_painter(&usual), *large = open_painter(&config);
    int64_t n_left = 0, n_left_out = 0;
    for (uint64_t number = 1; number <= 20; number++) {
        SynthImage all = paint(every, number), some = paint(large, number);
        cr_assert_arr_eq(all.pixels, some.pixels, N_PX * 3);
        int64_t n = 0;
        for (int64_t m = 0; m < all.n_masks; m++) {
            const Rle *mask = &all.masks[m].mask, *kept = &some.masks[n].mask;
            bool same = n < some.n_masks && kept->n == mask->n &&
                        memcmp(kept->counts, mask->counts, (size_t)mask->n * sizeof(uint32_t)) == 0;
            if (same)
                n++;
            else
                n_left_out++;
            cr_expect(same || rle_area(mask) < 2 * 700, "a mask of %g px", (double)rle_area(mask));
            if (same) cr_expect_geq(rle_area(mask), 700);
        }
        cr_expect_eq(n, some.n_masks);
        n_left += n;
    }
    cr_expect_gt(n_left, 0);
    cr_expect_gt(n_left_out, 0);
    synth_painter_destroy(every);
    synth_painter_destroy(large);
}

Test(scenes, of_other_sizes_and_numbers)
{
    SynthConfig config = {.seed = 1,
                          .height = 64,
                          .width = 501,
                          .min_objects = 1,
                          .max_objects = 1,
                          .scale = 1,
                          .min_area = SYNTH_MIN_AREA};
    SynthPainter *painter = open_painter(&config);
    for (uint64_t number = 1; number <= 40; number++) {
        SynthImage image = paint(painter, number);
        cr_expect_eq(image.height, 64);
        cr_expect_eq(image.width, 501);
        cr_expect_geq(image.n_masks, 1);
        cr_expect_leq(image.n_masks, 1 + SYNTH_MAX_PARTS);
    }
    synth_painter_destroy(painter);
    config.width = 63;
    cr_expect_eq(synth_painter_create(&config, &painter), E_CONFIG);
    config = usual;
    config.max_objects = SYNTH_MAX_OBJECTS + 1;
    cr_expect_eq(synth_painter_create(&config, &painter), E_CONFIG);
    config = usual;
    config.min_area = SYNTH_MIN_AREA - 1;
    cr_expect_eq(synth_painter_create(&config, &painter), E_CONFIG);
}

/* ---- Files ---- */

static Status synth(const char *folder, const char *words)
{
    char line[512], *argv[16];
    Args args = {.words = argv};
    snprintf(line, sizeof line, "%s %s", folder, words);
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) argv[args.n++] = word;
    return command_synth(&args);
}

static void expect_same_folders(const char *one, const char *other, int n_files)
{
    DIR *folder = opendir(one);
    cr_assert_not_null(folder);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char *bytes[2] = {NULL, NULL};
        size_t n_bytes[2];
        if (entry->d_name[0] == '.') continue;
        for (int i = 0; i < 2; i++) {
            char *path = file_join(i ? other : one, entry->d_name);
            cr_assert_eq(file_read(path, 1 << 24, &bytes[i], &n_bytes[i]), OK, "%s",
                         status_message());
            free(path);
        }
        cr_expect_eq(n_bytes[0], n_bytes[1], "%s", entry->d_name);
        cr_expect(n_bytes[0] == n_bytes[1] && memcmp(bytes[0], bytes[1], n_bytes[0]) == 0, "%s",
                  entry->d_name);
        free(bytes[0]);
        free(bytes[1]);
        n++;
    }
    closedir(folder);
    cr_expect_eq(n, n_files);
}

Test(files, are_the_same_for_any_number_of_threads)
{
    char one[128], two[128], three[128];
    test_folder("synth_one", one, sizeof one);
    test_folder("synth_two", two, sizeof two);
    test_folder("synth_three", three, sizeof three);
    cr_assert_eq(synth(one, "--images=6 --seed=3 --size=200x150 --threads=1"), OK);
    cr_assert_eq(synth(two, "--images=6 --seed=3 --size=200x150 --threads=3"), OK);
    expect_same_folders(one, two, 12);
    cr_assert_eq(synth(one, "--images=6 --seed=3 --size=200x150 --threads=2"), OK); /* again */
    expect_same_folders(one, two, 12);
    cr_assert_eq(synth(three, "--images=3 --seed=3 --size=200x150"), OK);
    expect_same_folders(three, one, 6); /* the first ones of more */
}

typedef struct Points { /* what annotations_read passes over */
    double xy[256][2];
    int64_t n, n_ids;
    double ids[256];
    int64_t image_id, width, height;
    int n_scores, n_crops;
    char file_name[32];
} Points;

static bool path_is(const JsonEvent *event, const char *path)
{
    return strcmp(event->path, path) == 0;
}

static Status take_points(void *user, const JsonEvent *event)
{
    Points *points = user;
    if (event->kind == JSON_STRING && path_is(event, "image.file_name"))
        snprintf(points->file_name, sizeof points->file_name, "%.*s", (int)event->n_chars,
                 event->text);
    if (event->kind != JSON_NUMBER) return OK;
    if (path_is(event, "image.image_id")) points->image_id = (int64_t)event->number;
    if (path_is(event, "image.width")) points->width = (int64_t)event->number;
    if (path_is(event, "image.height")) points->height = (int64_t)event->number;
    if (path_is(event, "annotations[].id")) points->ids[points->n_ids++] = event->number;
    if (path_is(event, "annotations[].predicted_iou")) points->n_scores++;
    if (path_is(event, "annotations[].stability_score")) points->n_scores++;
    if (path_is(event, "annotations[].crop_box[]")) points->n_crops++;
    if (!path_is(event, "annotations[].point_coords[][]")) return OK;
    points->xy[points->n][event->index] = event->number;
    points->n += event->index == 1;
    return OK;
}

static void check_annotation(const Annotation *annotation, const double xy[2])
{
    static uint8_t dense[N_PX];
    int64_t box[4];
    rle_bbox(&annotation->mask, box);
    cr_expect_eq(annotation->area, (double)rle_area(&annotation->mask));
    cr_expect_eq(annotation->bbox[0], (double)box[0]);
    cr_expect_eq(annotation->bbox[1], (double)box[1]);
    cr_expect_eq(annotation->bbox[2], (double)(box[2] - 1), "last pixel - first pixel");
    cr_expect_eq(annotation->bbox[3], (double)(box[3] - 1));
    rle_decode(&annotation->mask, dense);
    cr_expect(dense[(int)xy[1] * WIDTH + (int)xy[0]], "the point (%g, %g) is outside", xy[0],
              xy[1]);
}

Test(files, are_read_as_sa1b)
{
    char root[128];
    Source *source;
    Annotations annotations = {0};
    JpegDecoder *decoder;
    test_folder("synth_read", root, sizeof root);
    cr_assert_eq(synth(root, "--images=3 --seed=9"), OK, "%s", status_message());
    cr_assert_eq(open_source(root, true, &source), OK, "%s", status_message());
    cr_assert_eq(source_size(source), 3);
    cr_assert_eq(jpeg_create(&decoder), OK);
    for (int64_t s = 0; s < 3; s++) {
        static Points points;
        JpegImage image;
        char name[32], jpeg[ROOT_NAME_BYTES], json[160];
        source_image_name(source, s, jpeg);
        snprintf(json, sizeof json, "%s/sa_%d.json", root, (int)s + 1);
        memset(&points, 0, sizeof points);
        cr_expect_eq(source_sample_id(source, s), (uint64_t)s + 1);
        cr_assert_eq(annotations_read(json, &annotations), OK, "%s", status_message());
        cr_assert_eq(json_read(json, take_points, &points), OK);
        cr_assert_eq(points.n, annotations.n_items);
        cr_expect_eq(points.n_ids, points.n);
        cr_expect_eq(points.n_scores, 2 * points.n);
        cr_expect_eq(points.n_crops, 4 * points.n);
        cr_expect_eq(points.image_id, s + 1);
        snprintf(name, sizeof name, "sa_%d.jpg", (int)s + 1);
        cr_expect_str_eq(points.file_name, name);
        for (int64_t i = 0; i < points.n; i++) {
            check_annotation(&annotations.items[i], points.xy[i]);
            for (int64_t j = 0; j < i; j++) cr_expect_neq(points.ids[i], points.ids[j]);
        }
        cr_assert_eq(jpeg_read(decoder, jpeg, 0, &image), OK);
        cr_expect_eq(image.width, points.width);
        cr_expect_eq(image.height, points.height);
        cr_expect_eq(image.width, WIDTH);
        cr_expect_eq(image.height, HEIGHT);
    }
    jpeg_destroy(decoder);
    annotations_free(&annotations);
    source_close(source);
}

Test(files, jpeg_keeps_the_picture)
{
    SynthPainter *painter = open_painter(&usual);
    SynthImage scene = paint(painter, 2);
    JpegEncoder *encoder;
    JpegDecoder *decoder;
    JpegImage image;
    const uint8_t *bytes;
    size_t n_bytes;
    char root[128];
    test_folder("synth_jpeg", root, sizeof root);
    char *path = file_join(root, "scene.jpg");
    cr_assert_eq(jpeg_encoder_create(&encoder), OK);
    cr_assert_eq(jpeg_encode(encoder, scene.pixels, HEIGHT, WIDTH, 95, &bytes, &n_bytes), OK);
    cr_assert_eq(file_replace(&file_ops_system, path, bytes, n_bytes), OK);
    cr_assert_eq(jpeg_create(&decoder), OK);
    cr_assert_eq(jpeg_read(decoder, path, 0, &image), OK);
    double error = 0;
    for (int i = 0; i < 3 * N_PX; i++) error += abs(image.pixels[i] - scene.pixels[i]);
    cr_expect_lt(error / (3 * N_PX), 4.0, "mean difference %.2f grey levels", error / (3 * N_PX));
    free(path);
    jpeg_destroy(decoder);
    jpeg_encoder_destroy(encoder);
    synth_painter_destroy(painter);
}

/* ---- Shards ---- */

static void run_shell(const char *command) { cr_assert_eq(system(command), 0, "%s", command); }

Test(shards, hold_the_same_files)
{
    char loose[128], packed[128], unpacked[128], command[600];
    test_folder("synth_loose", loose, sizeof loose);
    test_folder("synth_packed", packed, sizeof packed);
    test_folder("synth_unpacked", unpacked, sizeof unpacked);
    cr_assert_eq(synth(loose, "--images=5 --seed=4 --size=128x96"), OK);
    cr_assert_eq(synth(packed, "--images=5 --seed=4 --size=128x96 --shards=2"), OK, "%s",
                 status_message());
    snprintf(command, sizeof command,
             "test \"$(tar tf %s/sa_000000.tar | tr '\\n' ' ')\" = "
             "'sa_1.jpg sa_1.json sa_2.jpg sa_2.json '",
             packed);
    run_shell(command);
    snprintf(command, sizeof command, "for t in %s/*.tar; do tar xf $t -C %s; done", packed,
             unpacked);
    run_shell(command);
    expect_same_folders(loose, unpacked, 10);
}

Test(shards, are_the_same_for_any_number_of_threads)
{
    char one[128], two[128];
    test_folder("synth_shards_one", one, sizeof one);
    test_folder("synth_shards_two", two, sizeof two);
    cr_assert_eq(synth(one, "--images=4 --size=128x96 --shards=3 --threads=1"), OK);
    cr_assert_eq(synth(two, "--images=4 --size=128x96 --shards=3 --threads=3"), OK);
    expect_same_folders(one, two, 3);
}

/* ---- Command line ---- */

Test(command, says_what_is_wrong)
{
    static const struct {
        const char *words, *part;
    } cases[] = {
        {"", "--images"},
        {"--images=0", "--images=0"},
        {"--images=2 --size=384", "as in 384x288"},
        {"--images=2 --size=10x288", "sides of 64 to 4096"},
        {"--images=2 --masks=8", "8"},
        {"--images=2 --masks=9..8", "9 to 8"},
        {"--images=2 --shards=3", "--shards=3"},
        {"--images=2 --scale=big", "--scale=big"},
        {"--images=2 --scale=0", "scaled by 0"},
        {"--images=2 --min-area=0", "--min-area=0"},
        {"--images=2 --min-area=200000", "without an object of 200000 px"},
        {"--images=2 --colour=red", "--colour=red"},
    };
    char root[128];
    test_folder("synth_wrong", root, sizeof root);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(synth(root, cases[i].words), E_CONFIG, "%s", cases[i].words);
        cr_expect(strstr(status_message(), cases[i].part), "%s: %s", cases[i].words,
                  status_message());
    }
    cr_expect_eq(synth("--images=2", ""), E_CONFIG);
    cr_expect_eq(synth("/dev/null/folder", "--images=1"), E_FILE);
}

/* A worker's failure reaches the caller with its message. */
Test(command, reports_a_file_that_cannot_be_written)
{
    char root[128], inside[160];
    test_folder("synth_blocked", root, sizeof root);
    snprintf(inside, sizeof inside, "synth_blocked/sa_2.jpg.tmp");
    char blocked[160];
    test_folder(inside, blocked, sizeof blocked); /* a folder where the temporary file should be */
    cr_expect_eq(synth(root, "--images=3 --size=64x64 --threads=2"), E_FILE);
    cr_expect(strstr(status_message(), "sa_2.jpg"), "%s", status_message());
}
