/* Tar shards read in place: archives of every tar format, their indexes, damage; and archives
 * packed here, read by tar. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/loader.h"
#include "data/tar_index.h"
#include "data/tar_write.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

static bool message_has(const char *part) { return strstr(status_message(), part) != NULL; }

static void write_text(const char *path, const char *text)
{
    must(file_replace(&file_ops_system, path, text, strlen(text)));
}

/* ---- archives made by tar ---- */

static const char long_folder[] =
    "a_folder_with_a_name_so_long_that_no_header_of_a_hundred_characters_can_hold_it/"
    "and_another_one_below_it_so_that_the_prefix_of_ustar_is_not_enough_for_the_two_together_"
    "either";

/* Files of known content under `folder`/in, as NAMES: sa_7, a photo, and one below long names. */
static void make_files(const char *folder, bool long_names)
{
    char path[900];
    static const char *const names[] = {"sa_7", "photo one"};
    snprintf(path, sizeof path, "%s/in/%s", folder, long_folder);
    must(file_make_folders(path));
    for (int i = 0; i < 3; i++) {
        if (i == 2 && !long_names) continue;
        const char *name = i < 2 ? names[i] : "sa_9";
        snprintf(path, sizeof path, "%s/in/%s%s%s.jpg", folder, i < 2 ? "" : long_folder,
                 i < 2 ? "" : "/", name);
        char text[64];
        snprintf(text, sizeof text, "image of %s", name);
        write_text(path, text);
        strcpy(path + strlen(path) - 3, "json");
        snprintf(text, sizeof text, "masks of %s", name);
        write_text(path, text);
    }
    snprintf(path, sizeof path, "%s/in/readme.txt", folder);
    write_text(path, "no sample");
}

static void expect_content(const char *shard, uint32_t block, const char *wanted)
{
    Buffer buffer = {0};
    char name[TAR_NAME_BYTES];
    const void *bytes;
    size_t n_bytes;
    cr_assert_neq(block, TAR_NO_BLOCK, "%s has no %s", shard, wanted);
    must(tar_read_member(shard, block, 1000, &buffer, name, &bytes, &n_bytes));
    cr_expect(n_bytes == strlen(wanted) && memcmp(bytes, wanted, n_bytes) == 0, "%s: %.*s", shard,
              (int)n_bytes, (const char *)bytes);
    buffer_free(&buffer);
}

static const TarRecord *find_id(const TarIndex *index, uint64_t id)
{
    for (int64_t i = 0; i < index->n_records; i++)
        if (index->records[i].id == id) return &index->records[i];
    return NULL;
}

Test(tar, archives_of_every_format_are_read_by_offset)
{
    static const char *const formats[] = {"v7", "ustar", "oldgnu", "gnu", "posix"};
    char folder[256], shard[300];
    test_folder("tar_formats", folder, sizeof folder);
    make_files(folder, true);
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        bool long_names = f >= 2;
        TarIndex index;
        snprintf(shard, sizeof shard, "%s/%s.tar", folder, formats[f]);
        shell("tar --format=%s -C %s/in %s -cf %s .", formats[f], folder,
              long_names ? "" : "--exclude='a_*'", shard);
        must(tar_index_build(shard, &index));
        cr_assert_eq(index.n_records, long_names ? 3 : 2, "%s", formats[f]);
        cr_expect_eq(index.n_without_masks, 0);
        const TarRecord *seven = find_id(&index, 7),
                        *photo = find_id(&index, root_sample_id("photo one.jpg")),
                        *nine = find_id(&index, 9);
        cr_assert(seven && photo && !nine == !long_names, "%s", formats[f]);
        expect_content(shard, seven->image_block, "image of sa_7");
        expect_content(shard, seven->mask_block, "masks of sa_7");
        expect_content(shard, photo->image_block, "image of photo one");
        expect_content(shard, photo->mask_block, "masks of photo one");
        if (nine) expect_content(shard, nine->image_block, "image of sa_9");
        if (nine) expect_content(shard, nine->mask_block, "masks of sa_9");
        tar_index_free(&index);
    }
}

Test(tar, what_cannot_be_read_by_offset_is_refused)
{
    char folder[256], shard[300];
    TarIndex index;
    test_folder("tar_refused", folder, sizeof folder);
    make_files(folder, false);
    snprintf(shard, sizeof shard, "%s/x.tar", folder);
    cr_expect_eq(tar_index_build(shard, &index), E_FILE);
    write_text(shard, "no archive at all, but a text of some length");
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT);
    shell("tar -C %s/in -czf %s sa_7.jpg", folder, shard);
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT, "compressed");
    shell("truncate -s 1M %s/in/sa_8.jpg; tar -C %s/in --sparse -cf %s sa_8.jpg", folder, folder,
          shard);
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT, "sparse");
    cr_expect(message_has("sa_8.jpg cannot be read by offset"), "%s", status_message());
    shell("tar -C %s/in -cf %s sa_8.jpg; truncate -s 9000 %s", folder, shard, shard);
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT, "cut off");
    shell("mkdir %s/in/b; echo x >%s/in/b/sa_7.jpg; tar -C %s/in -cf %s sa_7.jpg b/sa_7.jpg",
          folder, folder, folder, shard);
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT, "twins");
    cr_expect(message_has("the id 7"), "%s", status_message());
    shell("ln %s/in/sa_7.jpg %s/in/sa_6.jpg; tar -C %s/in -cf %s sa_6.jpg sa_7.jpg", folder, folder,
          folder, shard);
    cr_expect_eq(tar_index_build(shard, &index), E_FORMAT, "hard link");
    cr_expect(message_has("a link"), "%s", status_message());
}

/* ---- index files ---- */

static void damage(const char *path, size_t at)
{
    FILE *file = fopen(path, "r+b");
    fseek(file, (long)at, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, (long)at, SEEK_SET);
    fputc(byte ^ 1, file);
    fclose(file);
}

Test(tar, an_index_is_of_one_state_of_one_shard)
{
    char folder[256], shard[300], path[300];
    TarIndex built, opened;
    TarShard info;
    test_folder("tar_index", folder, sizeof folder);
    make_files(folder, false);
    snprintf(shard, sizeof shard, "%s/x.tar", folder);
    snprintf(path, sizeof path, "%s/x.index", folder);
    shell("tar -C %s/in -cf %s 'photo one.jpg' sa_7.jpg sa_7.json", folder, shard);
    must(tar_shard_stat(shard, &info));
    must(tar_index_build(shard, &built));
    must(tar_index_write(&file_ops_system, path, &info, &built));
    must(tar_index_open(path, &info, &opened));
    cr_assert_eq(opened.n_records, 2);
    cr_expect_arr_eq(opened.records, built.records, 2 * sizeof *built.records);
    cr_expect_eq(opened.n_without_masks, 1);
    cr_expect_eq(opened.min_id, 7);
    cr_expect_eq(opened.records[1].id, 7, "in the order of the archive");
    cr_expect_eq(opened.records[0].mask_block, TAR_NO_BLOCK);
    size_t n_bytes = opened.mapped_bytes;
    tar_index_free(&opened);
    for (size_t at = 0; at < n_bytes; at++) {
        damage(path, at);
        cr_expect_eq(tar_index_open(path, &info, &opened), E_FORMAT, "byte %zu", at);
        damage(path, at);
    }
    must(tar_index_open(path, &info, &opened));
    tar_index_free(&opened);
    info.changed_ns++;
    cr_expect_eq(tar_index_open(path, &info, &opened), E_FORMAT);
    cr_expect(message_has("another state"), "%s", status_message());
    for (off_t n = 0; n < (off_t)n_bytes; n++) {
        cr_assert_eq(truncate(path, (off_t)n_bytes - 1 - n), 0);
        cr_expect_eq(tar_index_open(path, &info, &opened), E_FORMAT);
    }
    tar_index_free(&built);
}

/* ---- roots ---- */

/* Two shards of the scenes of a folder; even numbers in the first. */
static void make_shards(const char *folder, int n_images)
{
    char scenes[300];
    snprintf(scenes, sizeof scenes, "%s/scenes", folder);
    must(file_make_folders(scenes));
    make_scenes(scenes, n_images, 5);
    shell("mkdir %s/shards; cd %s/scenes; tar -cf ../shards/sa_000000.tar ./sa_[24].*; "
          "tar -cf ../shards/sa_000001.tar ./sa_[135].*",
          folder, folder);
}

static void expect_same_masks(const Annotations *a, const Annotations *b)
{
    cr_assert_eq(a->n_items, b->n_items);
    for (int64_t i = 0; i < a->n_items; i++) {
        cr_assert_eq(a->items[i].mask.n, b->items[i].mask.n);
        cr_expect_arr_eq(a->items[i].mask.counts, b->items[i].mask.counts,
                         (size_t)a->items[i].mask.n * sizeof(uint32_t));
    }
}

Test(tar, shards_hold_the_samples_of_the_folder)
{
    char folder[256], scenes[300], shards[300], index[300];
    const char *roots = shards;
    Source *loose, *packed;
    RootReader reader = {0}, other = {0};
    Annotations a = {0}, b = {0};
    test_folder("tar_root", folder, sizeof folder);
    make_shards(folder, 5);
    snprintf(scenes, sizeof scenes, "%s/scenes", folder);
    snprintf(shards, sizeof shards, "%s/shards", folder);
    snprintf(index, sizeof index, "%s/index", folder);
    must(open_source(scenes, true, &loose));
    SourceConfig config = {.roots = &roots, .n_roots = 1, .masks = true, .index_folder = index};
    for (int opened = 0; opened < 3; opened++) { /* built, read again, damaged and built again */
        if (opened == 2) shell("for f in %s/*.index; do truncate -s 50 $f; done", index);
        must(source_open(&config, &packed));
        cr_assert_eq(source_size(packed), 5);
        for (int64_t i = 0; i < 5; i++) {
            int64_t j = 0;
            uint64_t id = source_sample_id(packed, i);
            while (source_sample_id(loose, j) != id) cr_assert_lt(++j, 5);
            must(source_read_image(packed, i, &reader));
            must(source_read_image(loose, j, &other));
            cr_assert_eq(reader.n_bytes, other.n_bytes);
            cr_expect_arr_eq(reader.bytes, other.bytes, reader.n_bytes);
            must(source_read_masks(packed, i, &reader, &a));
            must(source_read_masks(loose, j, &other, &b));
            expect_same_masks(&a, &b);
        }
        cr_expect(strstr(reader.name, "sa_000001.tar: ./sa_5.json"), "%s", reader.name);
        source_close(packed);
    }
    source_close(loose);
    annotations_free(&a);
    annotations_free(&b);
    root_reader_free(&reader);
    root_reader_free(&other);
}

Test(tar, a_shard_that_changes_under_a_run_is_noticed)
{
    char folder[256], shards[300];
    Source *source;
    RootReader reader = {0};
    test_folder("tar_changes", folder, sizeof folder);
    make_shards(folder, 5);
    snprintf(shards, sizeof shards, "%s/shards", folder);
    must(open_source(shards, true, &source));
    shell("cd %s/scenes; echo text >notes; tar -cf ../shards/sa_000001.tar notes ./sa_[135].*",
          folder);
    int n_failed = 0;
    for (int64_t i = 2; i < 5; i++) {
        Status status = source_read_image(source, i, &reader);
        n_failed += status == E_FORMAT;
        if (status == E_FORMAT)
            cr_expect(message_has("not the one that was indexed"), "%s", status_message());
    }
    cr_expect_gt(n_failed, 0);
    source_close(source);
    root_reader_free(&reader);
}

Test(tar, roots_that_make_no_sense_are_refused)
{
    char folder[256], path[300];
    Source *source;
    test_folder("tar_wrong", folder, sizeof folder);
    make_shards(folder, 5);
    cr_expect_eq(open_source(folder, false, &source), E_CONFIG);
    cr_expect(message_has("tar shards") && message_has("loose JPEGs"), "%s", status_message());
    shell("cd %s/scenes; tar -cf ../shards/sa_000002.tar sa_1.jpg sa_1.json", folder);
    snprintf(path, sizeof path, "%s/shards", folder);
    cr_expect_eq(open_source(path, false, &source), E_CONFIG);
    cr_expect(message_has("same sample id 1"), "%s", status_message());
    shell("cd %s/scenes; tar -cf ../shards/sa_000002.tar sa_2.json; mv sa_1.jpg sa_11.jpg;"
          "tar -cf ../shards/sa_000003.tar sa_11.jpg",
          folder);
    must(open_source(path, false, &source));
    cr_expect_eq(source_size(source), 6);
    source_close(source);
    cr_expect_eq(open_source(path, true, &source), E_FILE);
    cr_expect(message_has("1 of 1 images have no json"), "%s", status_message());
    snprintf(path, sizeof path, "%s/shards/sa_000002.tar", folder);
    cr_expect_eq(open_source(path, false, &source), E_CONFIG);
    cr_expect(message_has("no image in the archive"), "%s", status_message());
}

Test(tar, runs_read_shards_and_keep_their_index)
{
    char folder[256];
    test_folder("tar_run", folder, sizeof folder);
    make_shards(folder, 5);
    program_succeed(TINY_FINETUNE " --data.root=%s/shards --run.dir=%s/run --train.steps=2", folder,
                    folder);
    shell("test $(ls %s/run/index/*.index | wc -l) = 2", folder);
    program_succeed(TINY_TEACH " --data.root=%s/shards --out=%s/embeddings", folder, folder);
    shell("test $(ls %s/embeddings/index/*.index | wc -l) = 2", folder);
}

/* ---- archives made here ---- */

Test(tar, archives_made_here_are_read_by_tar)
{
    char folder[256], path[300], long_name[TAR_NAME_BYTES];
    TarWriter *tar;
    test_folder("tar_write", folder, sizeof folder);
    snprintf(path, sizeof path, "%s/made.tar", folder);
    must(tar_open(&file_ops_system, path, &tar));
    memset(long_name, 'n', 96);
    strcpy(long_name + 96, ".jpg");
    must(tar_add(tar, "sa_1.jpg", "image", 5));
    must(tar_add(tar, "sa_1.json", "masks of the image", 18));
    must(tar_add(tar, long_name, "long", 4));
    must(tar_commit(tar));
    shell("cd %s; mkdir out; tar -C out -xf made.tar; printf image | cmp - out/sa_1.jpg && "
          "printf 'masks of the image' | cmp - out/sa_1.json && printf long | cmp - out/%s && "
          "test $(tar -tf made.tar | wc -l) = 3",
          folder, long_name);
}
