/* The list of all cases and the contents of their operands. See op_cases.h. */
#include "tests/op_cases.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/soft_runs.h"

enum { CASE_SEED = 20, COTANGENT = 100, OLD_VALUE = 50 };

static const CaseList *const lists[] = {&cases_elementwise, &cases_matmul,   &cases_norm,
                                        &cases_attention,   &cases_resample, &cases_losses,
                                        &cases_optimiser};
enum { N_LISTS = sizeof lists / sizeof *lists };

int op_case_count(void)
{
    int n = 0;
    for (int i = 0; i < N_LISTS; i++) n += lists[i]->n_cases;
    return n;
}

const OpCase *op_case(int index)
{
    int list = 0;
    while (index >= lists[list]->n_cases) index -= lists[list++]->n_cases;
    return &lists[list]->cases[index];
}

int op_case_n_src(const OpCase *op_case)
{
    int n = OP_MAX_SRC;
    while (n > 0 && op_case->src[n - 1].dtype == DT_NONE) n--;
    return n;
}

bool op_case_trains(const OpCase *op_case, int src)
{
    if (!dtype_is_float(op_case->src[src].dtype)) return false;
    switch (op_case->op) {
    case OP_POINT_EMBED: return src >= 3;
    case OP_FOCAL_DICE:
    case OP_BCE_DICE_POINTS:
    case OP_MIN_CANDIDATE:
    case OP_IOU_MSE: return src == 0;
    default: return op_info(op_case->op)->differentiable;
    }
}

bool op_case_has_gradient(const OpCase *op_case)
{
    bool any = false;
    for (int i = 0; i < OP_MAX_SRC; i++) any |= op_case_trains(op_case, i);
    return any;
}

/* ---- masks ---- */

/* How far inside the mask of a form a pixel lies, in px; fringes are one pixel wide. */
static double mask_depth(int form, double x, double y, double size)
{
    switch (form) {
    case 0: return -1;
    case 1: return 1;
    case 2: return 0.31 * size + 0.3 - hypot(x - 0.45 * size, y - 0.5 * size);
    case 3: return 0.8 - fabs(y - 0.6 * size);
    default: return 0.7 * x + 0.4 * y - 0.5 * size;
    }
}

enum { N_FORMS = 5 };

static void paint_row(float *row, int64_t mask, int64_t y, int64_t size)
{
    int form = (int)((mask + 2) % N_FORMS); /* a single mask is a disc */
    for (int64_t x = 0; x < size; x++) {
        double depth = mask_depth(form, (double)x + 0.5, (double)y + 0.5, (double)size) + 0.5;
        row[x] = depth <= 0 ? 0 : depth >= 1 ? 1 : (float)depth;
    }
}

/* Encodes all masks; either of words and rows may be NULL. `shape` is that of rows, (N,M,S+1). */
static void encode_masks(Shape shape, int64_t capacity, int32_t *words, int32_t *rows)
{
    int64_t n_masks = shape.dim[1], size = shape.dim[2] - 1;
    float *row = mem_alloc((size_t)size * sizeof(float));
    uint32_t *image = mem_alloc((size_t)capacity * sizeof(uint32_t));
    for (int64_t n = 0; n < shape.dim[0]; n++) {
        int64_t used = 0;
        for (int64_t m = 0; m < n_masks; m++)
            for (int64_t y = 0; y <= size; y++) {
                if (rows) rows[(n * n_masks + m) * (size + 1) + y] = (int32_t)used;
                if (y == size) break;
                paint_row(row, n + m, y, size);
                int64_t length = soft_runs_encode_row(row, size, image + used, capacity - used);
                assert(length >= 0);
                used += length;
            }
        if (words) memcpy(words + n * capacity, image, (size_t)capacity * sizeof *image);
    }
    free(image);
    free(row);
}

/* ---- contents ---- */

static RngKey case_key(const OpCase *op_case, int operand)
{
    return (RngKey){.seed = CASE_SEED,
                    .purpose = RNG_TEST,
                    .epoch = (uint32_t)operand,
                    .sample = rng_name_hash(op_case->name) ^ (uint64_t)op_case->op};
}

static double float_at(const CaseOperand *operand, RngKey key, int64_t i)
{
    static const double borders[] = {0, 1, 0.03, 0.97, 1.02, -0.02, 0.5, 0.25};
    double value = operand->value, normal = rng_normal(key, (uint64_t)i);
    int64_t channels = operand->shape.rank > 0 ? operand->shape.dim[operand->shape.rank - 1] : 1;
    switch (operand->fill) {
    case FILL_NORMAL: return normal * (value == 0 ? 1 : value);
    case FILL_POSITIVE: return 0.1 + normal * normal;
    case FILL_RANGE: return rng_uniform(key, (uint64_t)i) * (1 + 2 * value) - value;
    case FILL_BORDER: return borders[rng_below(key, (uint64_t)i, sizeof borders / sizeof *borders)];
    case FILL_PX: return (rng_uniform(key, (uint64_t)i) * 1.2 - 0.1) * value;
    case FILL_COLD_ROWS: return i / channels % 3 == 0 ? -fabs(normal) - 0.1 : normal;
    case FILL_WEIGHTS: return i % 3 == 1 ? 0 : rng_uniform(key, (uint64_t)i);
    case FILL_TIES: return 0.5 * (double)rng_below(key, (uint64_t)i, 2);
    case FILL_CONST: return value;
    default: assert(!"no fill of floats"); return 0;
    }
}

static int64_t int_at(const OpCase *op_case, const CaseOperand *operand, RngKey key, int64_t i)
{
    int64_t last = operand->shape.rank > 0 ? operand->shape.dim[operand->shape.rank - 1] : 1;
    uint64_t index = (uint64_t)i;
    switch (operand->fill) {
    case FILL_LABELS: return (int64_t)rng_below(key, index, 6) - 2;
    case FILL_KEY_MASK:
        return i % last > 0 && rng_below(key, index, 3) == 0
                   ? -2
                   : (int64_t)rng_below(key, index, 5) - 1;
    case FILL_NO_POINTS: return 2 + (int64_t)rng_below(key, index, 2);
    case FILL_BELOW: return (int64_t)rng_below(key, index, (uint64_t)operand->value);
    case FILL_KEYS: return (int32_t)(uint32_t)rng_u64(key, index);
    case FILL_KEEP:
        return 1 + (int64_t)rng_below(key, index, (uint64_t)op_case->src[0].shape.dim[1 + i % 2]);
    case FILL_CONST: return (int64_t)operand->value;
    default: assert(!"no fill of integers"); return 0;
    }
}

static void fill(const OpCase *op_case, const CaseOperand *operand, RngKey key, void *out)
{
    int64_t n = shape_elems(operand->shape);
    for (int64_t i = 0; i < n; i++) {
        if (operand->dtype == DT_I32)
            ((int32_t *)out)[i] = (int32_t)int_at(op_case, operand, key, i);
        else if (operand->dtype == DT_I64)
            ((int64_t *)out)[i] = int_at(op_case, operand, key, i);
        else
            ((double *)out)[i] = float_at(operand, key, i);
    }
}

void op_case_fill_src(const OpCase *op_case, int src, void *out)
{
    const CaseOperand *operand = &op_case->src[src];
    if (operand->fill == FILL_WORDS)
        encode_masks(op_case->src[src + 1].shape, operand->shape.dim[1], out, NULL);
    else if (operand->fill == FILL_ROWS)
        encode_masks(operand->shape, op_case->src[src - 1].shape.dim[1], NULL, out);
    else
        fill(op_case, operand, case_key(op_case, src), out);
}

void op_case_fill_dst(const OpCase *op_case, int dst, void *out)
{
    fill(op_case, &op_case->dst[dst], case_key(op_case, OLD_VALUE + dst), out);
}

void op_case_cotangent(const OpCase *op_case, int64_t n, double *out)
{
    RngKey key = case_key(op_case, COTANGENT);
    for (int64_t i = 0; i < n; i++) out[i] = rng_normal(key, (uint64_t)i);
}
