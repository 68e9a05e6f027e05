/* The ops of SAM's click rounds by themselves, in both backends: clicks where a mask is wrong, IoU
 * of the candidates, and the loss of the IoU head.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/rules.h"
#include "base/memory.h"
#include "base/soft_runs.h"
#include "kernels/backend.h"
#include "tests/click_errors.h"

#define F32(data, ...) ((Tensor){DT_F32, SHAPE(__VA_ARGS__), data})
#define I32(data, ...) ((Tensor){DT_I32, SHAPE(__VA_ARGS__), data})

static void run_op(const char *name, OpId op, OpAttr attr, int n_src, const Tensor *src, int n_dst,
                   const Tensor *dst)
{
    Backend *backend;
    KernelCall call = {.op = op, .label = "test", .attr = &attr, .n_src = n_src, .n_dst = n_dst};
    memcpy(call.src, src, (size_t)n_src * sizeof *src);
    memcpy(call.dst, dst, (size_t)n_dst * sizeof *dst);
    cr_assert_eq(backend_open(name, 1, &backend), OK);
    cr_assert_eq(backend->bind(backend, &call), OK, "%s", status_message());
    cr_assert_eq(backend->alloc(backend, call.scratch_bytes, &call.scratch), OK);
    call.run(&call);
    backend->free(backend, call.scratch, call.scratch_bytes);
    backend_close(backend);
}

static const char *const backends[] = {"ref", "cpu"};

enum { SMALL = 8, LOW = 4, DRAWS = 20000 };

typedef struct Clicks { /* of DRAWS masks that differ in their keys alone */
    float map[LOW * LOW], target[SMALL * SMALL];
    uint32_t words[SMALL * (SMALL + 2)];
    int32_t rows[SMALL + 1];
    float *maps, *weights, *coords;
    int32_t *all_rows, *keys, *labels;
} Clicks;

static Clicks make_clicks(void)
{
    Clicks c = {0};
    int64_t used = 0;
    for (int i = 0; i < LOW * LOW; i++) c.map[i] = (float)sin(5 * i + 1);
    for (int i = 0; i < SMALL * SMALL; i++)
        c.target[i] = i % SMALL < 3 ? 1 : i % SMALL == 3 ? 0.5f : 0;
    for (int y = 0; y < SMALL; y++) {
        used += soft_runs_encode_row(c.target + y * SMALL, SMALL, c.words + used,
                                     (int64_t)(sizeof c.words / sizeof *c.words) - used);
        c.rows[y + 1] = (int32_t)used;
    }
    c.maps = mem_alloc(DRAWS * sizeof c.map);
    c.all_rows = mem_alloc(DRAWS * sizeof c.rows);
    c.weights = mem_alloc(DRAWS * sizeof(float));
    c.keys = mem_alloc(DRAWS * 2 * sizeof(int32_t));
    c.coords = mem_alloc(DRAWS * 2 * sizeof(float));
    c.labels = mem_alloc(DRAWS * sizeof(int32_t));
    for (int i = 0; i < DRAWS; i++) {
        memcpy(c.maps + i * LOW * LOW, c.map, sizeof c.map);
        memcpy(c.all_rows + i * (SMALL + 1), c.rows, sizeof c.rows);
        c.weights[i] = 1;
        c.keys[2 * i] = i;
    }
    return c;
}

static void free_clicks(Clicks *c)
{
    free(c->maps);
    free(c->all_rows);
    free(c->weights);
    free(c->keys);
    free(c->coords);
    free(c->labels);
}

/* A frame of side 2 * SMALL. */
static void run_clicks(const char *backend, Clicks *c, int round)
{
    OpAttr attr = {.error_click = {.size = SMALL, .round = round, .frame = 2 * SMALL}};
    int64_t n_words = (int64_t)(sizeof c->words / sizeof *c->words);
    Tensor src[] = {F32(c->maps, 1, DRAWS, LOW, LOW), I32(c->words, 1, n_words),
                    I32(c->all_rows, 1, DRAWS, SMALL + 1), F32(c->weights, 1, DRAWS),
                    I32(c->keys, 1, DRAWS, 2)};
    Tensor dst[] = {F32(c->coords, 1, DRAWS, 1, 2), I32(c->labels, 1, DRAWS, 1)};
    run_op(backend, OP_ERROR_CLICK, attr, 5, src, 2, dst);
}

static int pixel_of(const float coord[2])
{
    double x = (coord[0] + 0.5) / 2 - 0.5, y = (coord[1] + 0.5) / 2 - 0.5;
    cr_assert(x == floor(x) && y == floor(y), "%g, %g is no centre of a pixel", coord[0], coord[1]);
    return (int)y * SMALL + (int)x;
}

Test(error_click, picks_error_pixels_uniformly)
{
    Clicks c = make_clicks();
    int errors[SMALL * SMALL], n = click_errors(c.map, LOW, c.target, SMALL, errors);
    cr_assert(n > 10 && n < SMALL * SMALL - 10);
    for (int b = 0; b < 2; b++) {
        int count[SMALL * SMALL] = {0}, n_found = 0;
        double chi_square = 0, wanted = DRAWS / (double)n;
        run_clicks(backends[b], &c, 1);
        for (int i = 0; i < DRAWS; i++) {
            int at = pixel_of(c.coords + 2 * i);
            cr_assert_eq(c.labels[i], c.target[at] > 0.5f);
            count[at]++;
        }
        for (int i = 0; i < n; i++) {
            n_found += count[errors[i]];
            chi_square += (count[errors[i]] - wanted) * (count[errors[i]] - wanted) / wanted;
        }
        cr_expect_eq(n_found, DRAWS, "%d clicks where nothing is wrong", DRAWS - n_found);
        cr_expect_lt(fabs(chi_square - (n - 1)), 4 * sqrt(2 * (n - 1)), "%g of %d", chi_square,
                     n - 1);
    }
    free_clicks(&c);
}

Test(error_click, draws_anew_in_each_round)
{
    Clicks c = make_clicks();
    int n = 0, same = 0, errors[SMALL * SMALL];
    n = click_errors(c.map, LOW, c.target, SMALL, errors);
    run_clicks("cpu", &c, 1);
    float *first = mem_alloc(DRAWS * 2 * sizeof *first);
    memcpy(first, c.coords, DRAWS * 2 * sizeof *first);
    run_clicks("cpu", &c, 2);
    for (int i = 0; i < DRAWS; i++) same += memcmp(first + 2 * i, c.coords + 2 * i, 8) == 0;
    double wanted = DRAWS / (double)n;
    cr_expect_lt(fabs(same - wanted), 5 * sqrt(wanted), "%d, wanted about %g", same, wanted);
    free(first);
    free_clicks(&c);
}

Test(error_click, stays_empty_where_nothing_is_wrong_or_counts)
{
    for (int b = 0; b < 2; b++) {
        float map[] = {1, -1, 1, -1, 1, -1, 1, -1}, weight[] = {1, 0}, coords[4] = {9, 9, 9, 9};
        uint32_t words[] = {SOFT_ONES | 1, SOFT_ONES | 1}; /* the left column; nothing */
        int32_t rows[] = {0, 1, 2, 2, 2, 2}, keys[4] = {0}, labels[2] = {9, 9};
        OpAttr attr = {.error_click = {.size = 2, .round = 1, .frame = 2}};
        Tensor src[] = {F32(map, 1, 2, 2, 2), I32(words, 1, 2), I32(rows, 1, 2, 3),
                        F32(weight, 1, 2), I32(keys, 1, 2, 2)};
        Tensor dst[] = {F32(coords, 1, 2, 1, 2), I32(labels, 1, 2, 1)};
        run_op(backends[b], OP_ERROR_CLICK, attr, 5, src, 2, dst);
        for (int i = 0; i < 2; i++) cr_expect_eq(labels[i], -2, "mask %d: %d", i, labels[i]);
        for (int i = 0; i < 4; i++) cr_expect_eq(coords[i], 0);
    }
}

Test(iou, of_masks_and_error_by_hand)
{
    /* candidates 0: all; 1: the upper row; 2: nothing; targets: the left column, nothing */
    static const float candidates[] = {1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1};
    static const float wanted[] = {0, 1.0f / 3, 0, 0, 0, 0};
    float maps[24], iou[6], pred[] = {9, 0.5f, 1, 9, 2, 3}, weight[] = {0.5f, 2}, loss;
    uint32_t words[] = {SOFT_ONES | 1, SOFT_ONES | 1};
    int32_t rows[] = {0, 1, 2, 2, 2, 2}, mode = 1;
    memcpy(maps, candidates, sizeof candidates);
    memcpy(maps + 12, candidates, sizeof candidates);
    for (int b = 0; b < 2; b++) {
        OpAttr attr = {.mask_iou = {2}}, scale = {.iou_mse = {0.5}};
        Tensor src[] = {F32(maps, 1, 2, 3, 2, 2), I32(words, 1, 2), I32(rows, 1, 2, 3),
                        I32(&mode, 1)};
        Tensor dst = F32(iou, 1, 2, 3);
        run_op(backends[b], OP_MASK_IOU, attr, 4, src, 1, &dst);
        for (int i = 0; i < 6; i++)
            cr_expect_float_eq(iou[i], wanted[i], 1e-7, "%d: %g", i, iou[i]);
        Tensor head[] = {F32(pred, 1, 2, 3), dst, I32(&mode, 1), F32(weight, 1, 2)};
        Tensor sum = F32(&loss, 1);
        run_op(backends[b], OP_IOU_MSE, scale, 4, head, 1, &sum);
        double first = (1.0 / 36 + 1) / 2, second = (4.0 + 9) / 2;
        cr_expect_float_eq(loss, 0.5 * (0.5 * first + 2 * second), 1e-6, "%g", loss);
    }
}

Test(concat, refuses_labels_beside_floats)
{
    OpAttr attr = {.concat = {0}};
    ShapeCall call = {.op = OP_CONCAT, .label = "x", .attr = &attr, .n_src = 2};
    call.src[0] = (Tensor){.dtype = DT_F32, .shape = SHAPE(3)};
    call.src[1] = (Tensor){.dtype = DT_I32, .shape = SHAPE(2)};
    cr_expect_eq(rules_infer(&call), E_SHAPE);
    cr_expect_not_null(strstr(status_message(), "source 1 is int32"), "%s", status_message());
    call.src[0].dtype = DT_I32;
    cr_expect_eq(rules_infer(&call), OK);
    cr_expect_eq(call.dst[0].dtype, DT_I32);
}
