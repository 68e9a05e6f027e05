/* The named cases of every op: attributes, shapes, dtypes and how the sources are filled. Read by
 * the gradient checks, the backend tests and the mutants, so that all three judge the same calls.
 *
 * Backward ops have no cases of their own: the gradient rules make their calls from the cases of
 * the forward ops, with statistics and results that belong together (see op_bench.h).
 *
 * Invariant: contents are functions of (op, case name, operand), never of the order of cases.
 */
#ifndef RETORT_TESTS_OP_CASES_H
#define RETORT_TESTS_OP_CASES_H

#include "kernels/ops.h"

typedef enum Fill {
    FILL_NORMAL,    /* mean 0, std `value` (0 means 1) */
    FILL_POSITIVE,  /* 0.1 + square of a normal: variances, second moments */
    FILL_RANGE,     /* uniform in [-value, 1 + value]: points, also outside */
    FILL_BORDER,    /* 0, 1 and values next to them: points on the border */
    FILL_PX,        /* uniform in [-0.1, 1.1] * value: coordinates of a frame of `value` px */
    FILL_COLD_ROWS, /* normal, but every third pixel is below 0: rows that ReLU makes zero */
    FILL_WEIGHTS,   /* weights of masks: uniform, every third one 0 */
    FILL_TIES,      /* small multiples of 1/2: candidates that are equal */
    FILL_CONST,     /* `value` everywhere */
    FILL_LABELS,    /* int32 -2 .. 3 */
    FILL_KEY_MASK,  /* int32 labels with -2 for one key in three, never for the first of a row */
    FILL_NO_POINTS, /* int32 labels 2 and 3 only */
    FILL_KEYS,      /* int32 of all 32 bits */
    FILL_BELOW,     /* int32 0 .. value - 1 */
    FILL_KEEP,      /* int32 (N,2): rows and columns kept of source 0 */
    FILL_WORDS,     /* int32 soft runs of the masks that the source behind it indexes */
    FILL_ROWS,      /* int32 offsets of their rows */
} Fill;

typedef struct CaseOperand {
    DType dtype; /* DT_NONE: absent */
    Shape shape;
    Fill fill;
    double value;
} CaseOperand;

typedef struct OpCase {
    OpId op;
    const char *name;
    OpAttr attr;
    CaseOperand src[OP_MAX_SRC];
    CaseOperand dst[OP_MAX_DST]; /* '!' destinations only: their old value */
    /* of the terms of results that cancel to nearly 0: their own size tells nothing of their
     * rounding */
    double term_magnitude;
} OpCase;

int op_case_count(void);
const OpCase *op_case(int index);
int op_case_n_src(const OpCase *op_case);

/* op_case_trains: whether source `src` has a gradient by definition (its rule must give one).
 * Prompt coordinates, positional frequencies, sampled points, IoUs to be predicted and weights of
 * masks have none. */
bool op_case_trains(const OpCase *op_case, int src);

/* op_case_has_gradient: whether any source has one. Labels that are joined have none. */
bool op_case_has_gradient(const OpCase *op_case);

/* op_case_fill_src / _dst: writes the operand's content; floats as double, integers as they are. */
void op_case_fill_src(const OpCase *op_case, int src, void *out);
void op_case_fill_dst(const OpCase *op_case, int dst, void *out);

/* op_case_cotangent: n standard normals that belong to the case. */
void op_case_cotangent(const OpCase *op_case, int64_t n, double *out);

/* ---- how the tables are written ---- */

/* DIMS(2, 3): a Shape as a constant; DIMS0: a scalar. */
#define DIMS(...) \
    {.rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .dim = {__VA_ARGS__}}
#define DIMS0 {.rank = 0}

#define NORMAL(...) {DT_F32, DIMS(__VA_ARGS__), FILL_NORMAL, 0}
#define SCALED(value, ...) {DT_F32, DIMS(__VA_ARGS__), FILL_NORMAL, value}
#define POSITIVE(...) {DT_F32, DIMS(__VA_ARGS__), FILL_POSITIVE, 0}
#define CONST(value, ...) {DT_F32, DIMS(__VA_ARGS__), FILL_CONST, value}
#define FLOATS(fill, value, ...) {DT_F32, DIMS(__VA_ARGS__), fill, value}
#define INTS(fill, value, ...) {DT_I32, DIMS(__VA_ARGS__), fill, value}
#define ABSENT {DT_NONE}

/* One part of the list of cases; the parts are tests/op_cases_*.c. */
typedef struct CaseList {
    const OpCase *cases;
    int n_cases;
} CaseList;
extern const CaseList cases_elementwise, cases_matmul, cases_norm, cases_attention, cases_resample,
    cases_losses, cases_optimiser;

#define CASE_LIST(name, array) \
    const CaseList name = {array, (int)(sizeof(array) / sizeof((array)[0]))}

#endif
