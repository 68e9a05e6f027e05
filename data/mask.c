/* Run-length codes to soft runs. See mask.h for the idea.
 *
 * Along the rows: let P_i(a) be the sum of the weights that output i gives to the sources before a.
 * A run [a,b) of a column has in output row i the value P_i(b) - P_i(a), which is H_a(i) - H_b(i)
 * with H_a(i) = ONE - P_i(a), the answer to a step at a. H_a grows from 0 to ONE within the few
 * rows whose window holds a; `rows` stores its differences H_a(i) - H_a(i-1).
 */
#include "data/mask.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/soft_runs.h"

enum { WEIGHT_BITS = 30, PRODUCT_BITS = 2 * WEIGHT_BITS };

static const int32_t weight_one = (int32_t)1 << WEIGHT_BITS;
/* From here on a float rounds to 1 anyway; half a unit in the last place below it. */
static const int64_t product_ones = ((int64_t)1 << PRODUCT_BITS) -
                                    ((int64_t)1 << (PRODUCT_BITS - 25));

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- Tables ---- */

/* cumulative (out, stride + 1): entry t of output i is the rounded sum of its first t weights.
 * Rounding the sums, not the weights, makes every total exactly ONE. */
static Status accumulate_weights(const ResizeAxis *axis, Buffer *cumulative)
{
    int64_t stride = axis->stride + 1;
    TRY(buffer_reserve(cumulative, (size_t)(axis->out * stride) * sizeof(int32_t)));
    for (int64_t i = 0; i < axis->out; i++) {
        int32_t *entry = (int32_t *)cumulative->data + i * stride;
        const double *weight = axis->weight + i * axis->stride;
        double sum = 0.0;
        for (int64_t t = 0; t < axis->n_taps[i]; t++) {
            entry[t] = (int32_t)llrint(sum * weight_one);
            sum += weight[t];
        }
        for (int64_t t = axis->n_taps[i]; t < stride; t++) entry[t] = weight_one;
    }
    return OK;
}

/* P_i(position) of the file comment. */
static int32_t weight_before(const ResizeAxis *axis, const int32_t *cumulative, int64_t i,
                             int64_t position)
{
    int64_t tap = position - axis->first[i];
    if (tap <= 0) return 0;
    if (tap >= axis->n_taps[i]) return weight_one;
    return cumulative[i * (axis->stride + 1) + tap];
}

/* A step has an entry for each output window that it cuts, and one more that ends it. */
static Status steps_reserve(MaskSteps *steps, const ResizeAxis *axis)
{
    size_t positions = (size_t)axis->in + 2;
    size_t values = (size_t)(axis->out * axis->stride) + positions;
    TRY(buffer_reserve(&steps->memory, (2 * positions + values) * sizeof(int32_t)));
    steps->first = steps->memory.data;
    steps->offset = steps->first + positions;
    steps->value = steps->offset + positions;
    return OK;
}

static void fill_row_steps(MaskSteps *steps, const ResizeAxis *axis, const int32_t *cumulative)
{
    int64_t begin = 0;
    int32_t used = 0;
    for (int64_t a = 0; a <= axis->in; a++) {
        while (begin < axis->out && axis->first[begin] + axis->n_taps[begin] <= a) begin++;
        steps->first[a] = (int32_t)begin;
        steps->offset[a] = used;
        int32_t before = 0;
        for (int64_t i = begin; i < axis->out && before != weight_one; i++) {
            int32_t value = weight_one - weight_before(axis, cumulative, i, a);
            steps->value[used++] = value - before;
            before = value;
        }
    }
    steps->offset[axis->in + 1] = used;
}

static void fill_column_weights(MaskSteps *steps, const ResizeAxis *axis, const int32_t *cumulative)
{
    int64_t begin = 0;
    int32_t used = 0;
    for (int64_t x = 0; x < axis->in; x++) {
        while (begin < axis->out && axis->first[begin] + axis->n_taps[begin] <= x) begin++;
        steps->first[x] = (int32_t)begin;
        steps->offset[x] = used;
        for (int64_t i = begin; i < axis->out && axis->first[i] <= x; i++)
            steps->value[used++] = weight_before(axis, cumulative, i, x + 1) -
                                   weight_before(axis, cumulative, i, x);
    }
    steps->offset[axis->in] = used;
}

Status mask_resampler_prepare(MaskResampler *resampler, ImageSize in, ImageSize out, bool flip)
{
    resampler->flip = flip;
    if (resampler->in.height == in.height && resampler->in.width == in.width &&
        resampler->out.height == out.height && resampler->out.width == out.width)
        return OK;
    resampler->in = (ImageSize){0, 0}; /* no tables, should one of these fail */
    ResizeAxis *axis = &resampler->axis;
    TRY(resize_axis_prepare(axis, in.height, (double)in.height, out.height));
    TRY(accumulate_weights(axis, &resampler->cumulative));
    TRY(steps_reserve(&resampler->rows, axis));
    fill_row_steps(&resampler->rows, axis, resampler->cumulative.data);
    TRY(resize_axis_prepare(axis, in.width, (double)in.width, out.width));
    TRY(accumulate_weights(axis, &resampler->cumulative));
    TRY(steps_reserve(&resampler->columns, axis));
    fill_column_weights(&resampler->columns, axis, resampler->cumulative.data);
    resampler->in = in;
    resampler->out = out;
    return OK;
}

void mask_resampler_free(MaskResampler *resampler)
{
    resize_axis_free(&resampler->axis);
    buffer_free(&resampler->cumulative);
    buffer_free(&resampler->rows.memory);
    buffer_free(&resampler->columns.memory);
    buffer_free(&resampler->field);
}

/* ---- One mask ---- */

typedef struct Field {                /* the part of the small image that the mask can touch */
    int64_t top, bottom, left, right; /* px; bottom and right exclusive */
    int64_t *difference; /* (bottom - top, right - left) fixed point, out(i) - out(i-1) */
    int64_t *sum;        /* (right - left) one row of the filtered mask */
} Field;

static int64_t source_column(const MaskResampler *resampler, int64_t x)
{
    return resampler->flip ? resampler->in.width - 1 - x : x;
}

static int64_t last_output(const MaskSteps *steps, int64_t position)
{
    return steps->first[position] + (steps->offset[position + 1] - steps->offset[position]) - 1;
}

static Status open_field(MaskResampler *resampler, const int64_t box[4], Field *field)
{
    int64_t left = source_column(resampler, box[0]);
    int64_t right = source_column(resampler, box[0] + box[2] - 1);
    int64_t below = box[1] + box[3]; /* first row without mask */
    const MaskSteps *rows = &resampler->rows, *columns = &resampler->columns;
    field->left = columns->first[min_i64(left, right)];
    field->right = last_output(columns, max_i64(left, right)) + 1;
    field->top = rows->first[box[1]];
    field->bottom = below == resampler->in.height ? resampler->out.height
                                                  : last_output(rows, below) + 1;
    int64_t width = field->right - field->left, height = field->bottom - field->top;
    size_t n_bytes = (size_t)(width * (height + 1)) * sizeof(int64_t);
    TRY(buffer_reserve(&resampler->field, n_bytes));
    memset(resampler->field.data, 0, n_bytes);
    field->sum = resampler->field.data;
    field->difference = field->sum + width;
    return OK;
}

/* Adds (sign = 1) or takes away (-1) a mask that covers column x from source row `row` down. */
static void add_step(const MaskResampler *resampler, Field *field, int64_t x, int64_t row,
                     int64_t sign)
{
    const MaskSteps *rows = &resampler->rows, *columns = &resampler->columns;
    int64_t width = field->right - field->left;
    int64_t *line = field->difference + (rows->first[row] - field->top) * width +
                    (columns->first[x] - field->left);
    const int32_t *weight = columns->value + columns->offset[x];
    int n_columns = columns->offset[x + 1] - columns->offset[x];
    for (int32_t i = rows->offset[row]; i < rows->offset[row + 1]; i++, line += width) {
        int64_t height = sign * rows->value[i];
        for (int c = 0; c < n_columns; c++) line[c] += height * weight[c];
    }
}

/* Partial sums stay in range: after each step a column holds a mask, perhaps one open below. */
static void add_runs(const MaskResampler *resampler, Field *field, const Rle *mask)
{
    int64_t height = mask->height, x = 0, y = 0;
    for (int64_t i = 0; i < mask->n; i++) {
        int64_t left = mask->counts[i];
        if (i % 2 == 0) {
            x += (y + left) / height;
            y = (y + left) % height;
            continue;
        }
        while (left > 0) {
            int64_t length = min_i64(left, height - y), column = source_column(resampler, x);
            add_step(resampler, field, column, y, 1);
            add_step(resampler, field, column, y + length, -1);
            left -= length;
            y += length;
            if (y < height) break;
            y = 0;
            x++;
        }
    }
}

static uint32_t kind_of(int64_t value)
{
    return value <= 0 ? SOFT_ZEROS : value >= product_ones ? SOFT_ONES : SOFT_LITERAL;
}

/* Words of one row; -1 if they do not fit. As soft_runs_encode_row, for fixed-point values that
 * start at column `left`. */
static int64_t write_row(const int64_t *value, int64_t width, int64_t left, uint32_t *words,
                         int64_t capacity)
{
    int64_t used = 0;
    while (width > 0 && value[width - 1] == 0) width--; /* trailing zeros are implied */
    if (width > 0 && left > 0) {
        if (capacity < 1) return -1;
        words[used++] = SOFT_ZEROS | (uint32_t)left;
    }
    for (int64_t x = 0; x < width;) {
        uint32_t kind = kind_of(value[x]);
        int64_t begin = x++;
        while (x < width && kind_of(value[x]) == kind) x++;
        if (used + 1 + (kind == SOFT_LITERAL ? x - begin : 0) > capacity) return -1;
        words[used++] = kind | (uint32_t)(x - begin);
        for (int64_t k = begin; kind == SOFT_LITERAL && k < x; k++) {
            float literal = (float)value[k] * (1.0f / (float)((int64_t)1 << PRODUCT_BITS));
            memcpy(words + used++, &literal, sizeof literal);
        }
    }
    return used;
}

static Status write_field(const Field *field, int64_t side, uint32_t *words, int64_t *used,
                          int64_t capacity, int32_t *rows)
{
    int64_t width = field->right - field->left;
    const int64_t *difference = field->difference;
    for (int64_t y = 0; y < side; y++) {
        rows[y] = (int32_t)*used;
        if (y < field->top || y >= field->bottom) continue;
        for (int64_t x = 0; x < width; x++) field->sum[x] += difference[x];
        difference += width;
        int64_t n = write_row(field->sum, width, field->left, words + *used, capacity - *used);
        if (n < 0)
            return status_fail(E_CONFIG,
                               "the masks need more than mask_words = %lld words; raise mask_words",
                               (long long)capacity);
        *used += n;
    }
    rows[side] = (int32_t)*used;
    return OK;
}

Status mask_to_soft_runs(MaskResampler *resampler, const Rle *mask, int64_t side, uint32_t *words,
                         int64_t *used, int64_t capacity, int32_t *rows)
{
    assert(mask->height == resampler->in.height && mask->width == resampler->in.width);
    assert(resampler->out.height <= side && side <= SOFT_LENGTH_MASK && capacity <= INT32_MAX);
    int64_t box[4];
    rle_bbox(mask, box);
    Field field = {0};
    if (box[2] > 0) {
        TRY(open_field(resampler, box, &field));
        add_runs(resampler, &field, mask);
    }
    return write_field(&field, side, words, used, capacity, rows);
}

/* ---- Pixels above a threshold ---- */

/* Reads one token at `word`; returns the next token's place. */
static const uint32_t *next_token(const uint32_t *word, uint32_t *kind, int64_t *length,
                                  const uint32_t **literals)
{
    *kind = *word & SOFT_KIND_MASK;
    *length = *word & SOFT_LENGTH_MASK;
    *literals = word + 1;
    return word + 1 + (*kind == SOFT_LITERAL ? *length : 0);
}

static bool literal_above(uint32_t bits, float threshold)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value > threshold;
}

static int64_t count_literals(const uint32_t *literals, int64_t length, float threshold)
{
    int64_t count = 0;
    for (int64_t i = 0; i < length; i++) count += literal_above(literals[i], threshold);
    return count;
}

int64_t mask_count_above(const uint32_t *words, const int32_t *rows, int64_t side, float threshold)
{
    int64_t count = 0, length;
    uint32_t kind;
    const uint32_t *literals;
    for (const uint32_t *word = words + rows[0], *end = words + rows[side]; word < end;) {
        word = next_token(word, &kind, &length, &literals);
        if (kind == SOFT_ONES) count += length;
        if (kind == SOFT_LITERAL) count += count_literals(literals, length, threshold);
    }
    return count;
}

/* The offset inside a token of its k-th pixel above the threshold. */
static int64_t offset_in_token(uint32_t kind, const uint32_t *literals, int64_t k, float threshold)
{
    if (kind == SOFT_ONES) return k;
    int64_t i = 0;
    for (;; i++)
        if (literal_above(literals[i], threshold) && k-- == 0) return i;
}

void mask_pixels_above(const uint32_t *words, const int32_t *rows, int64_t side, float threshold,
                       const int64_t *numbers, int64_t n, int32_t *xy)
{
    int64_t passed = 0, found = 0, length;
    uint32_t kind;
    const uint32_t *literals;
    for (int64_t y = 0; y < side && found < n; y++) {
        int64_t x = 0;
        for (const uint32_t *word = words + rows[y]; word < words + rows[y + 1]; x += length) {
            word = next_token(word, &kind, &length, &literals);
            int64_t above = kind == SOFT_ONES      ? length
                            : kind == SOFT_LITERAL ? count_literals(literals, length, threshold)
                                                   : 0;
            for (; found < n && numbers[found] < passed + above; found++) {
                int64_t offset = offset_in_token(kind, literals, numbers[found] - passed,
                                                 threshold);
                xy[2 * found] = (int32_t)(x + offset);
                xy[2 * found + 1] = (int32_t)y;
            }
            passed += above;
        }
    }
    assert(found == n);
}
