/* `retort data pack`: shards that tar reads, of the same samples, the same bytes each time. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/pack.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* The samples of both sources have the same ids, images and masks, in the same order. */
static void expect_same_samples(const char *root_a, const char *root_b, bool same_json)
{
    Source *a, *b;
    RootReader reader = {0}, other = {0};
    Annotations masks = {0}, others = {0};
    SourceConfig config = {.n_roots = 1, .masks = true, .filter.no_crowds = true};
    config.filter.min_area_px = 1;
    config.roots = &root_a;
    must(source_open(&config, &a));
    config.roots = &root_b;
    must(source_open(&config, &b));
    cr_assert_eq(source_size(a), source_size(b));
    for (int64_t i = 0; i < source_size(a); i++) {
        cr_expect_eq(source_sample_id(a, i), source_sample_id(b, i), "sample %lld", (long long)i);
        must(source_read_image(a, i, &reader));
        must(source_read_image(b, i, &other));
        cr_assert_eq(reader.n_bytes, other.n_bytes);
        cr_expect_arr_eq(reader.bytes, other.bytes, reader.n_bytes);
        must(source_read_masks(a, i, &reader, &masks));
        must(source_read_masks(b, i, &other, &others));
        if (same_json) cr_expect_eq(reader.n_bytes, other.n_bytes);
        cr_assert_eq(masks.n_items, others.n_items, "sample %lld", (long long)i);
        for (int64_t m = 0; m < masks.n_items; m++) {
            const Rle *mask = &masks.items[m].mask, *twin = &others.items[m].mask;
            cr_assert(mask->n == twin->n && mask->height == twin->height);
            cr_expect_arr_eq(mask->counts, twin->counts, (size_t)mask->n * sizeof(uint32_t));
        }
    }
    annotations_free(&masks);
    annotations_free(&others);
    root_reader_free(&reader);
    root_reader_free(&other);
    source_close(a);
    source_close(b);
}

Test(data_pack, shards_are_read_by_tar_and_here)
{
    char folder[256], scenes[300], shards[300];
    test_folder("pack_scenes", folder, sizeof folder);
    snprintf(scenes, sizeof scenes, "%s/scenes", folder);
    snprintf(shards, sizeof shards, "%s/shards", folder);
    must(file_make_folders(scenes));
    make_scenes(scenes, 5, 4);
    program_succeed("data pack %s --out=%s --shard-images=2", scenes, shards);
    shell("cd %s; test \"$(ls shards | tr '\\n' ' ')\" = 'sa_000000.tar sa_000001.tar "
          "sa_000002.tar '",
          folder);
    shell("cd %s; mkdir out; for t in shards/*.tar; do tar -C out -xf $t; done; diff -r scenes out;"
          "test \"$(tar -tf shards/sa_000002.tar | tr '\\n' ' ')\" = 'sa_5.jpg sa_5.json '",
          folder);
    expect_same_samples(scenes, shards, true);
    program_succeed("data pack %s --out=%s_again --shard-images=2", scenes, shards);
    shell("diff -r %s %s_again", shards, shards);
    program_succeed("data pack %s --out=%s_of_shards --shard-images=2", shards, shards);
    shell("diff -r %s %s_of_shards", shards, shards);
    program_succeed("data check %s", shards);
}

Test(data_pack, takes_what_the_options_of_data_select)
{
    char folder[256], scenes[300];
    test_folder("pack_options", folder, sizeof folder);
    snprintf(scenes, sizeof scenes, "%s/scenes", folder);
    must(file_make_folders(scenes));
    make_scenes(scenes, 5, 4);
    shell("printf 'sa_4\\n2\\n' >%s/list; rm %s/sa_5.json", folder, scenes);
    program_succeed("data pack %s --out=%s/images --images-only", scenes, folder);
    shell("test $(tar -tf %s/images/sa_000000.tar | wc -l) = 5", folder);
    const ProgramResult *result = program_run("data pack %s --out=%s/all", scenes, folder);
    cr_expect(result->code == 1 && strstr(program_error(result), "sa_5.json"), "%s", result->err);
    shell("rm %s/sa_5.*", scenes);
    program_succeed("data pack %s --out=%s/listed --data.ids=%s/list", scenes, folder, folder);
    shell("test \"$(tar -tf %s/listed/sa_000000.tar | tr '\\n' ' ')\" = "
          "'sa_4.jpg sa_4.json sa_2.jpg sa_2.json '",
          folder);
    result = program_run("data pack %s --out=%s/none --data.min_mask_area=1000000", scenes, folder);
    cr_expect(result->code == 1 && strstr(program_error(result), "none of the masks of 4 images"),
              "%s", result->err);
    shell("test ! -e %s/none", folder);
}

/* ---- the folder appears when it is complete ---- */

typedef struct Trap {
    int n_renames, fail_at;
} Trap;

static int failing_rename(void *context, const char *from, const char *to)
{
    Trap *trap = context;
    if (++trap->n_renames == trap->fail_at) return -1;
    return file_ops_system.rename(file_ops_system.context, from, to);
}

Test(data_pack, a_folder_is_complete_or_not_there)
{
    char folder[256], scenes[300], shards[300];
    test_folder("pack_fails", folder, sizeof folder);
    snprintf(scenes, sizeof scenes, "%s/scenes", folder);
    snprintf(shards, sizeof shards, "%s/shards", folder);
    must(file_make_folders(scenes));
    make_scenes(scenes, 5, 2);
    Source *source;
    PackTotals totals;
    must(open_source(scenes, true, &source));
    for (int fail_at = 1; fail_at <= 4; fail_at++) { /* three shards, then the folder */
        Trap trap = {.fail_at = fail_at};
        FileOps ops = file_ops_system;
        ops.context = &trap;
        ops.rename = failing_rename;
        PackConfig config = {.ops = &ops, .folder = shards, .shard_images = 2};
        cr_expect_eq(pack_source(source, &config, &totals), E_FILE, "rename %d", fail_at);
        cr_expect_not(file_exists(shards), "rename %d", fail_at);
    }
    shell("touch %s.partial/sa_000099.tar %s.partial/sa_000099.tar.tmp", shards, shards);
    PackConfig config = {.ops = &file_ops_system, .folder = shards, .shard_images = 2};
    must(pack_source(source, &config, &totals));
    shell("test $(ls -A %s | wc -l) = 3", shards);
    expect_same_samples(scenes, shards, true);
    cr_expect_eq(pack_source(source, &config, &totals), E_CONFIG);
    cr_expect(strstr(status_message(), "is there already"), "%s", status_message());
    source_close(source);
}

Test(data_pack, coco_becomes_sa1b)
{
    char folder[256], path[256], data[256], root[900], shards[300];
    SKIP_WITHOUT("data/coco/mini", path);
    shared_path("data", data, sizeof data);
    test_folder("pack_coco", folder, sizeof folder);
    snprintf(shards, sizeof shards, "%s/shards", folder);
    snprintf(root, sizeof root,
             "%s/coco/mini/val2017@%s/coco/mini/annotations/instances_val2017.json", data, data);
    program_succeed("data pack %s --out=%s", root, shards);
    expect_same_samples(root, shards, false);
    const ProgramResult *result = program_succeed("data check %s", shards);
    cr_expect(strstr(result->out, "79 images, 79 of them with masks that can be read: 619 masks"),
              "%s", result->out);
}
