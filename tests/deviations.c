/* What low precision costs each model: embedding and masks in bf16 and fp16 against f32, of one
 * photograph and one box, with hash weights (tests/kat.h). Run by `make deviations IMAGE=FILE`, and
 * for single models by `build/tests/deviations FILE NAME ..`; prints a table in Markdown.
 *
 * Deviations are the root mean square of the difference, in standard deviations of the f32 values;
 * masks are compared by the IoU of their pixels, mean of the three candidates.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/kat.h"
#include "train/predictor.h"

static const char *const all_models[] = {"efficientvit_sam_b0",
                                         "efficientvit_sam_b1",
                                         "efficientvit_sam_b2",
                                         "efficientvit_sam_b3",
                                         "efficientvit_sam_l0",
                                         "efficientvit_sam_l1",
                                         "efficientvit_sam_l2",
                                         "efficientvit_sam_l3",
                                         "efficientvit_sam_xl0",
                                         "efficientvit_sam_xl1",
                                         "sam_vit_b",
                                         "sam_vit_l",
                                         "sam_vit_h"};
enum { N_MODELS = sizeof all_models / sizeof all_models[0] };

typedef struct Results { /* of one precision */
    float *embedding, *logits;
    int64_t n_embedding, n_logits; /* values */
} Results;

static Status predict(Predictor *predictor, const Model *model, ImageReader *image, Results *out)
{
    TRY(predictor_set_image(predictor, image));
    ImageSize size = predictor_image_size(predictor);
    double w = (double)size.width, h = (double)size.height;
    double box[4] = {0.25 * w, 0.2 * h, 0.7 * w, 0.8 * h};
    float iou[PREDICTOR_CANDIDATES];
    int64_t grid = model_grid(model), lowres = model_lowres(model);
    out->n_embedding = grid * grid * model_embed_dim(model);
    out->n_logits = PREDICTOR_CANDIDATES * lowres * lowres;
    out->embedding = mem_alloc((size_t)out->n_embedding * sizeof(float));
    out->logits = mem_alloc((size_t)out->n_logits * sizeof(float));
    memcpy(out->embedding, predictor_embedding(predictor),
           (size_t)out->n_embedding * sizeof(float));
    return predictor_predict(predictor, 1, &(Prompt){.box = box}, true, out->logits, iou);
}

static Status run(const Model *model, Backend *backend, DType precision, ImageReader *image,
                  Results *out)
{
    Predictor *predictor = NULL;
    Store *store = store_create(backend);
    Status status = model_declare_frozen(model, precision, store);
    if (status == OK) status = store_allocate(store);
    if (status == OK) status = model_freeze(model, kat_entry, NULL, store);
    if (status == OK)
        status = predictor_create(model, store, backend, BN_FOLDED, precision, 1, &predictor);
    if (status == OK) status = predict(predictor, model, image, out);
    predictor_destroy(predictor);
    store_destroy(store);
    return status;
}

static void free_results(Results *results)
{
    free(results->embedding);
    free(results->logits);
}

static double deviation(const float *got, const float *wanted, int64_t n)
{
    double mean = 0, squares = 0, off = 0;
    for (int64_t i = 0; i < n; i++) mean += wanted[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        squares += (wanted[i] - mean) * (wanted[i] - mean);
        off += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
    }
    return sqrt(off / squares);
}

static double mask_iou(const float *got, const float *wanted, int64_t n)
{
    double sum = 0;
    for (int c = 0; c < PREDICTOR_CANDIDATES; c++) {
        int64_t both = 0, either = 0, per_mask = n / PREDICTOR_CANDIDATES;
        for (int64_t i = c * per_mask; i < (c + 1) * per_mask; i++) {
            both += got[i] > 0 && wanted[i] > 0;
            either += got[i] > 0 || wanted[i] > 0;
        }
        sum += either ? (double)both / (double)either : 1;
    }
    return sum / PREDICTOR_CANDIDATES;
}

static Status print_row(const char *name, Backend *backend, ImageReader *image)
{
    static const DType low[] = {DT_BF16, DT_F16};
    char path[256];
    Model *model;
    Results exact = {0}, results = {0};
    snprintf(path, sizeof path, "configs/models/%s.yaml", name);
    TRY(model_load(path, &model));
    Status status = run(model, backend, DT_F32, image, &exact);
    if (status == OK) printf("| %s |", name);
    for (int i = 0; i < 2 && status == OK; i++) {
        status = run(model, backend, low[i], image, &results);
        if (status == OK)
            printf(" %.1e | %.1e | %.3f |",
                   deviation(results.embedding, exact.embedding, exact.n_embedding),
                   deviation(results.logits, exact.logits, exact.n_logits),
                   mask_iou(results.logits, exact.logits, exact.n_logits));
        fflush(stdout);
        free_results(&results);
        results = (Results){0};
    }
    printf("\n");
    free_results(&exact);
    model_destroy(model);
    return status;
}

static Status print_table(const char *image_path, int n, char *const *names)
{
    Backend *backend;
    ImageReader image = {0};
    TRY(backend_open("cpu", 0, &backend));
    Status status = image_reader_open(&image);
    if (status == OK) status = image_read(&image, image_path, 0);
    printf("| model | bf16: embedding | logits | mask IoU | fp16: embedding | logits | mask IoU |\n"
           "|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < (n ? n : N_MODELS) && status == OK; i++)
        status = print_row(n ? names[i] : all_models[i], backend, &image);
    image_reader_close(&image);
    backend_close(backend);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: deviations IMAGE [MODEL ..]; make deviations IMAGE=FILE\n");
        return 2;
    }
    if (print_table(argv[1], argc - 2, argv + 2) == OK) return 0;
    fprintf(stderr, "deviations: %s\n", status_message());
    return 1;
}
