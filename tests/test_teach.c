/* Teacher embeddings in files, and what a distillation leaves for fine-tuning. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

enum { N_IMAGES = 5, N_MASKS = 4, N_STEPS = 4 };

static const char *make_place(const char *name, char scenes[192])
{
    static char root[128];
    char folder[160];
    test_folder(name, root, sizeof root);
    snprintf(folder, sizeof folder, "%s/scenes", name);
    test_folder(folder, scenes, 192);
    make_scenes(scenes, N_IMAGES, N_MASKS);
    return root;
}

static void expect_refused(const ProgramResult *result, const char *part, const char *other_part)
{
    const char *message = program_error(result);
    cr_expect_eq(result->code, 1, "%s", message);
    cr_expect(strstr(message, part) && strstr(message, other_part), "got: %s\nwanted: %s .. %s",
              message, part, other_part);
}

/* The losses with the teacher beside the student, and from the cache. In f32 the cache is the
 * teacher, bit for bit. f16 keeps 11 bits of an embedding, bf16 8, int8 7 and a sign of the largest
 * of a channel: of a mean of squares over 32,768 values, with errors of either sign, less than
 * that is left. */
static void check_losses(const char *scenes, const char *root, double tolerance, const char *extra)
{
    double beside[N_STEPS], files[N_STEPS];
    char folder[2][200];
    snprintf(folder[0], sizeof folder[0], "%s/beside", root);
    snprintf(folder[1], sizeof folder[1], "%s/files", root);
    program_succeed(TINY_DISTILL " --data.root=%s --run.dir=%s --train.steps=%d %s", scenes,
                    folder[0], N_STEPS, extra);
    program_succeed(
        TINY_DISTILL
        " --data.root=%s --run.dir=%s --train.steps=%d %s --teacher.embeddings=%s/embeddings",
        scenes, folder[1], N_STEPS, extra, root);
    cr_assert_eq(log_column(folder[0], "loss", N_STEPS, beside), N_STEPS);
    cr_assert_eq(log_column(folder[1], "loss", N_STEPS, files), N_STEPS);
    for (int s = 0; s < N_STEPS; s++)
        cr_expect_leq(fabs(beside[s] - files[s]), tolerance * beside[s],
                      "step %d: %.9g beside, %.9g from files", s, beside[s], files[s]);
}

static void check_form(const char *name, const char *form, double tolerance)
{
    char scenes[192];
    const char *root = make_place(name, scenes);
    program_succeed(TINY_TEACH " --data.root=%s --out=%s/embeddings %s", scenes, root, form);
    check_losses(scenes, root, tolerance, "");
}

Test(teach, f32_is_the_teacher, .timeout = 300) { check_form("teach_f32", "--teach.dtype=f32", 0); }

Test(teach, f16_is_the_teacher_within_its_digits, .timeout = 300)
{
    check_form("teach_f16", "--teach.zstd_level=3", 1e-4);
}

Test(teach, bf16_is_the_teacher_within_its_digits, .timeout = 300)
{
    check_form("teach_bf16", "--teach.dtype=bf16", 1e-3);
}

Test(teach, int8_is_the_teacher_within_its_digits, .timeout = 300)
{
    check_form("teach_int8", "--teach.dtype=int8 --teach.zstd_level=1", 1e-3);
}

/* A large photo is decoded at a reduced scale in training; the embeddings must be of that image. */
Test(teach, files_are_the_teacher_on_a_large_photo, .timeout = 300)
{
    char data[256], unused[192];
    SKIP_WITHOUT("data/sa1b/pairs", data);
    const char *root = make_place("teach_photo", unused);
    program_succeed(TINY_TEACH " --data.root=%s --out=%s/embeddings", data, root);
    check_losses(data, root, 1e-4, "--train.batch=1");
}

/* Of five images, three were done when it was killed in the fourth. */
Test(teach, a_killed_process_goes_on, .timeout = 300)
{
    char scenes[192], shard[300];
    struct stat info;
    const char *root = make_place("teach_again", scenes);
    const char *form = TINY_TEACH " --data.root=%s --out=%s/embeddings %s";
    snprintf(shard, sizeof shard, "%s/embeddings/embeddings_1of1_00000.shard", root);
    const char *err = program_succeed(form, scenes, root, "--data.limit=4")->err;
    cr_expect(strstr(err, "4 of 4 images are to be done; 0.131 MB each in f16"), "%s", err);
    cr_assert_eq(stat(shard, &info), 0);
    cr_assert_eq(truncate(shard, info.st_size - 4 * 16 - 32 - 1000), 0);
    err = program_succeed(form, scenes, root, "")->err;
    cr_expect(strstr(err, "2 of 5 images are to be done") && strstr(err, "half written"), "%s",
              err);
    err = program_succeed(form, scenes, root, "")->err;
    cr_expect(strstr(err, "0 of 5 images are to be done") && !strstr(err, "are done,"), "%s", err);
    const ProgramResult *whole = program_succeed("teach --verify=%s/embeddings", root);
    cr_expect(strstr(whole->out, "5 images in 1 shards (0 not sealed)"), "%s", whole->out);
    check_losses(scenes, root, 1e-4, "");
}

/* Left out of the cache, it is replaced by the same sample as with the teacher beside. */
Test(teach, a_broken_image_is_left_out_and_replaced_alike, .timeout = 300)
{
    char scenes[192];
    const char *root = make_place("teach_broken", scenes);
    const char *form = TINY_TEACH " --data.root=%s --out=%s/embeddings --teach.dtype=f32 %s";
    const char *distill = TINY_DISTILL " --data.root=%s --teacher.embeddings=%s/embeddings "
                                       "--train.steps=1 --run.dir=%s/run%d %s";
    shell("cd %s; cp sa_2.jpg ../whole.jpg; truncate -s 1000 sa_2.jpg", scenes);
    expect_refused(program_run(form, scenes, root, ""), "sa_2.jpg: damaged",
                   "data.max_bad_fraction = 0.001 allows 0 of 5");
    const char *err = program_succeed(form, scenes, root, "--data.max_bad_fraction=0.2")->err;
    cr_expect(strstr(err, "left out: ") && strstr(err, "sa_2.jpg: damaged") &&
                  strstr(err, "1 broken ones were left out"),
              "%s", err);
    const char *out = program_succeed("teach --verify=%s/embeddings", root)->out;
    cr_expect(strstr(out, "4 images in 1 shards (0 not sealed)"), "%s", out);
    check_losses(scenes, root, 0, "--data.max_bad_fraction=1");
    expect_refused(program_run(distill, scenes, root, root, 1, ""), "no embedding of 1 of 5 images",
                   "sa_2.jpg");
    shell("cp %s/whole.jpg %s/sa_2.jpg", root, scenes); /* a whole image must not be left out */
    expect_refused(program_run(distill, scenes, root, root, 2, "--data.max_bad_fraction=0.2"),
                   "no embedding of 1 of 5 images", "sa_2.jpg");
    program_succeed(form, scenes, root, "");
    program_succeed(distill, scenes, root, root, 3, "");
}

Test(teach, processes_share_the_images, .timeout = 300)
{
    char scenes[192];
    const char *root = make_place("teach_parts", scenes);
    const char *form = TINY_TEACH " --data.root=%s --out=%s/embeddings --teach.shard_size=100kB %s";
    const char *err = program_succeed(form, scenes, root, "--part=2/2")->err;
    cr_expect(strstr(err, "3 of 3 images are to be done"), "%s", err);
    expect_refused(program_run(TINY_DISTILL " --data.root=%s --teacher.embeddings=%s/embeddings "
                                            "--train.steps=2 --run.dir=%s/early",
                               scenes, root, root),
                   "no embedding of 2 of 5 images", "sa_1.jpg");
    program_succeed(form, scenes, root, "--part=1/2");
    err = program_succeed(form, scenes, root, "")->err;
    cr_expect(strstr(err, "0 of 5 images are to be done"), "%s", err);
    const char *out = program_succeed("teach --verify=%s/embeddings", root)->out;
    cr_expect(strstr(out, "5 images in 5 shards"), "%s", out);
    out = program_succeed("teach --merge=%s/embeddings --out=%s/few", root, root)->out;
    cr_expect(strstr(out, "5 images from"), "%s", out);
    out = program_succeed("teach --merge=%s/embeddings --out=%s/few", root, root)->out;
    cr_expect(strstr(out, "0 images from"), "%s", out);
    out = program_succeed("teach --verify=%s/few", root)->out;
    cr_expect(strstr(out, "5 images in 1 shards (0 not sealed)"), "%s", out);
    program_succeed("teach --merge=%s/few --out=%s/embeddings", root, root);
    check_losses(scenes, root, 1e-4, "");
    expect_refused(program_run(form, scenes, root, "--part=3/2"), "--part=3/2", "1/4");
}

Test(teach, embeddings_of_something_else_are_refused, .timeout = 300)
{
    char scenes[192];
    const char *root = make_place("teach_other", scenes);
    const char *teach = TINY_TEACH " --data.root=%s --out=%s/embeddings %s";
    program_succeed(teach, scenes, root, "--data.flip=0 --data.limit=3");
    expect_refused(program_run(teach, scenes, root, "--data.flip=0 --data.limit=3 --seed=7"),
                   "embeddings", "of another teacher");
    expect_refused(program_run(teach, scenes, root, "--data.flip=0 --data.decode_margin=0"),
                   "embeddings", "data.decode_margin=1");
    expect_refused(program_run(teach, scenes, root, ""), "embeddings", "1 of the two flips");
    expect_refused(program_run(teach, scenes, root, "--data.flip=0 --teach.dtype=bf16"),
                   "embeddings", "f16, plain, wanted bf16, plain");

    const char *distill = TINY_DISTILL
        " --data.root=%s --teacher.embeddings=%s/embeddings --train.steps=2 %s --run.dir=%s/run%d";
    expect_refused(
        program_run(distill, scenes, root, "--data.flip=0 --data.limit=3 --seed=7", root, 1),
        "of another teacher", "random seed 0");
    expect_refused(program_run(distill, scenes, root, "--data.limit=3", root, 2),
                   "only unflipped views", "data.flip=0");
    expect_refused(program_run(distill, scenes, root, "--data.flip=0", root, 3),
                   "no embedding of 2 of 5 images", "sa_4.jpg");
    expect_refused(program_run(distill, scenes, root,
                               "--data.flip=0 --teacher.embeddings=build/tmp/nowhere", root, 4),
                   "build/tmp/nowhere", "No such file");
    expect_refused(program_run(distill, scenes, root,
                               "--data.flip=0 --data.limit=3 --data.decode_margin=2", root, 5),
                   "data.decode_margin=1", "wanted 'data.decode_margin=2");
}

/* A teacher that differs in one number of its description, in a file of its own. */
static void write_other_size(const char *path)
{
    char *text = file_text(TINY_TEACHER);
    FILE *file = fopen(path, "w");
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
        if (strncmp(line, "image_size:", 11) == 0)
            fputs("image_size: 256\n", file);
        else if (strstr(line, "patch:"))
            fputs("  patch: 16\n", file);
        else
            fprintf(file, "%s\n", line);
    fclose(file);
    free(text);
}

Test(teach, another_size_is_refused, .timeout = 300)
{
    char scenes[192], other[300];
    const char *root = make_place("teach_size", scenes);
    snprintf(other, sizeof other, "%s/teacher_256.yaml", root);
    write_other_size(other);
    program_succeed(TINY_TEACH " --teacher.model=%s --data.root=%s --out=%s/embeddings", other,
                    scenes, root);
    expect_refused(program_run(TINY_DISTILL
                               " --data.root=%s --teacher.embeddings=%s/embeddings --train.steps=2 "
                               "--run.dir=%s/run",
                               scenes, root, root),
                   "made at 256 px", "wanted 128");
}

/* ---- what distillation leaves ---- */

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The teacher as weights: the end of a fine-tuning of length 1 with a learning rate of 0 from the
 * seed that "random" stands for. */
static void write_teacher(const char *scenes, const char *root)
{
    program_succeed("finetune --model=" TINY_TEACHER
                    " --seed=1 --optim.lr=0 --train.steps=1 --train.batch=1 "
                    "--data.masks_per_image=1 --run.threads=1 --data.root=%s --run.dir=%s/teacher",
                    scenes, root);
}

static void check_result(const char *path, const char *teacher_path)
{
    SafeTensors *result, *teacher;
    cr_assert_eq(safetensors_open(path, &result), OK, "%s", status_message());
    cr_assert_eq(safetensors_open(teacher_path, &teacher), OK, "%s", status_message());
    int n_adopted = 0;
    for (int i = 0; i < result->n_tensors; i++) {
        const char *name = result->tensors[i].name;
        cr_expect(!starts_with(name, "exp_avg") && !starts_with(name, "step.") &&
                      !starts_with(name, "ema."),
                  "%s", name);
        if (!starts_with(name, "prompt_encoder.") && !starts_with(name, "mask_decoder.")) continue;
        const Tensor *mine = &result->tensors[i].tensor, *wanted = safetensors_find(teacher, name);
        cr_assert_not_null(wanted, "the teacher has no %s", name);
        cr_expect(shape_equal(mine->shape, wanted->shape) &&
                      memcmp(mine->data, wanted->data, tensor_bytes(mine)) == 0,
                  "%s is not the teacher's", name);
        n_adopted++;
    }
    cr_expect_eq(n_adopted, 17 + 120, "%d tensors of prompt encoder and decoder", n_adopted);
    safetensors_close(result);
    safetensors_close(teacher);
}

/* Complete: fine-tuning takes it without init.allow. With embeddings in files, too. */
Test(teach, distillation_leaves_a_complete_sam, .timeout = 300)
{
    char scenes[192], teacher[200], result[200];
    const char *root = make_place("teach_result", scenes);
    write_teacher(scenes, root);
    snprintf(teacher, sizeof teacher, "%s/teacher/model.safetensors", root);
    program_succeed(TINY_TEACH " --teacher.weights=%s --data.root=%s --out=%s/embeddings", teacher,
                    scenes, root);
    for (int files = 0; files < 2; files++) {
        char from_files[300] = "";
        if (files)
            snprintf(from_files, sizeof from_files, "--teacher.embeddings=%s/embeddings", root);
        program_succeed(
            TINY_DISTILL
            " --teacher.weights=%s --data.root=%s --train.steps=2 --run.dir=%s/distill%d %s",
            teacher, scenes, root, files, from_files);
        snprintf(result, sizeof result, "%s/distill%d/model.safetensors", root, files);
        check_result(result, teacher);
        const ProgramResult *tuned = program_succeed(
            TINY_FINETUNE " --init.weights=%s --data.root=%s --train.steps=1 "
                          "--run.dir=%s/finetune%d",
            result, scenes, root, files);
        cr_expect(strstr(tuned->err, " 0 missing, 0 unexpected"), "%s", tuned->err);
    }
}
