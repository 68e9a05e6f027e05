/* JPEG decoding, image and mask resampling, listing of sources. Sample files are read where they
 * lie; where they are missing the tests that need them are skipped by name. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/soft_runs.h"
#include "data/image.h"
#include "data/mask.h"
#include "data/source.h"
#include "tests/support.h"

static void write_file(const char *path, const void *bytes, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, n_bytes, file), n_bytes);
    fclose(file);
}

static char *read_whole(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    fseek(file, 0, SEEK_END);
    *n_bytes = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*n_bytes + 1);
    cr_assert_eq(fread(bytes, 1, *n_bytes, file), *n_bytes);
    fclose(file);
    return bytes;
}

static bool message_has(const char *part) { return strstr(status_message(), part) != NULL; }

/* ---- JPEG ---- */

Test(jpeg, damaged_files_are_refused)
{
    char path[256], folder[256], cut[300];
    SKIP_WITHOUT("data/sa1b/images/sa_1309.jpg", path);
    size_t n_bytes;
    char *bytes = read_whole(path, &n_bytes);
    snprintf(cut, sizeof cut, "%s/cut.jpg", test_folder("jpeg", folder, sizeof folder));
    JpegDecoder *decoder;
    JpegImage image;
    cr_assert_eq(jpeg_create(&decoder), OK);
    cr_expect_eq(jpeg_read(decoder, cut, 0, &image), E_FILE);
    const size_t lengths[] = {0, 1, 20, 700, n_bytes / 2, n_bytes - 40};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_file(cut, bytes, lengths[i]);
        cr_expect_eq(jpeg_read(decoder, cut, 0, &image), E_FORMAT, "%zu bytes were accepted",
                     lengths[i]);
        cr_expect(message_has("cut.jpg"), "%s", status_message());
        cr_expect_eq(jpeg_read(decoder, cut, 256, &image), E_FORMAT, "%zu bytes, reduced",
                     lengths[i]);
    }
    memset(bytes + n_bytes / 2, 0xff, 64); /* markers where data should be */
    write_file(cut, bytes, n_bytes);
    cr_expect_eq(jpeg_read(decoder, cut, 0, &image), E_FORMAT, "damaged file");
    cr_expect_eq(jpeg_read(decoder, path, 0, &image), OK, "the decoder works after failures: %s",
                 status_message());
    jpeg_destroy(decoder);
    free(bytes);
}

Test(jpeg, reduced_size_still_covers_the_target)
{
    char path[256];
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.jpg", path);
    static const struct {
        int64_t min_side, height, width;
    } cases[] = {
        {0, 2060, 1500}, {4096, 2060, 1500}, {1031, 2060, 1500}, {1030, 1030, 750},
        {515, 515, 375}, {516, 1030, 750},   {64, 258, 188},
    };
    JpegDecoder *decoder;
    JpegImage image;
    cr_assert_eq(jpeg_create(&decoder), OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(jpeg_read(decoder, path, cases[i].min_side, &image), OK, "%s",
                     status_message());
        cr_expect_eq(image.height, cases[i].height, "%lld", (long long)image.height);
        cr_expect_eq(image.width, cases[i].width, "%lld", (long long)image.width);
        cr_expect_eq(image.full_height, 2060);
    }
    jpeg_destroy(decoder);
}

/* Resizing a decode of twice the size shows what resizing the full decode shows, at the same place.
 */
/* A file that ends anywhere in its head leaves the library in the middle of reading one: what it
 * knows of that file must not meet the next. */
Test(jpeg, a_damaged_file_does_not_spoil_the_next)
{
    enum { SIDE = 24 };
    static const uint8_t pixels[SIDE * SIDE * 3];
    JpegEncoder *encoder;
    JpegDecoder *decoder;
    JpegImage image;
    const uint8_t *bytes;
    size_t n_bytes;
    cr_assert_eq(jpeg_encoder_create(&encoder), OK);
    cr_assert_eq(jpeg_encode(encoder, pixels, SIDE, SIDE, 95, &bytes, &n_bytes), OK);
    cr_assert_eq(jpeg_create(&decoder), OK);
    for (size_t n = 1; n < n_bytes - 2; n++) {
        cr_expect_eq(jpeg_decode(decoder, "cut", bytes, n, 0, &image), E_FORMAT, "%zu bytes", n);
        cr_assert_eq(jpeg_decode(decoder, "whole", bytes, n_bytes, 0, &image), OK, "after %zu: %s",
                     n, status_message());
        cr_assert_eq(image.full_width, SIDE);
    }
    jpeg_destroy(decoder);
    jpeg_encoder_destroy(encoder);
}

/* How far an image is from the one made of the full decode, in grey levels of the inputs' scale. */
typedef struct Difference {
    double mean, max, bias;
    double detail; /* of the full one: mean difference of a pixel from its neighbour */
    int reduction;
} Difference;

static Difference compare_decodes(ImageReader *reader, const char *path, int64_t side,
                                  int64_t margin)
{
    static const double grey[3] = {58.395, 57.12, 57.375}; /* deviations that were divided by */
    size_t n = (size_t)(side * side * 3);
    float *full = calloc(n, sizeof *full), *reduced = calloc(n, sizeof *reduced);
    ImageSize extent;
    Difference d = {0};
    cr_assert_eq(image_read(reader, path, 0), OK);
    cr_assert_eq(image_to_train_tensor(reader, side, true, full, &extent), OK);
    cr_assert_eq(image_read(reader, path, margin * side), OK);
    cr_assert_eq(image_to_train_tensor(reader, side, true, reduced, &extent), OK);
    d.reduction = reader->image.reduction;
    double n_px = (double)(extent.height * extent.width * 3);
    for (int64_t y = 0; y < extent.height; y++)
        for (int64_t x = 0; x < 3 * extent.width; x++) {
            int64_t i = y * side * 3 + x;
            double by = grey[x % 3] * (double)(full[i] - reduced[i]);
            d.mean += fabs(by) / n_px;
            d.bias += by / n_px;
            d.max = fmax(d.max, fabs(by));
            if (x >= 3) d.detail += grey[x % 3] * fabs((double)(full[i] - full[i - 3])) / n_px;
        }
    free(full);
    free(reduced);
    return d;
}

/* A reduced decode leaves out the frequencies above its own half rate. What a triangle filter of
 * the target's width still lets through of those is, of an image's content per octave, less than
 * what neighbouring pixels of the target differ by, which is that of the octave below; the more the
 * margin, the less. The average of the picture is not changed: it is in the first coefficient of
 * each block, whose rounding is at most half a level and of either sign. */
Test(jpeg, reduced_decode_shows_the_same_picture)
{
    static const int64_t sides[] = {256, 512, 1024};
    char path[256];
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.jpg", path);
    ImageReader reader = {0};
    cr_assert_eq(image_reader_open(&reader), OK);
    for (size_t s = 0; s < sizeof sides / sizeof sides[0]; s++) {
        double before = INFINITY;
        for (int64_t margin = 1; margin <= 4; margin *= 2) {
            Difference d = compare_decodes(&reader, path, sides[s], margin);
            printf("%lld px, margin %lld (1/%d): mean %.3f, largest %.1f, bias %.4f, detail %.2f\n",
                   (long long)sides[s], (long long)margin, d.reduction, d.mean, d.max, d.bias,
                   d.detail);
            cr_expect(d.reduction == 1 ? d.max == 0 : d.mean > 0);
            cr_expect(d.mean < d.detail && d.mean <= before, "%g grey levels, before %g", d.mean,
                      before);
            cr_expect_lt(fabs(d.bias), 0.5);
            before = d.mean;
        }
    }
    image_reader_close(&reader);
}

/* ---- Resizing and masks ---- */

static double triangle(double distance)
{
    return fabs(distance) < 1.0 ? 1.0 - fabs(distance) : 0.0;
}

/* The filter as its formula says, over the whole axis. */
static double filter_weight(int64_t in, int64_t out, int64_t i, int64_t j)
{
    double ratio = (double)in / (double)out, support = ratio > 1.0 ? ratio : 1.0, sum = 0.0;
    double centre = ((double)i + 0.5) * ratio;
    for (int64_t k = 0; k < in; k++) sum += triangle(((double)k + 0.5 - centre) / support);
    return triangle(((double)j + 0.5 - centre) / support) / sum;
}

static double filtered_mask(const uint8_t *mask, ImageSize in, ImageSize out, int64_t y, int64_t x)
{
    double value = 0.0;
    for (int64_t j = 0; j < in.height; j++) {
        double row = 0.0, wy = filter_weight(in.height, out.height, y, j);
        if (wy == 0.0) continue;
        for (int64_t i = 0; i < in.width; i++)
            if (mask[j * in.width + i]) row += filter_weight(in.width, out.width, x, i);
        value += wy * row;
    }
    return value;
}

static void random_mask(uint64_t sample, ImageSize size, uint8_t *mask)
{
    RngKey key = {.seed = 3, .purpose = RNG_TEST, .sample = sample};
    int64_t x0 = (int64_t)rng_below(key, 0, (uint64_t)size.width),
            y0 = (int64_t)rng_below(key, 1, (uint64_t)size.height);
    for (int64_t i = 0; i < size.height * size.width; i++) {
        int64_t dx = i % size.width - x0, dy = i / size.width - y0;
        bool inside = dx * dx + dy * dy < size.width * size.height / 5;
        mask[i] = inside != (rng_uniform(key, 2 + (uint64_t)i) < 0.02);
    }
}

static void mirror(const uint8_t *mask, ImageSize size, uint8_t *mirrored)
{
    for (int64_t i = 0; i < size.height * size.width; i++)
        mirrored[i] = mask[i - i % size.width + size.width - 1 - i % size.width];
}

Test(mask, soft_runs_are_the_triangle_filter)
{
    static const struct {
        ImageSize in;
        int64_t side;
    } cases[] = {
        {{37, 29}, 16}, {{29, 37}, 16}, {{5, 40}, 12}, {{12, 9}, 12},
        {{6, 5}, 17},   {{1, 30}, 8},   {{40, 40}, 1},
    };
    enum { MAX = 64 };
    uint8_t mask[MAX * MAX], mirrored[MAX * MAX];
    uint32_t counts[MAX * MAX + 1], words[MAX * MAX];
    int32_t rows[MAX + 1];
    float row[MAX];
    MaskResampler resampler = {0};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        bool flip = i % 2;
        ImageSize in = cases[i / 2].in;
        int64_t side = cases[i / 2].side, used = 0;
        ImageSize out = resize_fit(in, side);
        random_mask(i, in, mask);
        mirror(mask, in, mirrored);
        Rle rle = {.height = in.height, .width = in.width, .counts = counts};
        rle.n = rle_encode(mask, in.height, in.width, counts);
        cr_assert_eq(mask_resampler_prepare(&resampler, in, out, flip), OK);
        cr_assert_eq(mask_to_soft_runs(&resampler, &rle, side, words, &used, MAX * MAX, rows), OK);
        for (int64_t y = 0; y < side; y++) {
            soft_runs_expand_row(words + rows[y], words + rows[y + 1], row, side);
            for (int64_t x = 0; x < side; x++) {
                bool image = y < out.height && x < out.width;
                double wanted = image ? filtered_mask(flip ? mirrored : mask, in, out, y, x) : 0.0;
                cr_assert_float_eq(row[x], wanted, 1e-6, "case %zu at %lld,%lld: %g, wanted %g", i,
                                   (long long)y, (long long)x, row[x], wanted);
                if (wanted < 1e-12) cr_assert_eq(row[x], 0.0f);
                if (wanted > 1.0 - 1e-12) cr_assert_eq(row[x], 1.0f);
            }
        }
    }
    mask_resampler_free(&resampler);
}

Test(mask, a_full_mask_is_all_spans_and_an_empty_one_nothing)
{
    uint32_t counts[] = {0, 300 * 200}, nothing[] = {300 * 200}, words[4096];
    int32_t rows[65];
    int64_t used = 0;
    ImageSize in = {300, 200}, out = resize_fit(in, 64);
    MaskResampler resampler = {0};
    cr_assert_eq(mask_resampler_prepare(&resampler, in, out, false), OK);
    Rle full = {.height = 300, .width = 200, .n = 2, .counts = counts};
    cr_assert_eq(mask_to_soft_runs(&resampler, &full, 64, words, &used, 4096, rows), OK);
    cr_expect_eq(used, 64, "one span per row");
    cr_expect_eq(words[0], SOFT_ONES | (uint32_t)out.width);
    Rle empty = {.height = 300, .width = 200, .n = 1, .counts = nothing};
    cr_assert_eq(mask_to_soft_runs(&resampler, &empty, 64, words, &used, 4096, rows), OK);
    cr_expect_eq(used, 64);
    cr_expect_eq(rows[0], 64);
    cr_expect_eq(rows[64], 64);
    int64_t almost_full = 100;
    cr_expect_eq(mask_to_soft_runs(&resampler, &full, 64, words, &almost_full, 120, rows),
                 E_CONFIG);
    cr_expect(message_has("mask_words"), "%s", status_message());
    mask_resampler_free(&resampler);
}

Test(mask, pixels_above_a_threshold_are_found_in_order)
{
    enum { SIDE = 48 };
    ImageSize in = {90, 130}, out = resize_fit(in, SIDE);
    uint8_t mask[90 * 130];
    uint32_t counts[90 * 130 + 1], words[8192];
    int32_t rows[SIDE + 1], xy[2 * SIDE * SIDE];
    int64_t used = 0, numbers[SIDE * SIDE];
    random_mask(11, in, mask);
    Rle rle = {.height = in.height, .width = in.width, .counts = counts};
    rle.n = rle_encode(mask, in.height, in.width, counts);
    MaskResampler resampler = {0};
    cr_assert_eq(mask_resampler_prepare(&resampler, in, out, false), OK);
    cr_assert_eq(mask_to_soft_runs(&resampler, &rle, SIDE, words, &used, 8192, rows), OK);
    for (float threshold = 0.0f; threshold < 0.6f; threshold += 0.5f) {
        int64_t n = mask_count_above(words, rows, SIDE, threshold), k = 0;
        for (int64_t i = 0; i < n; i++) numbers[i] = i;
        mask_pixels_above(words, rows, SIDE, threshold, numbers, n, xy);
        for (int64_t y = 0; y < SIDE; y++) {
            float row[SIDE];
            soft_runs_expand_row(words + rows[y], words + rows[y + 1], row, SIDE);
            for (int64_t x = 0; x < SIDE; x++) {
                if (!(row[x] > threshold)) continue;
                cr_assert_lt(k, n);
                cr_assert_eq(xy[2 * k], x);
                cr_assert_eq(xy[2 * k + 1], y);
                k++;
            }
        }
        cr_assert_eq(k, n);
        cr_assert_gt(n, 100);
    }
    mask_resampler_free(&resampler);
}

Test(resize, sides_are_rounded_as_the_published_code_does)
{
    ImageSize size = resize_fit((ImageSize){427, 640}, 512);
    cr_expect_eq(size.height, 342);
    cr_expect_eq(size.width, 512);
    size = resize_fit((ImageSize){427, 640}, 1024);
    cr_expect_eq(size.height, 683);
    size = resize_fit((ImageSize){1, 4000}, 512);
    cr_expect_eq(size.height, 1);
}

/* ---- Sources ---- */

Test(source, lists_by_name_and_names_what_is_missing)
{
    char folder[256], path[400], name[ROOT_NAME_BYTES];
    Source *source;
    test_folder("source", folder, sizeof folder);
    cr_expect_eq(open_source("build/tmp/no_such_folder", false, &source), E_FILE);
    cr_expect_eq(open_source(folder, true, &source), E_CONFIG);
    cr_expect(message_has("no sample; looked for *.jpg"), "%s", status_message());
    static const char *names[] = {"sa_10.jpg", "sa_2.jpg",  "sa_02.jpg",
                                  "b.JPEG",    "notes.txt", "sa_2.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        write_file(path, "x", 1);
    }
    cr_expect_eq(open_source(folder, true, &source), E_FILE, "masks are missing");
    cr_expect(message_has(".json"), "%s", status_message());
    cr_assert_eq(open_source(folder, false, &source), OK, "%s", status_message());
    cr_assert_eq(source_size(source), 4);
    source_image_name(source, 0, name);
    cr_expect_not_null(strstr(name, "b.JPEG"));
    source_image_name(source, 3, name);
    cr_expect_not_null(strstr(name, "sa_2.jpg"));
    cr_expect_eq(source_sample_id(source, 3), 2);
    cr_expect_eq(source_sample_id(source, 2), 10);
    cr_expect_eq(source_sample_id(source, 1), rng_name_hash("sa_02.jpg"));
    source_close(source);
    snprintf(path, sizeof path, "%s/sa_2.jpeg", folder);
    write_file(path, "x", 1);
    cr_expect_eq(open_source(folder, false, &source), E_CONFIG);
    cr_expect(message_has("same sample id 2"), "%s", status_message());
}
