/* The loader: order, draws, epochs and failures; prompts and the choice of masks. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/soft_runs.h"
#include "data/loader.h"
#include "data/mask.h"
#include "data/prompts.h"
#include "tests/loader_hash.h"
#include "tests/make_scenes.h"
#include "tests/support.h"

static const char sa_1_jpg[] = "data/sa1b/pairs/sa_1.jpg";
static const char sa_1_json[] = "data/sa1b/pairs/sa_1.json";

static bool message_has(const char *part) { return strstr(status_message(), part) != NULL; }

/* ---- A folder of several samples: one real image under many names ---- */

static void link_pair(const char *folder, int64_t number, bool masks)
{
    char source[256], absolute[4096], link[400];
    shared_path(sa_1_jpg, source, sizeof source);
    snprintf(link, sizeof link, "%s/sa_%lld.jpg", folder, (long long)number);
    cr_assert_eq(symlink(realpath(source, absolute), link), 0);
    shared_path(sa_1_json, source, sizeof source);
    snprintf(link, sizeof link, "%s/sa_%lld.json", folder, (long long)number);
    if (masks) cr_assert_eq(symlink(realpath(source, absolute), link), 0);
}

/* Hashes of the images of global steps first_step .. + n_steps-1, in global order, from `ranks`
 * loaders. */
static void hash_run(const Source *source, LoaderConfig config, int ranks, int64_t first_step,
                     int64_t n_steps, uint64_t *hashes)
{
    int64_t global = config.batch;
    config.world_size = ranks;
    config.batch = global / ranks;
    for (config.rank = 0; config.rank < ranks; config.rank++) {
        Loader *loader;
        cr_assert_eq(loader_create(source, &config, first_step, &loader), OK, "%s",
                     status_message());
        for (int64_t s = 0; s < n_steps; s++) {
            const Batch *batch;
            cr_assert_eq(loader_next(loader, &batch), OK, "%s", status_message());
            cr_assert_eq(batch->step, first_step + s);
            for (int64_t b = 0; b < config.batch; b++)
                hashes[s * global + config.rank * config.batch + b] =
                    loader_hash_image(&config, batch, b);
        }
        loader_destroy(loader);
    }
}

enum { ORDER_STEPS = 4, ORDER_GLOBAL = 4, ORDER_IMAGES = ORDER_STEPS * ORDER_GLOBAL };
enum { ORDER_SCENES = 6 };

static void expect_one_order(const Source *source, const char *name, LoaderConfig config)
{
    uint64_t wanted[ORDER_IMAGES], got[ORDER_IMAGES];
    config.n_threads = 0;
    hash_run(source, config, 1, 0, ORDER_STEPS, wanted);
    /* epochs and samples give different draws, but what stands in is there twice */
    int n_equal = 0;
    for (int i = 0; i < ORDER_IMAGES; i++)
        for (int j = 0; j < i; j++) n_equal += wanted[i] == wanted[j];
    cr_expect_leq(n_equal, (ORDER_IMAGES + ORDER_SCENES - 1) / ORDER_SCENES, "%s", name);
    for (int ranks = 1; ranks <= 4; ranks *= 2)
        for (config.n_threads = 1; config.n_threads <= 8; config.n_threads++) {
            hash_run(source, config, ranks, 0, ORDER_STEPS, got);
            cr_expect_arr_eq(got, wanted, sizeof wanted, "%s: %d ranks of %d threads", name, ranks,
                             config.n_threads);
            printf("%s, %d ranks of %d threads: %016llx\n", name, ranks, config.n_threads,
                   (unsigned long long)hash_bytes(1, got, sizeof got));
        }
    hash_run(source, config, 1, 2, 2, got); /* a resumed run */
    cr_expect_arr_eq(got, wanted + 2 * ORDER_GLOBAL, 2 * ORDER_GLOBAL * sizeof *got);
    config.seed++;
    hash_run(source, config, 1, 0, 1, got);
    cr_expect_neq(got[0], wanted[0], "%s: the seed changes nothing", name);
}

/* Ids, epochs, flips, prompts, weights, the bytes of images and of masks. One image is broken, so
 * what stands in for it is in the sequence, too. */
Test(loader, order_and_draws_do_not_depend_on_threads_ranks_or_start)
{
    char folder[256];
    Source *source;
    LoaderConfig config = loader_small_config();
    test_folder("loader_order", folder, sizeof folder);
    make_scenes(folder, ORDER_SCENES, 8);
    char path[300];
    snprintf(path, sizeof path, "%s/sa_3.jpg", folder);
    cr_assert_eq(truncate(path, 22), 0); /* in its head */
    config.max_bad_fraction = 1;
    cr_assert_eq(open_source(folder, true, &source), OK, "%s", status_message());
    expect_one_order(source, "finetune", config);
    config.n_masks = 0;
    expect_one_order(source, "distill", config);
    source_close(source);
}

Test(loader, every_epoch_sees_every_sample_once)
{
    enum { SAMPLES = 5, BATCH = 2, STEPS = 10 };
    char folder[256], path[256];
    SKIP_WITHOUT(sa_1_jpg, path);
    test_folder("loader_epochs", folder, sizeof folder);
    for (int i = 0; i < SAMPLES; i++) link_pair(folder, i + 1, false);
    Source *source;
    cr_assert_eq(open_source(folder, false, &source), OK, "%s", status_message());
    LoaderConfig config = {.teacher_size = 32,
                           .decode_margin = 1,
                           .flip = 0.5,
                           .batch = BATCH,
                           .world_size = 1,
                           .n_threads = 2,
                           .prefetch = 3};
    Loader *loader;
    cr_assert_eq(loader_create(source, &config, 0, &loader), OK, "%s", status_message());
    int seen[BATCH * STEPS / SAMPLES][SAMPLES + 1] = {0}, flips[SAMPLES + 1] = {0}, mixed = 0;
    for (int64_t s = 0; s < STEPS; s++) {
        const Batch *batch;
        cr_assert_eq(loader_next(loader, &batch), OK, "%s", status_message());
        cr_expect_null(batch->image);
        cr_expect_null(batch->words);
        cr_expect_eq(batch->image_extent[0], 32);
        cr_expect_eq(batch->image_extent[1], 23);
        for (int b = 0; b < BATCH; b++) seen[batch->epoch[b]][batch->sample_id[b]]++;
        for (int b = 0; b < BATCH; b++) flips[batch->sample_id[b]] += batch->flipped[b];
    }
    for (int i = 1; i <= SAMPLES; i++) mixed += flips[i] > 0 && flips[i] < BATCH * STEPS / SAMPLES;
    cr_expect_gt(mixed, 0, "every epoch flips the same samples");
    for (int epoch = 0; epoch < BATCH * STEPS / SAMPLES; epoch++)
        for (int i = 1; i <= SAMPLES; i++)
            cr_expect_eq(seen[epoch][i], 1, "epoch %d, sample %d", epoch, i);
    cr_expect_geq(loader_wait_seconds(loader), 0.0);
    loader_destroy(loader);
    source_close(source);
}

Test(loader, a_bad_sample_is_named_at_its_step_and_stays)
{
    char folder[256], path[400];
    SKIP_WITHOUT(sa_1_jpg, path);
    for (int threads = 0; threads <= 2; threads++) {
        test_folder("loader_bad", folder, sizeof folder);
        link_pair(folder, 1, true);
        snprintf(path, sizeof path, "%s/sa_2.json", folder);
        FILE *file = fopen(path, "w");
        fputs("{\"annotations\": []}", file);
        fclose(file);
        snprintf(path, sizeof path, "%s/sa_2.jpg", folder);
        char first[400], absolute[4096];
        snprintf(first, sizeof first, "%s/sa_1.jpg", folder);
        cr_assert_eq(symlink(realpath(first, absolute), path), 0);
        Source *source;
        cr_assert_eq(open_source(folder, true, &source), OK, "%s", status_message());
        LoaderConfig config = loader_small_config();
        config.n_threads = threads;
        Loader *loader;
        const Batch *batch;
        cr_assert_eq(loader_create(source, &config, 0, &loader), OK);
        for (int again = 0; again < 2; again++) {
            cr_expect_eq(loader_next(loader, &batch), E_FORMAT);
            cr_expect(message_has("sa_2.json: no annotation"), "%s", status_message());
        }
        loader_destroy(loader);
        source_close(source);
    }
}

Test(loader, bad_configs_are_named)
{
    char folder[256], path[256];
    SKIP_WITHOUT(sa_1_jpg, path);
    link_pair(test_folder("loader_config", folder, sizeof folder), 1, true);
    Source *source;
    Loader *loader;
    const Batch *batch;
    cr_assert_eq(open_source(folder, true, &source), OK);
    LoaderConfig config = loader_small_config();
    config.n_slots = 10;
    cr_expect_eq(loader_create(source, &config, 0, &loader), E_CONFIG);
    cr_expect(message_has("n_slots is 10, wanted 11"), "%s", status_message());
    config = loader_small_config();
    config.flip = NAN;
    cr_expect_eq(loader_create(source, &config, 0, &loader), E_CONFIG);
    config = loader_small_config();
    config.box_noise = 1.5;
    cr_expect_eq(loader_create(source, &config, 0, &loader), E_CONFIG);
    cr_expect(message_has("box_noise is 1.5"), "%s", status_message());
    config = loader_small_config();
    config.rank = 1;
    cr_expect_eq(loader_create(source, &config, 0, &loader), E_CONFIG);
    config = loader_small_config();
    config.mask_words = 10;
    cr_assert_eq(loader_create(source, &config, 0, &loader), OK);
    cr_expect_eq(loader_next(loader, &batch), E_CONFIG);
    cr_expect(message_has("sa_1.jpg") && message_has("mask_words"), "%s", status_message());
    loader_destroy(loader);
    source_close(source);
}

/* ---- Prompts ---- */

enum { SIDE = 16, MASKS = 3, SLOTS = 11 };

/* Masks of one row each: 12 pixels of 1; two of 1 and one of 0.25; nothing. */
static const uint32_t prompt_words[] = {SOFT_ZEROS | 2, SOFT_ONES | 12, SOFT_ONES | 2,
                                        SOFT_LITERAL | 1, 0x3e800000u};
static int32_t prompt_rows[MASKS * (SIDE + 1)];
static const double prompt_boxes[MASKS * 4] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static PromptMasks prompt_masks(int64_t n)
{
    static const int32_t begin[MASKS] = {0, 2, 5}, end[MASKS] = {2, 5, 5}, row[MASKS] = {3, 0, 0};
    for (int m = 0; m < MASKS; m++)
        for (int y = 0; y <= SIDE; y++)
            prompt_rows[m * (SIDE + 1) + y] = y <= row[m] ? begin[m] : end[m];
    return (PromptMasks){.n = n, .words = prompt_words, .rows = prompt_rows, .boxes = prompt_boxes};
}

static LoaderConfig prompt_config(PointPreset preset)
{
    return (LoaderConfig){.image_size = SIDE,
                          .frame = 2 * SIDE,
                          .n_masks = MASKS,
                          .n_slots = SLOTS,
                          .max_points = 10,
                          .points = preset,
                          .seed = 1};
}

static int64_t count_label(const int32_t *labels, int32_t label)
{
    int64_t n = 0;
    for (int i = 0; i < SLOTS; i++) n += labels[i] == label;
    return n;
}

Test(prompts, paper_points_lie_on_pixels_and_few_pixels_give_few_points)
{
    LoaderConfig config = prompt_config(POINTS_PAPER);
    PromptMasks masks = prompt_masks(3);
    float coords[MASKS * SLOTS * 2];
    int32_t labels[MASKS * SLOTS];
    int counts[11] = {0}, columns[SIDE] = {0};
    for (uint64_t sample = 0; sample < 2000; sample++) {
        prompts_draw(&config, 0, sample, &masks, coords, labels);
        int64_t k = count_label(labels, LABEL_POINT);
        cr_assert(k >= 1 && k <= 10);
        counts[k]++;
        cr_assert_eq(count_label(labels, LABEL_PADDING), 1);
        cr_assert_eq(labels[k], LABEL_PADDING);
        for (int64_t i = 0; i < k; i++) {
            double x = (coords[2 * i] + 0.5) / 2 - 0.5;
            cr_assert(x == floor(x) && x >= 2 && x < 14, "x %g", x);
            cr_assert_eq(coords[2 * i + 1], 3.5f * 2 - 0.5f);
            if (i > 0) cr_assert_gt(coords[2 * i], coords[2 * i - 2], "drawn twice");
            columns[(int)x]++;
        }
        cr_assert_eq(count_label(labels + SLOTS, LABEL_POINT), k < 2 ? k : 2,
                     "the pixel of 0.25 is below 0.5");
        cr_assert_eq(labels[2 * SLOTS], LABEL_BOX_FIRST, "no pixel: its box");
        cr_assert_eq(labels[2 * SLOTS + 1], LABEL_BOX_SECOND);
        cr_assert_eq(count_label(labels + 2 * SLOTS, LABEL_EMPTY), SLOTS - 2);
        cr_assert_eq(coords[2 * SLOTS * 2 + 3], 12.0f);
    }
    for (int k = 1; k <= 10; k++)
        cr_expect(counts[k] > 140 && counts[k] < 260, "%d points: %d times", k, counts[k]);
    for (int x = 2; x < 14; x++)
        cr_expect(columns[x] > 800 && columns[x] < 1040, "column %d: %d", x, columns[x]);
}

Test(prompts, released_points_fall_back_to_boxes_together)
{
    LoaderConfig config = prompt_config(POINTS_RELEASED);
    PromptMasks masks = prompt_masks(2);
    float coords[MASKS * SLOTS * 2];
    int32_t labels[MASKS * SLOTS];
    int n_points = 0, n_quarter = 0;
    cr_expect_eq(mask_count_above(prompt_words, prompt_rows + SIDE + 1, SIDE, 0.25f), 2,
                 "not above itself");
    for (uint64_t sample = 0; sample < 2000; sample++) {
        prompts_draw(&config, 0, sample, &masks, coords, labels);
        int64_t k = count_label(labels, LABEL_POINT);
        cr_assert_eq(count_label(labels + SLOTS, LABEL_POINT), k, "a common number of points");
        cr_assert_leq(k, 3);
        cr_assert_eq(labels[0] == LABEL_BOX_FIRST, k == 0);
        cr_assert_eq(count_label(labels + 2 * SLOTS, LABEL_EMPTY), SLOTS, "slot without a mask");
        n_points += k > 0;
        if (k > 0) cr_assert_eq(fmod(coords[0], 2.0), 0.0, "x = pixel * frame / S");
        for (int64_t i = 0; i < k; i++) n_quarter += coords[SLOTS * 2 + 2 * i] == 4.0f;
    }
    cr_expect(n_points > 500 && n_points < 700, "%d of 2000: k is 1..3 of 10", n_points);
    cr_expect_gt(n_quarter, 200, "pixels above 0 count");
}

Test(prompts, boxes_have_their_share_and_flip_with_the_image)
{
    LoaderConfig config = prompt_config(POINTS_PAPER);
    PromptMasks masks = prompt_masks(1);
    float coords[MASKS * SLOTS * 2];
    int32_t labels[MASKS * SLOTS];
    int n_boxes = 0;
    config.box_probability = 0.25;
    for (uint64_t sample = 0; sample < 2000; sample++) {
        prompts_draw(&config, 0, sample, &masks, coords, labels);
        n_boxes += labels[0] == LABEL_BOX_FIRST;
    }
    cr_expect(n_boxes > 430 && n_boxes < 570, "%d of 2000", n_boxes);
    const double bbox[] = {10, 20, 30, 40};
    double box[4];
    ImageSize full = {200, 100}, extent = {16, 8};
    prompts_box(&config, bbox, full, extent, true, box);
    const double wanted[] = {60 * 0.16, 20 * 0.16, 90 * 0.16, 60 * 0.16};
    for (int i = 0; i < 4; i++) cr_expect_float_eq(box[i], wanted[i], 1e-12);
}

/* Moments of 4,000 shaken edges, in px of a frame of 1,024; the extent is 1,024 x 640. */
static void shake_many(double noise, const double box[4], double mean[4], double deviation[4])
{
    enum { N = 4000 };
    LoaderConfig config = {.image_size = 512, .frame = 1024, .box_noise = noise, .seed = 5};
    ImageSize extent = {.height = 320, .width = 512};
    double sum[4] = {0}, squares[4] = {0};
    for (uint64_t sample = 0; sample < N; sample++) {
        double shaken[4] = {box[0], box[1], box[2], box[3]};
        prompts_shake_box(&config, 0, sample, 1, extent, shaken);
        cr_assert(shaken[0] >= 0 && shaken[2] <= 1024 && shaken[1] >= 0 && shaken[3] <= 640);
        cr_assert(shaken[0] <= shaken[2] && shaken[1] <= shaken[3]);
        for (int i = 0; i < 4; i++) {
            cr_assert_leq(fabs(shaken[i] - box[i]), 20.0 + 1e-9);
            sum[i] += shaken[i] - box[i];
            squares[i] += (shaken[i] - box[i]) * (shaken[i] - box[i]);
        }
    }
    for (int i = 0; i < 4; i++) {
        mean[i] = sum[i] / N;
        deviation[i] = sqrt(squares[i] / N - mean[i] * mean[i]);
    }
}

Test(prompts, boxes_are_shaken_in_proportion_and_stay_in_the_image)
{
    double mean[4], deviation[4], box[] = {300, 200, 360, 300}; /* 60 x 100 px */
    shake_many(0.1, box, mean, deviation);
    for (int i = 0; i < 4;
         i++) { /* far from the limit of 20 px across, a deviation of half of it down */
        double wanted = i % 2 ? 9.6 : 6.0;
        cr_expect(fabs(mean[i]) < 0.6 && fabs(deviation[i] - wanted) < 0.4, "edge %d: %g, %g", i,
                  mean[i], deviation[i]);
    }
    double none[] = {300, 200, 360, 300}, whole[] = {0, 0, 1024, 640};
    shake_many(0, none, mean, deviation);
    for (int i = 0; i < 4; i++) cr_expect(mean[i] == 0 && deviation[i] == 0);
    shake_many(0.1, whole, mean, deviation);
    for (int i = 0; i < 4; i++) cr_expect(i < 2 ? mean[i] > 5 : mean[i] < -5, "edge %d", i);
    double line[] = {500, 100, 501, 400};
    shake_many(1, line, mean, deviation);
}

Test(prompts, masks_are_chosen_without_repetition_or_repeated_in_rounds)
{
    LoaderConfig config = {.n_masks = 7, .seed = 2};
    int64_t choice[7];
    int uses[20] = {0}, repeats[3] = {0};
    for (uint64_t sample = 0; sample < 4000; sample++) {
        cr_assert_eq(prompts_choose_masks(&config, 0, sample, 20, choice), 7);
        for (int i = 0; i < 7; i++) {
            cr_assert(choice[i] >= 0 && choice[i] < 20);
            if (i > 0) cr_assert_gt(choice[i], choice[i - 1]);
            uses[choice[i]]++;
        }
    }
    for (int i = 0; i < 20; i++)
        cr_expect(uses[i] > 1250 && uses[i] < 1550, "mask %d: %d", i, uses[i]);
    cr_expect_eq(prompts_choose_masks(&config, 0, 0, 3, choice), 3);
    cr_expect_eq(prompts_choose_masks(&config, 0, 0, 7, choice), 7);
    config.repeat_masks = true;
    for (uint64_t sample = 0; sample < 300; sample++) {
        cr_assert_eq(prompts_choose_masks(&config, 0, sample, 3, choice), 7);
        for (int i = 0; i < 6; i++) cr_assert_eq(choice[i], i % 3);
        repeats[choice[6]]++;
    }
    for (int i = 0; i < 3; i++) cr_expect(repeats[i] > 70, "mask %d: %d", i, repeats[i]);
}

/* ---- broken samples ---- */

/* Which samples a run of 3 epochs gives, in order; the number of broken ones that were met. */
static int64_t list_samples(const Source *source, double max_bad, int n_threads, uint64_t *ids,
                            int64_t n_steps)
{
    LoaderConfig config = loader_small_config();
    config.max_bad_fraction = max_bad;
    config.n_threads = n_threads;
    Loader *loader;
    cr_assert_eq(loader_create(source, &config, 0, &loader), OK, "%s", status_message());
    for (int64_t s = 0; s < n_steps; s++) {
        const Batch *batch;
        cr_assert_eq(loader_next(loader, &batch), OK, "%s", status_message());
        memcpy(ids + s * config.batch, batch->sample_id, (size_t)config.batch * sizeof *ids);
        for (int64_t b = 0; b < config.batch; b++)
            cr_expect(!batch->fault[b].n_broken == !strstr(batch->fault[b].message, "sa_3.jpg"),
                      "%s", batch->fault[b].message);
    }
    int64_t n = loader_broken_samples(loader);
    loader_destroy(loader);
    return n;
}

Test(loader, broken_samples_are_named_counted_and_replaced)
{
    enum { SAMPLES = 8, STEPS = 6, IMAGES = 4 * STEPS };
    char folder[256], path[400];
    uint64_t alone[IMAGES], threads[IMAGES];
    Source *source;
    SKIP_WITHOUT(sa_1_jpg, path);
    test_folder("loader_broken", folder, sizeof folder);
    for (int i = 0; i < SAMPLES; i++) link_pair(folder, i + 1, true);
    snprintf(path, sizeof path, "%s/sa_3.jpg", folder);
    cr_assert_eq(unlink(path), 0);
    FILE *file = fopen(path, "w");
    fputs("no JPEG", file);
    fclose(file);
    cr_assert_eq(open_source(folder, true, &source), OK, "%s", status_message());
    int64_t n_broken = list_samples(source, 1, 0, alone, STEPS);
    cr_expect_geq(n_broken, 3, "once an epoch: %lld", (long long)n_broken);
    cr_expect_eq(list_samples(source, 1, 3, threads, STEPS), n_broken);
    cr_expect_arr_eq(alone, threads, sizeof alone);
    for (int i = 0; i < IMAGES; i++) cr_expect_neq(alone[i], 3);

    LoaderConfig config = loader_small_config(); /* none of 8 is allowed */
    config.max_bad_fraction = 0.1;
    Loader *loader;
    const Batch *batch;
    Status status = OK;
    cr_assert_eq(loader_create(source, &config, 0, &loader), OK);
    for (int s = 0; s < STEPS && status == OK; s++) status = loader_next(loader, &batch);
    cr_expect_eq(status, E_FORMAT);
    cr_expect(message_has("sa_3.jpg") && message_has("allows 0 of 8"), "%s", status_message());
    cr_expect_eq(loader_next(loader, &batch), E_FORMAT, "the same again");
    loader_destroy(loader);
    source_close(source);
}
