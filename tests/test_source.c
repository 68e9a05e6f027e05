/* Sources: roots of every kind, mixed with weights, filtered; and whole commands on COCO files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/loader.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

#define MINI "data/coco/mini/"
static const char mini_json[] = MINI "annotations/instances_val2017.json";

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

static bool message_has(const char *part) { return strstr(status_message(), part) != NULL; }

/* ---- COCO ---- */

/* The root text of the sample set's validation images. */
static void coco_root(char *root, size_t bytes)
{
    char images[256], file[256];
    shared_path(MINI "val2017", images, sizeof images);
    shared_path(mini_json, file, sizeof file);
    snprintf(root, bytes, "%s@%s", images, file);
}

Test(source, coco_files_give_images_and_masks)
{
    char root[600], path[256], name[ROOT_NAME_BYTES];
    const char *roots = root;
    RootReader reader = {0};
    Annotations all = {0}, kept = {0};
    Source *source, *filtered;
    SKIP_WITHOUT(mini_json, path);
    coco_root(root, sizeof root);
    must(open_source(root, true, &source));
    SourceConfig config = {
        .roots = &roots, .n_roots = 1, .masks = true, .filter = {.no_crowds = true}};
    must(source_open(&config, &filtered));
    cr_expect(source_size(source) > 70 && source_size(source) <= 79);
    cr_expect_eq(source_size(filtered), source_size(source));
    int64_t n_masks = 0, n_crowds = 0;
    for (int64_t i = 0; i < source_size(source); i++) {
        source_image_name(source, i, name);
        cr_expect_eq(source_sample_id(source, i), rng_name_hash(strrchr(name, '/') + 1));
        must(source_read_masks(source, i, &reader, &all));
        must(source_read_masks(filtered, i, &reader, &kept));
        n_masks += all.n_items;
        n_crowds += all.n_items - kept.n_items;
        for (int64_t m = 0; m < kept.n_items; m++) cr_expect(!kept.items[m].crowd);
    }
    cr_expect_eq(n_masks, 624);
    cr_expect_eq(n_crowds, 5);
    annotations_free(&all);
    annotations_free(&kept);
    root_reader_free(&reader);
    source_close(filtered);
    source_close(source);
}

Test(source, coco_images_have_the_ids_they_have_as_a_folder)
{
    char root[600], images[256], path[256];
    Source *file, *folder;
    SKIP_WITHOUT(mini_json, path);
    coco_root(root, sizeof root);
    shared_path(MINI "val2017", images, sizeof images);
    must(open_source(root, false, &file));
    must(open_source(images, false, &folder));
    cr_assert_eq(source_size(file), source_size(folder));
    for (int64_t i = 0; i < source_size(file); i++) {
        int n = 0;
        for (int64_t j = 0; j < source_size(folder); j++)
            n += source_sample_id(file, i) == source_sample_id(folder, j);
        cr_expect_eq(n, 1);
    }
    source_close(folder);
    source_close(file);
}

Test(source, finetune_and_eval_take_coco_files)
{
    char root[600], path[256], run[256];
    SKIP_WITHOUT(mini_json, path);
    coco_root(root, sizeof root);
    test_folder("source_coco", run, sizeof run);
    program_succeed(TINY_FINETUNE " --data.root=%s --run.dir=%s/run --train.steps=2", root, run);
    const ProgramResult *result = program_succeed(
        "eval %s/run/config.yaml --weights=%s/run/model.safetensors --data.root=%s "
        "--prompts=box --limit=2 --run.threads=1",
        run, run, root);
    cr_expect(strstr(result->out, "2 images"), "%s", result->out);
}

/* ---- mixes ---- */

/* A folder of `n` files that are named like JPEGs, numbered from `first`; nobody decodes them. */
static void make_names(const char *name, int first, int n, char folder[256])
{
    char path[300];
    test_folder(name, folder, 256);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/sa_%d.jpg", folder, first + i);
        must(file_replace(&file_ops_system, path, "x", 1));
    }
}

Test(source, weights_say_how_often_an_epoch_takes_a_sample)
{
    enum { FEW = 3, MANY = 10, EPOCHS = 4, EPOCH = 2 * FEW + MANY / 2 };
    char few[256], many[256], first[300], second[300];
    const char *roots[] = {first, second};
    int uses[FEW + MANY] = {0};
    unsigned passes[FEW + MANY] = {0};
    Source *source;
    make_names("source_few", 1, FEW, few);
    make_names("source_many", 100, MANY, many);
    snprintf(first, sizeof first, "%s=2", few);
    snprintf(second, sizeof second, "%s=0.5", many);
    must(source_open(&(SourceConfig){.roots = roots, .n_roots = 2}, &source));
    cr_assert_eq(source_size(source), FEW + MANY);
    cr_assert_eq(source_epoch_size(source), EPOCH);
    for (uint64_t position = 0; position < EPOCHS * EPOCH; position++) {
        SourcePlace place = source_at(source, 3, position);
        cr_assert(place.index >= 0 && place.index < FEW + MANY);
        cr_expect(place.epoch < 8 && !(passes[place.index] >> place.epoch & 1), "the key is used");
        passes[place.index] |= 1u << place.epoch;
        uses[place.index]++;
        if ((position + 1) % EPOCH == 0)
            for (int i = 0; i < FEW; i++)
                cr_expect_eq(uses[i], 2 * (int)((position + 1) / EPOCH), "sample %d", i);
    }
    for (int i = FEW; i < FEW + MANY; i++) cr_expect_eq(uses[i], EPOCHS / 2, "sample %d", i);
    source_close(source);
}

Test(source, wrong_roots_are_refused)
{
    char folder[256], text[600];
    const char *roots[2] = {text, text};
    Source *source;
    make_names("source_wrong", 1, 2, folder);
    snprintf(text, sizeof text, "%s=0", folder);
    cr_expect_eq(open_source(text, false, &source), E_CONFIG);
    cr_expect(message_has("weight of more than 0"), "%s", status_message());
    snprintf(text, sizeof text, "%s=much", folder);
    cr_expect_eq(open_source(text, false, &source), E_CONFIG);
    snprintf(text, sizeof text, "%s", folder);
    cr_expect_eq(source_open(&(SourceConfig){.roots = roots, .n_roots = 2}, &source), E_CONFIG);
    cr_expect(message_has("same sample id 1"), "%s", status_message());
    snprintf(text, sizeof text, "%s@%s/none.json", folder, folder);
    cr_expect_eq(open_source(text, false, &source), E_FILE);
}

/* ---- folders ---- */

Test(source, masks_may_lie_in_a_folder_of_their_own)
{
    char folder[256], path[400], target[400], name[ROOT_NAME_BYTES];
    Source *source;
    RootReader reader = {0};
    Annotations annotations = {0};
    test_folder("source_apart", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/images", folder);
    mkdir(path, 0755);
    make_scenes(path, 2, 3);
    cr_expect_eq(open_source(folder, true, &source), OK, "beside the images: %s", status_message());
    source_close(source);
    snprintf(path, sizeof path, "%s/masks", folder);
    mkdir(path, 0755);
    for (int i = 1; i <= 2; i++) {
        snprintf(path, sizeof path, "%s/images/sa_%d.json", folder, i);
        snprintf(target, sizeof target, "%s/masks/sa_%d.json", folder, i);
        cr_assert_eq(rename(path, target), 0);
    }
    must(open_source(folder, true, &source));
    cr_assert_eq(source_size(source), 2);
    must(source_read_masks(source, 1, &reader, &annotations));
    cr_expect_eq(annotations.n_items, 2);
    source_image_name(source, 1, name);
    cr_expect(strstr(name, "images/sa_2.jpg"), "%s", name);
    source_close(source);
    remove(target);
    cr_expect_eq(open_source(folder, true, &source), E_FILE);
    cr_expect(message_has("masks/sa_2.json"), "%s", status_message());
    annotations_free(&annotations);
    root_reader_free(&reader);
}

/* ---- which samples ---- */

static void write_list(const char *folder, const char *name, const char *text)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(file_replace(&file_ops_system, path, text, strlen(text)));
}

/* Opens what `config` says and compares the ids of its samples, in order. */
static void expect_ids(const SourceConfig *config, int64_t n, const uint64_t *wanted)
{
    Source *source;
    cr_assert_eq(source_open(config, &source), OK, "%s", status_message());
    cr_assert_eq(source_size(source), n);
    for (int64_t i = 0; i < n; i++)
        cr_expect_eq(source_sample_id(source, i), wanted[i], "sample %lld", (long long)i);
    source_close(source);
}

static void expect_no_source(const SourceConfig *config, const char *part)
{
    Source *source;
    cr_expect_eq(source_open(config, &source), E_CONFIG, "%s", part);
    cr_expect(message_has(part), "%s", status_message());
}

Test(source, a_list_of_ids_is_the_data_set)
{
    char folder[256], list[300];
    test_folder("source_ids", folder, sizeof folder);
    make_scenes(folder, 5, 1);
    snprintf(list, sizeof list, "%s/list", folder);
    const char *roots[] = {folder};
    SourceConfig config = {.roots = roots, .n_roots = 1, .masks = true, .ids = list};
    write_list(folder, "list", "4\n\nsa_2\r\nsa_5.jpg");
    expect_ids(&config, 3, (const uint64_t[]){4, 2, 5});
    config.split = SPLIT_TRAIN; /* of the list, in its order */
    config.train_ratio = 0.5;
    expect_ids(&config, 1, (const uint64_t[]){4});
    config.split = SPLIT_ALL;
    write_list(folder, "list", "1\n2\nsa_1\n");
    expect_no_source(&config, "holds the id 1 twice");
    write_list(folder, "list", "1\n77\nsa_88\n");
    expect_no_source(&config, "2 of its 3 ids are in no root, the first is 77");
    write_list(folder, "list", "\n");
    expect_no_source(&config, "holds no id");
}

Test(source, a_folder_may_bring_its_list)
{
    char folder[256], list[300];
    test_folder("source_own_ids", folder, sizeof folder);
    make_scenes(folder, 4, 1);
    snprintf(list, sizeof list, "%s/list", folder);
    const char *roots[] = {folder};
    SourceConfig config = {.roots = roots, .n_roots = 1, .masks = true};
    write_list(folder, "sa_images_ids.txt", "3\n1\n");
    expect_ids(&config, 2, (const uint64_t[]){3, 1});
    write_list(folder, "sa_images_ids.txt", "3\n9\n");
    expect_no_source(&config, "1 of its 2 ids are in no root, the first is 9");
    write_list(folder, "list", "2\n");
    config.ids = list; /* a list that is given stands in its place */
    expect_ids(&config, 1, (const uint64_t[]){2});
}

Test(source, a_split_is_the_begin_or_the_rest_of_each_root)
{
    char folder[256], roots_text[2][300];
    test_folder("source_split", folder, sizeof folder);
    for (int i = 0; i < 2; i++) {
        snprintf(roots_text[i], sizeof roots_text[i], "%s/%d", folder, i);
        mkdir(roots_text[i], 0755);
        make_scenes(roots_text[i], i == 0 ? 5 : 9, 1);
    }
    for (int i = 1; i <= 5; i++) { /* 6 .. 9 are left in the second */
        char path[400];
        snprintf(path, sizeof path, "%s/sa_%d.jpg", roots_text[1], i);
        cr_assert_eq(remove(path), 0);
    }
    const char *roots[] = {roots_text[0], roots_text[1]};
    SourceConfig config = {.roots = roots, .n_roots = 2, .masks = true, .train_ratio = 0.7};
    expect_ids(&config, 9, (const uint64_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9});
    config.split = SPLIT_TRAIN; /* int(0.7 * 5) and int(0.7 * 4) */
    expect_ids(&config, 5, (const uint64_t[]){1, 2, 3, 6, 7});
    config.split = SPLIT_VAL;
    expect_ids(&config, 4, (const uint64_t[]){4, 5, 8, 9});
    config.limit = 3;
    expect_ids(&config, 3, (const uint64_t[]){4, 5, 8});
    config.train_ratio = 1;
    expect_no_source(&config, "the split leaves no sample");
}

/* ---- filters ---- */

Test(filter, drops_by_size_score_and_kind)
{
    uint32_t tiny[] = {0, 1, 99}, half[] = {50, 50}, whole[] = {5, 95};
    Annotation items[] = {
        {.mask = {10, 10, 3, tiny}, .predicted_iou = 1, .stability = 1},
        {.mask = {10, 10, 2, half}, .predicted_iou = 0.8, .stability = 0.9},
        {.mask = {10, 10, 2, half}, .predicted_iou = 1, .stability = 1, .crowd = true},
        {.mask = {10, 10, 2, whole}, .predicted_iou = 0.9, .stability = 0.8},
    };
    static const struct {
        MaskFilter filter;
        const char *kept;
    } cases[] = {
        {{0}, "0123"},
        {{.max_area_fraction = 0.9}, "012"},
        {{.max_area_fraction = 0.95}, "0123"},
        {{.min_area_px = 2}, "123"},
        {{.min_predicted_iou = 0.85}, "023"},
        {{.min_stability = 0.85}, "012"},
        {{.no_crowds = true}, "013"},
        {{.min_area_px = 96}, ""},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Annotation copy[4];
        char kept[8] = "";
        memcpy(copy, items, sizeof copy);
        for (int i = 0; i < 4; i++) copy[i].bbox[0] = i;
        Annotations all = {.height = 10, .width = 10, .items = copy, .n_items = 4};
        annotations_filter(&cases[c].filter, &all);
        for (int64_t i = 0; i < all.n_items; i++) kept[i] = (char)('0' + (int)copy[i].bbox[0]);
        cr_expect_str_eq(kept, cases[c].kept, "case %zu: %s", c, kept);
    }
}
