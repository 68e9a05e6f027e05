/* The predictor: its masks are those of `retort trace` for the same prompts, whatever their bucket
 * and company; and the way from logits to a mask. A tiny model with drawn weights. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "data/upsample.h"
#include "tests/support.h"
#include "train/commands.h"
#include "train/predictor.h"
#include "train/weights.h"

#define CONFIG "configs/models/efficientvit_sam_tiny.yaml"
enum { HEIGHT = 150, WIDTH = 201, FRAME = 256, EXTENT_HEIGHT = 191 /* 150 * 256 / 201 = 191.04 */ };

/* Of logits whose deviation is near 1: the known answers allow f32 2e-5 from the exact value, so
 * two orders of summation may be twice that apart. */
#define TOL 4e-5

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- logits to masks ---- */

/* One bilinear resizing by its formula, in double: (in,in2) -> (out,out2). */
static double *resize(const double *src, int64_t rows, int64_t columns, int64_t out_rows,
                      int64_t out_columns)
{
    double *dst = mem_alloc((size_t)(out_rows * out_columns) * sizeof *dst);
    for (int64_t y = 0; y < out_rows; y++)
        for (int64_t x = 0; x < out_columns; x++) {
            double v = fmax(((double)y + 0.5) * (double)rows / (double)out_rows - 0.5, 0);
            double u = fmax(((double)x + 0.5) * (double)columns / (double)out_columns - 0.5, 0);
            int64_t top = (int64_t)v, left = (int64_t)u;
            int64_t bottom = top + 1 < rows ? top + 1 : top;
            int64_t right = left + 1 < columns ? left + 1 : left;
            double wy = v - (double)top, wx = u - (double)left;
            dst[y * out_columns + x] =
                (1 - wy) *
                    ((1 - wx) * src[top * columns + left] + wx * src[top * columns + right]) +
                wy * ((1 - wx) * src[bottom * columns + left] + wx * src[bottom * columns + right]);
        }
    return dst;
}

/* Section by section as SAM does it: to the square frame, cut, to the image. */
static double *by_the_book(const float *lowres, int64_t side, int64_t frame, ImageSize image)
{
    double *wide = mem_alloc((size_t)(side * side) * sizeof *wide);
    for (int64_t i = 0; i < side * side; i++) wide[i] = lowres[i];
    ImageSize extent = resize_fit(image, frame);
    double *square = resize(wide, side, side, frame, frame);
    for (int64_t y = 0; y < extent.height; y++)
        memmove(square + y * extent.width, square + y * frame,
                (size_t)extent.width * sizeof *square);
    double *result = resize(square, extent.height, extent.width, image.height, image.width);
    free(wide);
    free(square);
    return result;
}

static float *draw_floats(int64_t n, uint64_t sample)
{
    float *values = mem_alloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)rng_normal((RngKey){.purpose = RNG_TEST, .sample = sample}, (uint64_t)i);
    return values;
}

static void check_upsampling(Upsampler *upsampler, int64_t side, int64_t frame, ImageSize image)
{
    int64_t n = image.height * image.width, n_wrong = 0;
    float *lowres = draw_floats(side * side, (uint64_t)(image.height * 7 + image.width));
    float *logits = mem_alloc((size_t)n * sizeof *logits);
    uint8_t *mask = mem_alloc((size_t)n);
    double *wanted = by_the_book(lowres, side, frame, image), worst = 0;
    must(upsampler_prepare(upsampler, side, frame, image));
    upsample_logits(upsampler, lowres, logits);
    upsample_mask(upsampler, lowres, mask);
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(logits[i] - wanted[i]));
        n_wrong += fabs(wanted[i]) > 1e-4 && mask[i] != (wanted[i] > 0);
    }
    cr_expect_lt(worst, 1e-4, "%d x %d: off by %g", (int)image.height, (int)image.width, worst);
    cr_expect_eq(n_wrong, 0, "%d x %d: %d pixels wrong", (int)image.height, (int)image.width,
                 (int)n_wrong);
    free(lowres);
    free(logits);
    free(mask);
    free(wanted);
}

Test(upsample, goes_through_the_frame)
{
    Upsampler upsampler = {0};
    const ImageSize images[] = {{427, 640}, {640, 427}, {1500, 2060}, {31, 900}, {1, 1}};
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++)
        check_upsampling(&upsampler, 256, 1024, images[i]);
    check_upsampling(&upsampler, 64, 256, (ImageSize){256, 100});
    upsampler_free(&upsampler);
}

/* 427 x 640 in a frame of 1024 is 683 x 1024: the ratios of the axes differ. */
Test(upsample, coordinates_use_the_rounded_sizes)
{
    ImageSize extent = resize_fit((ImageSize){427, 640}, 1024);
    cr_expect_eq(extent.height, 683);
    cr_expect_eq(extent.width, 1024);
    cr_expect_float_eq(frame_coordinate(100, extent.width, 640), 160, 1e-12);
    cr_expect_float_eq(frame_coordinate(100, extent.height, 427), 159.95316159250586, 1e-12);
}

/* ---- a model, an image and its predictor ---- */

typedef struct Fixture {
    Backend *backend;
    Model *model;
    Store *store;
    ImageReader reader; /* no file: its pixels are drawn here */
    int64_t pixels;     /* of a low-resolution mask */
} Fixture;

static void draw_image(ImageReader *reader)
{
    uint8_t *rgb = mem_alloc(HEIGHT * WIDTH * 3);
    for (int64_t i = 0; i < HEIGHT * WIDTH * 3; i++)
        rgb[i] = (uint8_t)(rng_below((RngKey){.purpose = RNG_TEST}, (uint64_t)(i / 150), 256));
    reader->image = (JpegImage){.height = HEIGHT,
                                .width = WIDTH,
                                .full_height = HEIGHT,
                                .full_width = WIDTH,
                                .reduction = 1,
                                .pixels = rgb};
}

static void fixture_open(Fixture *f)
{
    *f = (Fixture){0};
    must(model_load(CONFIG, &f->model));
    must(backend_open("cpu", 1, &f->backend));
    f->store = store_create(f->backend);
    must(model_declare(f->model, f->store));
    must(store_allocate(f->store));
    must(model_init(f->model, f->store, 3));
    enlarge_weights(f->store, 2); /* prompts tell; more would amplify roundings, too */
    draw_image(&f->reader);
    f->pixels = model_lowres(f->model) * model_lowres(f->model);
}

static void fixture_close(Fixture *f)
{
    free((void *)f->reader.image.pixels);
    image_reader_close(&f->reader);
    store_destroy(f->store);
    model_destroy(f->model);
    backend_close(f->backend);
}

static Predictor *open_predictor(Fixture *f, int64_t at_once)
{
    Predictor *predictor = NULL;
    must(predictor_create(f->model, f->store, f->backend, BN_EVAL, DT_F32, at_once, &predictor));
    must(predictor_set_image(predictor, &f->reader));
    return predictor;
}

/* ---- prompts of every kind ---- */

enum { N_PROMPTS = 9, MOST_POINTS = 58 };

typedef struct Prompts {
    Prompt items[N_PROMPTS];
    double points[MOST_POINTS][2], box[4];
    int32_t labels[MOST_POINTS];
    float *mask;
} Prompts;

/* All four buckets, with and without box and mask, in no order. */
static void make_prompts(const Fixture *f, Prompts *p)
{
    static const struct {
        int64_t n_points;
        bool box, mask;
    } kinds[N_PROMPTS] = {{9, false, false},  {0, true, false}, {1, false, false},
                          {20, false, false}, {1, true, true},  {58, false, false},
                          {2, false, true},   {5, true, false}, {0, false, true}};
    for (int i = 0; i < MOST_POINTS; i++) {
        RngKey key = {.purpose = RNG_TEST, .sample = 77};
        p->points[i][0] = WIDTH * rng_uniform(key, (uint64_t)(2 * i));
        p->points[i][1] = HEIGHT * rng_uniform(key, (uint64_t)(2 * i + 1));
        p->labels[i] = i % 3 != 2;
    }
    memcpy(p->box, (double[]){20.5, 30.25, 120, 110.75}, sizeof p->box);
    p->mask = draw_floats(f->pixels, 5);
    for (int i = 0; i < N_PROMPTS; i++)
        p->items[i] = (Prompt){.n_points = kinds[i].n_points,
                               .points = &p->points[0][0],
                               .labels = p->labels,
                               .box = kinds[i].box ? p->box : NULL,
                               .mask_input = kinds[i].mask ? p->mask : NULL};
}

typedef struct Masks {
    int64_t n_candidates;
    float *logits, *iou;
} Masks;

static Masks predict(Fixture *f, Predictor *predictor, int64_t n, const Prompt *prompts, bool multi)
{
    Masks m = {.n_candidates = multi ? 3 : 1};
    m.logits = mem_alloc((size_t)(n * m.n_candidates * f->pixels) * sizeof(float));
    m.iou = mem_alloc((size_t)(n * m.n_candidates) * sizeof(float));
    must(predictor_predict(predictor, n, prompts, multi, m.logits, m.iou));
    return m;
}

static void free_masks(Masks *m)
{
    free(m->logits);
    free(m->iou);
}

/* In units of the wanted values' root mean square. */
static double distance(const float *got, const float *wanted, int64_t n)
{
    double worst = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)got[i] - wanted[i]));
        squares += (double)wanted[i] * wanted[i];
    }
    return worst / sqrt(squares / (double)n);
}

/* Root mean square of the differences, in the same unit. */
static double mean_distance(const float *got, const float *wanted, int64_t n)
{
    double differences = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        differences += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
        squares += (double)wanted[i] * wanted[i];
    }
    return sqrt(differences / squares);
}

/* ---- against trace ---- */

typedef struct TraceFiles {
    char weights[300], inputs[300], out[300];
} TraceFiles;

/* The image as trace takes it: (1,3,S,S). */
static float *trace_image(Fixture *f, int64_t side)
{
    ImageSize extent;
    float *tensor = mem_alloc((size_t)(side * side * 3) * sizeof *tensor);
    float *turned = mem_alloc((size_t)(side * side * 3) * sizeof *turned);
    must(image_to_infer_tensor(&f->reader, side, tensor, &extent));
    for (int64_t i = 0; i < side * side; i++)
        for (int c = 0; c < 3; c++) turned[c * side * side + i] = tensor[3 * i + c];
    free(tensor);
    return turned;
}

static NamedTensor named(const char *name, DType dtype, Shape shape, void *data)
{
    return (NamedTensor){.name = (char *)name, .tensor = {dtype, shape, data}};
}

/* One prompt alone, in the frame's coordinates, in a graph of exactly its number of tokens. */
static void write_trace_inputs(Fixture *f, const Prompt *prompt, bool multi, const char *path)
{
    int64_t side = model_image_size(f->model), lowres = model_lowres(f->model),
            n = prompt->n_points;
    float points[MOST_POINTS * 2], box[4] = {0};
    int32_t mode = multi, labels[MOST_POINTS];
    uint8_t eval = 1;
    const double ratio[2] = {(double)FRAME / WIDTH, (double)EXTENT_HEIGHT / HEIGHT};
    for (int64_t i = 0; i < 2 * n; i++) points[i] = (float)(prompt->points[i] * ratio[i % 2]);
    for (int i = 0; i < 4 && prompt->box; i++) box[i] = (float)(prompt->box[i] * ratio[i % 2]);
    for (int64_t i = 0; i < n; i++) labels[i] = prompt->labels[i];
    NamedTensor tensors[8];
    int n_tensors = 0;
    float *image = trace_image(f, side);
    tensors[n_tensors++] = named("image", DT_F32, SHAPE(1, 3, side, side), image);
    tensors[n_tensors++] = named("multi", DT_I32, SHAPE(1), &mode);
    tensors[n_tensors++] = named("eval", DT_U8, SHAPE(1), &eval);
    if (n > 0) {
        tensors[n_tensors++] = named("points", DT_F32, SHAPE(1, 1, n, 2), points);
        tensors[n_tensors++] = named("labels", DT_I32, SHAPE(1, 1, n), labels);
    }
    if (prompt->box) tensors[n_tensors++] = named("boxes", DT_F32, SHAPE(1, 1, 4), box);
    if (prompt->mask_input)
        tensors[n_tensors++] = named("mask_input", DT_F32, SHAPE(1, 1, lowres, lowres),
                                     (float *)prompt->mask_input);
    must(safetensors_write(path, n_tensors, tensors, 0, NULL));
    free(image);
}

static void run_trace(const TraceFiles *files)
{
    char weights[340], inputs[340], out[340];
    snprintf(weights, sizeof weights, "--weights=%s", files->weights);
    snprintf(inputs, sizeof inputs, "--inputs=%s", files->inputs);
    snprintf(out, sizeof out, "--out=%s", files->out);
    char *words[] = {
        "/dev/null", "--model=" CONFIG, "--run.threads=1", weights, inputs, "--save=lowres,iou",
        out};
    Args args = {.n = 7, .words = words};
    must(command_trace(&args));
}

static void expect_traced(Fixture *f, const TraceFiles *files, const Masks *got, int number)
{
    SafeTensors *file = NULL;
    int64_t n = got->n_candidates;
    must(safetensors_open(files->out, &file));
    const Tensor *lowres = safetensors_find(file, "lowres"), *iou = safetensors_find(file, "iou");
    cr_assert(lowres && iou && shape_elems(lowres->shape) == n * f->pixels);
    double masks = distance(got->logits + number * n * f->pixels, lowres->data, n * f->pixels);
    double ious = distance(got->iou + number * n, iou->data, n);
    cr_expect_lt(masks, TOL, "prompt %d: masks differ by %g", number, masks);
    cr_expect_lt(ious, TOL, "prompt %d: IoUs differ by %g", number, ious);
    safetensors_close(file);
}

/* Prompts without a token are none for trace. */
static bool is_traceable(const Prompt *prompt) { return prompt->n_points > 0 || prompt->box; }

static void compare_with_trace(int n_prompts, bool multi)
{
    Fixture f;
    Prompts prompts = {0};
    TraceFiles files;
    char folder[256];
    test_folder(multi ? "predictor_multi" : "predictor_single", folder, sizeof folder);
    snprintf(files.weights, sizeof files.weights, "%s/weights.safetensors", folder);
    snprintf(files.inputs, sizeof files.inputs, "%s/inputs.safetensors", folder);
    snprintf(files.out, sizeof files.out, "%s/out.safetensors", folder);
    fixture_open(&f);
    make_prompts(&f, &prompts);
    must(weights_save(&file_ops_system, f.store, files.weights));
    Predictor *predictor = open_predictor(&f, 4);
    Masks got = predict(&f, predictor, n_prompts, prompts.items, multi);
    for (int i = 0; i < n_prompts; i++) {
        if (!is_traceable(&prompts.items[i])) continue;
        write_trace_inputs(&f, &prompts.items[i], multi, files.inputs);
        run_trace(&files);
        expect_traced(&f, &files, &got, i);
    }
    free_masks(&got);
    free(prompts.mask);
    predictor_destroy(predictor);
    fixture_close(&f);
}

Test(predictor, equals_trace_with_three_masks) { compare_with_trace(N_PROMPTS, true); }

Test(predictor, equals_trace_with_one_mask) { compare_with_trace(2, false); }

/* ---- company ---- */

Test(predictor, empty_places_and_order_change_nothing)
{
    Fixture f;
    Prompts prompts = {0};
    fixture_open(&f);
    make_prompts(&f, &prompts);
    Predictor *one = open_predictor(&f, 1), *many = open_predictor(&f, 7);
    Masks all = predict(&f, many, N_PROMPTS, prompts.items, true);
    for (int i = 0; i < N_PROMPTS; i++) {
        Masks alone = predict(&f, one, 1, &prompts.items[i], true);
        double masks = distance(all.logits + i * 3 * f.pixels, alone.logits, 3 * f.pixels);
        cr_expect_lt(masks, TOL, "prompt %d: masks differ by %g", i, masks);
        cr_expect_lt(distance(all.iou + i * 3, alone.iou, 3), TOL, "prompt %d", i);
        for (int other = 0; other < i; other++) /* or the comparison would be idle */
            cr_expect_gt(distance(all.logits + other * 3 * f.pixels, alone.logits, 3 * f.pixels),
                         10 * TOL, "prompts %d and %d give the same masks", i, other);
        free_masks(&alone);
    }
    free_masks(&all);
    free(prompts.mask);
    predictor_destroy(one);
    predictor_destroy(many);
    fixture_close(&f);
}

/* A decoder must not keep the embedding of the image before. */
Test(predictor, a_new_image_gives_new_masks)
{
    Fixture f;
    Prompts prompts = {0};
    fixture_open(&f);
    make_prompts(&f, &prompts);
    Predictor *predictor = open_predictor(&f, 2);
    Masks before = predict(&f, predictor, N_PROMPTS, prompts.items, true);
    uint8_t *rgb = (uint8_t *)f.reader.image.pixels;
    for (int64_t i = 0; i < HEIGHT * WIDTH * 3; i++) rgb[i] = (uint8_t)(255 - rgb[i]);
    must(predictor_set_image(predictor, &f.reader));
    Masks after = predict(&f, predictor, N_PROMPTS, prompts.items, true);
    Predictor *fresh = open_predictor(&f, 2);
    Masks wanted = predict(&f, fresh, N_PROMPTS, prompts.items, true);
    cr_expect_gt(distance(after.logits, before.logits, N_PROMPTS * 3 * f.pixels), 10 * TOL);
    cr_expect_arr_eq(after.logits, wanted.logits,
                     (size_t)(N_PROMPTS * 3 * f.pixels) * sizeof(float));
    free_masks(&before);
    free_masks(&after);
    free_masks(&wanted);
    free(prompts.mask);
    predictor_destroy(predictor);
    predictor_destroy(fresh);
    fixture_close(&f);
}

Test(predictor, too_many_points_are_refused)
{
    Fixture f;
    float iou[3];
    fixture_open(&f);
    Predictor *predictor = open_predictor(&f, 1);
    float *logits = mem_alloc((size_t)(3 * f.pixels) * sizeof *logits);
    double points[59][2] = {0}, box[4] = {1, 1, 5, 5};
    int32_t labels[59] = {0};
    Prompt prompt = {.n_points = 59, .points = &points[0][0], .labels = labels};
    cr_expect_eq(predictor_predict(predictor, 1, &prompt, true, logits, iou), E_CONFIG);
    cr_expect(strstr(status_message(), "59 points"), "%s", status_message());
    prompt.n_points = 58; /* and two for the box */
    prompt.box = box;
    cr_expect_eq(predictor_predict(predictor, 1, &prompt, true, logits, iou), E_CONFIG);
    prompt.box = NULL;
    cr_expect_eq(predictor_predict(predictor, 1, &prompt, true, logits, iou), OK);
    free(logits);
    predictor_destroy(predictor);
    fixture_close(&f);
}

/* What is collected from the chunks must be f32, or it is read as something else. */
Test(predictor, bf16_is_near_f32)
{
    Fixture f;
    Prompts prompts = {0};
    Predictor *low = NULL;
    fixture_open(&f);
    make_prompts(&f, &prompts);
    must(predictor_create(f.model, f.store, f.backend, BN_EVAL, DT_BF16, 3, &low));
    must(predictor_set_image(low, &f.reader));
    Predictor *predictor = open_predictor(&f, 3);
    Masks wanted = predict(&f, predictor, N_PROMPTS, prompts.items, true);
    Masks got = predict(&f, low, N_PROMPTS, prompts.items, true);
    double masks = mean_distance(got.logits, wanted.logits, N_PROMPTS * 3 * f.pixels);
    double ious = mean_distance(got.iou, wanted.iou, N_PROMPTS * 3);
    cr_expect_lt(masks, 0.2, "masks differ by %g", masks);
    cr_expect_gt(masks, TOL, "bf16 gave what f32 gives: it was not used");
    cr_expect_lt(ious, 0.2, "IoUs differ by %g", ious);
    free_masks(&wanted);
    free_masks(&got);
    free(prompts.mask);
    predictor_destroy(predictor);
    predictor_destroy(low);
    fixture_close(&f);
}
