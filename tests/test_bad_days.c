/* What a user's bad day looks like: each ends in one line that says what is wrong and where, an
 * exit code that is not 0, and the checkpoint of before still there. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "tests/make_scenes.h"
#include "tests/program.h"
#include "tests/support.h"

enum { N_IMAGES = 4, N_MASKS = 4 };

static char root[128], scenes[192], run[192];

static void make_place(const char *name)
{
    char folder[160];
    test_folder(name, root, sizeof root);
    snprintf(run, sizeof run, "%s/run", root);
    snprintf(folder, sizeof folder, "%s/scenes", name);
    test_folder(folder, scenes, sizeof scenes);
    make_scenes(scenes, N_IMAGES, N_MASKS);
}

static const char *in(const char *folder, const char *name)
{
    static char path[4][500];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s", path);
}

/* The last line is the only complaint, and has all these parts. */
#define EXPECT_REFUSED(result, ...) expect_refused(result, (const char *[]){__VA_ARGS__, NULL})
static void expect_refused(const ProgramResult *result, const char *const *parts)
{
    const char *message = program_error(result);
    cr_expect_eq(result->code, 1, "exit code %d: %s", result->code, message);
    cr_expect_eq(strncmp(message, "retort ", 7), 0, "%s", message);
    for (; *parts; parts++)
        cr_expect(strstr(message, *parts), "got: %s\nwanted in it: %s", message, *parts);
}

static const ProgramResult *finetune(const char *more)
{
    return program_run(TINY_FINETUNE
                       " --data.root=%s --run.dir=%s --train.steps=2 --optim.schedule=constant %s",
                       scenes, run, more);
}

static void start_run(void)
{
    const ProgramResult *result = finetune("");
    cr_assert_eq(result->code, 0, "%s", result->err);
}

/* The state of step 2 is whole, `latest` names it, and the run goes on from it. */
static void expect_good_checkpoint(void)
{
    const ProgramResult *result = finetune("--run.resume=auto --train.steps=4");
    cr_expect_eq(result->code, 0, "%s", result->err);
    cr_expect(strstr(result->err, "step_000000002.safetensors at step 2"), "%s", result->err);
}

/* ---- data ---- */

Test(bad_days, data_that_is_not_there, .timeout = 120)
{
    make_place("bad_data");
    EXPECT_REFUSED(finetune("--data.root="), "data.root is not set");
    EXPECT_REFUSED(finetune("--data.root=build/tmp/nowhere"), "build/tmp/nowhere", "No such file");
    char empty[200];
    test_folder("bad_data/empty", empty, sizeof empty);
    EXPECT_REFUSED(finetune("--data.root=build/tmp/bad_data/empty"), "build/tmp/bad_data/empty",
                   "no sample");
    cr_expect_neq(access(run, F_OK), 0, "a run that never started left a folder");
}

/* Breaks one sample under a run of 2 steps, goes on with all of the epoch, and mends it again. */
static void check_broken_sample(const char *name, const char *ending, const char *content,
                                const char *part)
{
    make_place(name);
    start_run();
    char broken[2][400], file[64];
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "sa_%d.%s", i + 2, ending);
        snprintf(broken[i], sizeof broken[i], "%s", in(scenes, file));
    }
    if (content)
        for (int i = 0; i < 2; i++) write_text(broken[i], content);
    else
        for (int i = 0; i < 2; i++) cr_assert_eq(truncate(broken[i], 2000), 0);
    const ProgramResult *result = finetune("--run.resume=auto --train.steps=6");
    cr_expect(strstr(program_error(result), broken[0]) || strstr(program_error(result), broken[1]),
              "%s", program_error(result));
    EXPECT_REFUSED(result, part);
    make_scenes(scenes, N_IMAGES, N_MASKS);
    expect_good_checkpoint();
}

Test(bad_days, a_truncated_jpeg, .timeout = 120)
{
    check_broken_sample("bad_jpeg", "jpg", NULL, "damaged or unsupported JPEG");
}

Test(bad_days, json_without_annotations, .timeout = 120)
{
    check_broken_sample("bad_json", "json",
                        "{\"image\": {\"width\": 200, \"height\": 200}, \"annotations\": []}",
                        "no annotation");
}

Test(bad_days, runs_that_do_not_fill_the_mask, .timeout = 120)
{
    check_broken_sample("bad_runs", "json",
                        "{\"annotations\": [{\"bbox\": [0, 0, 2, 2], \"area\": 9, "
                        "\"segmentation\": {\"size\": [200, 180], "
                        "\"counts\": [100, 9, 35892]}}]}",
                        "annotation 0: the 3 runs sum to 36001 px");
}

/* ---- options and models ---- */

Test(bad_days, options, .timeout = 120)
{
    make_place("bad_options");
    EXPECT_REFUSED(finetune("--optim.learning_rate=1"), "command line", "optim.learning_rate",
                   "nearest known");
    EXPECT_REFUSED(finetune("--optim.lrr=1"), "unknown option 'optim.lrr'", "'optim.lr'");
    EXPECT_REFUSED(finetune("--optim.lr=11"), "optim.lr: 11", "wanted 0 to 10");
    EXPECT_REFUSED(finetune("--train.batch=3 --train.micro_batch=2"),
                   "train.micro_batch=2 must divide train.batch=3");
    EXPECT_REFUSED(finetune("--run.dir="), "run.dir is not given");
    const char *config = in(root, "config.yaml");
    write_text(config, "train:\n  batch: 2\n  batches: 3\n");
    EXPECT_REFUSED(finetune(config), config, "3", "train.batches", "'train.batch'");
    cr_expect_neq(access(run, F_OK), 0, "a run that never started left a folder");
}

Test(bad_days, a_student_that_does_not_fit_its_teacher, .timeout = 120)
{
    make_place("bad_student");
    EXPECT_REFUSED(program_run(TINY_DISTILL " --data.root=%s --run.dir=%s --train.steps=1 "
                                            "--teacher.model=configs/models/sam_vit_b.yaml",
                               scenes, run),
                   "sam_vit_b gives an embedding of 256x64x64",
                   "efficientvit_sam_tiny one of 128x16x16");
    cr_expect_neq(access(run, F_OK), 0, "a run that never started left a folder");
}

/* The reference computes in f32 only; on a processor without bf16 the other backend refuses it,
 * too. */
Test(bad_days, a_precision_that_the_backend_lacks, .timeout = 120)
{
    make_place("bad_precision");
    EXPECT_REFUSED(finetune("--run.backend=ref --run.precision=bf16"), "on ref", "bfloat16");
    start_run(); /* the folder is still free */
}

Test(bad_days, a_folder_that_holds_a_run, .timeout = 120)
{
    make_place("bad_folder");
    start_run();
    EXPECT_REFUSED(finetune(""), run, "holds a run", "--run.resume=auto");
    expect_good_checkpoint();
}

/* ---- files of tensors ---- */

typedef struct Weights {
    SafeTensors *file;
    int n;
    NamedTensor *tensors;
} Weights;

/* The weights that a run of two steps left, to be damaged. */
static Weights take_weights(void)
{
    start_run();
    Weights w = {0};
    cr_assert_eq(safetensors_open(in(run, "model.safetensors"), &w.file), OK, "%s",
                 status_message());
    w.n = w.file->n_tensors;
    w.tensors = mem_alloc((size_t)(w.n + 1) * sizeof *w.tensors);
    memcpy(w.tensors, w.file->tensors, (size_t)w.n * sizeof *w.tensors);
    return w;
}

static NamedTensor *tensor_named(const Weights *w, const char *name)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->tensors[i].name, name) == 0) return &w->tensors[i];
    cr_assert_fail("no %s", name);
    return NULL;
}

/* Fine-tunes from `n` of these tensors in a folder that is free. */
static const ProgramResult *start_from(const Weights *w, int n)
{
    char more[700];
    const char *path = in(root, "damaged.safetensors");
    cr_assert_eq(safetensors_write(path, n, w->tensors, 0, NULL), OK, "%s", status_message());
    snprintf(more, sizeof more, "--init.weights=%s --run.dir=%s", path, in(root, "other"));
    return finetune(more);
}

Test(bad_days, weights_that_do_not_fit, .timeout = 120)
{
    make_place("bad_weights");
    Weights w = take_weights();
    EXPECT_REFUSED(start_from(&w, w.n - 1), "damaged.safetensors", w.tensors[w.n - 1].name,
                   "is missing");

    float value = 1;
    w.tensors[w.n] = (NamedTensor){"mask_decoder.extra",
                                   {.dtype = DT_F32, .shape = SHAPE(1), .data = &value}};
    EXPECT_REFUSED(start_from(&w, w.n + 1), "damaged.safetensors",
                   "mask_decoder.extra is not part of the model");

    NamedTensor *one = tensor_named(&w, "mask_decoder.iou_token.weight"), before = *one;
    one->tensor.shape = SHAPE(128, 1);
    EXPECT_REFUSED(start_from(&w, w.n), "damaged.safetensors", "mask_decoder.iou_token.weight",
                   "got shape 128,1, wanted 1,128");
    *one = before;
    const ProgramResult *result = start_from(
        &w, w.n); /* the folder of the failed starts is still free */
    cr_expect_eq(result->code, 0, "%s", result->err);
}

/* A copy of a tensor with one element that is no number. */
static void poison(NamedTensor *tensor, float value)
{
    size_t n_bytes = tensor_bytes(&tensor->tensor);
    float *data = mem_alloc(n_bytes);
    memcpy(data, tensor->tensor.data, n_bytes);
    data[shape_elems(tensor->tensor.shape) / 2] = value;
    tensor->tensor.data = data;
}

Test(bad_days, numbers_that_are_none, .timeout = 120)
{
    make_place("bad_numbers");
    Weights w = take_weights();
    NamedTensor *conv = tensor_named(&w, "image_encoder.neck.input_ops.1.op_list.0.conv.weight"),
                before = *conv;
    poison(conv, NAN);
    const ProgramResult *result = start_from(&w, w.n);
    EXPECT_REFUSED(result, "step 0: loss ", "nan, gradient norm ",
                   "image_encoder.neck.input_ops.1.op_list.0", "conv2d", "sample ids", "no state");
    *conv = before;
    poison(tensor_named(&w, "mask_decoder.transformer.layers.0.mlp.lin1.weight"), INFINITY);
    result = start_from(&w, w.n);
    EXPECT_REFUSED(result, "step 0", "mask_decoder.transformer.layers.0.mlp.lin1", "sample ids");
}

/* The run comes to numbers that are none after it saved: nothing is updated, and the saved state is
 * named. */
Test(bad_days, a_run_that_diverges, .timeout = 120)
{
    make_place("bad_lr");
    start_run();
    EXPECT_REFUSED(finetune("--run.resume=auto --train.steps=10 '--optim.lr_scale=*=1e30'"),
                   "wrote NaN or infinity first", "sample ids", "the last state is of step 2");
    expect_good_checkpoint();
}

static void flip_bit(const char *path, off_t at)
{
    char byte;
    int file = open(path, O_RDWR);
    cr_assert(file >= 0 && pread(file, &byte, 1, at) == 1);
    byte ^= 4;
    cr_assert(pwrite(file, &byte, 1, at) == 1 && close(file) == 0);
}

Test(bad_days, a_damaged_state, .timeout = 120)
{
    make_place("bad_state");
    start_run();
    struct stat info;
    const char *path = in(run, "checkpoints/step_000000002.safetensors");
    cr_assert_eq(stat(path, &info), 0);
    flip_bit(path, info.st_size / 2);
    EXPECT_REFUSED(finetune("--run.resume=auto --train.steps=4"), "step_000000002.safetensors",
                   "is damaged");
    flip_bit(path, info.st_size / 2);
    cr_assert_eq(truncate(path, info.st_size - 1), 0);
    EXPECT_REFUSED(finetune("--run.resume=auto --train.steps=4"), "step_000000002.safetensors");
    EXPECT_REFUSED(finetune("--run.resume=build/tmp/nowhere.safetensors "
                            "--run.dir=build/tmp/bad_state/other"),
                   "build/tmp/nowhere.safetensors");
}

/* The state before it is taken, in so many words, and the run ends in the same bits; also if the
 * newest one is gone. With no whole state left, nothing is started. */
Test(bad_days, a_damaged_newest_state_among_others, .timeout = 120)
{
    make_place("bad_newest");
    char whole[200], why[512], newest[400];
    const char *more = "--run.save_every=1 --run.resume=auto --train.steps=4";
    snprintf(whole, sizeof whole, "%s/whole", root);
    snprintf(newest, sizeof newest, "%s", in(run, "checkpoints/step_000000002.safetensors"));
    program_succeed(TINY_FINETUNE " --data.root=%s --run.dir=%s --optim.schedule=constant "
                                  "--train.steps=4",
                    scenes, whole);
    finetune("--run.save_every=1");
    flip_bit(newest, 1000000);
    const ProgramResult *result = finetune(more);
    cr_expect_eq(result->code, 0, "%s", result->err);
    cr_expect(strstr(result->err, "is damaged") && strstr(result->err, "trying the state before") &&
                  strstr(result->err, "step_000000001.safetensors at step 1"),
              "%s", result->err);
    cr_expect(
        same_tensors(in(run, "model.safetensors"), in(whole, "model.safetensors"), why, sizeof why),
        "%s", why);
    cr_assert_eq(unlink(in(run, "checkpoints/step_000000004.safetensors")), 0);
    result = finetune(more);
    cr_expect_eq(result->code, 0, "%s", result->err);
    cr_expect(strstr(result->err, "latest names step_000000004.safetensors, which is not there") &&
                  strstr(result->err, "step_000000003.safetensors at step 3"),
              "%s", result->err);
    flip_bit(in(run, "checkpoints/step_000000003.safetensors"), 1000000);
    flip_bit(in(run, "checkpoints/step_000000004.safetensors"), 1000000);
    EXPECT_REFUSED(finetune(more), "none of its 2 states is whole", "step_000000004", "is damaged");
}

Test(bad_days, a_run_that_is_done, .timeout = 120)
{
    make_place("bad_done");
    start_run();
    cr_expect_eq(access(in(run, "DONE"), R_OK), 0);
    char *before = file_text(in(run, "log.jsonl"));
    const ProgramResult *result = finetune("--run.resume=auto");
    cr_expect_eq(result->code, 0, "%s", result->err);
    cr_expect(strstr(result->err, "all 2 steps are done"), "%s", result->err);
    char *after = file_text(in(run, "log.jsonl"));
    cr_expect_str_eq(after, before, "nothing was done again");
    free(before);
    free(after);
    EXPECT_REFUSED(finetune("--run.resume=auto --train.steps=1"), "did 2 steps", "is to have 1");
    /* killed between its last state and its result */
    cr_assert_eq(unlink(in(run, "DONE")), 0);
    cr_assert_eq(unlink(in(run, "model.safetensors")), 0);
    result = finetune("--run.resume=auto");
    cr_expect_eq(result->code, 0, "%s", result->err);
    cr_expect_eq(access(in(run, "DONE"), R_OK), 0);
    cr_expect_eq(access(in(run, "model.safetensors"), R_OK), 0);
}

/* A state of a run with other settings is not taken half. */
Test(bad_days, a_state_of_another_run, .timeout = 120)
{
    make_place("bad_other_state");
    start_run();
    EXPECT_REFUSED(finetune("--run.resume=auto --train.steps=4 --optim.ema_decay=0.9"),
                   "step_000000002.safetensors", "tensor ema.", "is missing");
    expect_good_checkpoint();
}
