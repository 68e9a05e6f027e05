/* Antialiased bilinear resampling. See resize.h. */
#include "data/resize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { CHANNELS = 3, WEIGHT_BITS = 22 /* of Pillow's fixed-point weights */ };

static const float channel_mean[CHANNELS] = {123.675f, 116.28f, 103.53f};
static const float channel_std[CHANNELS] = {58.395f, 57.12f, 57.375f};

ImageSize resize_fit(ImageSize size, int64_t side)
{
    int64_t longer = size.height > size.width ? size.height : size.width;
    double scale = (double)side / (double)longer;
    int64_t height = (int64_t)floor((double)size.height * scale + 0.5);
    int64_t width = (int64_t)floor((double)size.width * scale + 0.5);
    return (ImageSize){height > 0 ? height : 1, width > 0 ? width : 1};
}

/* Fills output i of the table. */
static void fill_output(ResizeAxis *axis, int64_t i, double ratio, double support)
{
    double centre = ((double)i + 0.5) * ratio;
    int64_t first = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
    if (first < 0) first = 0;
    if (end > axis->in) end = axis->in;
    double *weight = axis->weight + i * axis->stride, sum = 0.0;
    for (int64_t j = first; j < end; j++) {
        double distance = fabs(((double)j + 0.5 - centre) / support);
        weight[j - first] = distance < 1.0 ? 1.0 - distance : 0.0;
        sum += weight[j - first];
    }
    for (int64_t j = 0; j < axis->stride; j++) weight[j] = j < end - first ? weight[j] / sum : 0.0;
    axis->first[i] = (int32_t)first;
    axis->n_taps[i] = (int32_t)(end - first);
}

Status resize_axis_prepare(ResizeAxis *axis, int64_t in, double length, int64_t out)
{
    assert(in > 0 && out > 0 && in <= INT32_MAX && out <= INT32_MAX);
    assert(length > (double)(in - 1) && length <= (double)in);
    if (axis->in == in && axis->out == out && axis->length == length) return OK;
    double ratio = length / (double)out, support = ratio > 1.0 ? ratio : 1.0;
    axis->in = axis->out = 0; /* no table, should the next line fail */
    axis->stride = 2 * (int64_t)ceil(support) + 1;
    size_t n_weights = (size_t)(out * axis->stride);
    TRY(buffer_reserve(&axis->memory,
                       n_weights * sizeof(double) + (size_t)out * 2 * sizeof(int32_t)));
    axis->weight = axis->memory.data;
    axis->first = (int32_t *)(axis->weight + n_weights);
    axis->n_taps = axis->first + out;
    axis->in = in;
    axis->out = out;
    axis->length = length;
    for (int64_t i = 0; i < out; i++) fill_output(axis, i, ratio, support);
    return OK;
}

void resize_axis_free(ResizeAxis *axis)
{
    buffer_free(&axis->memory);
    *axis = (ResizeAxis){0};
}

void resizer_free(Resizer *resizer)
{
    resize_axis_free(&resizer->rows);
    resize_axis_free(&resizer->columns);
    buffer_free(&resizer->scratch);
}

static Status prepare_axes(Resizer *resizer, const Pixels *pixels, ImageSize out)
{
    TRY(resize_axis_prepare(&resizer->rows, pixels->size.height, pixels->height, out.height));
    return resize_axis_prepare(&resizer->columns, pixels->size.width, pixels->width, out.width);
}

/* Vertical pass of one output row: dst[k] = sum over taps of weight * source row[k]. Four taps at a
 * time, so that the running sum is loaded and stored once per four source rows. */
static void blend_rows(const ResizeAxis *rows, int64_t i, const uint8_t *pixels, int64_t row_bytes,
                       float *restrict dst)
{
    const double *weight = rows->weight + i * rows->stride;
    const uint8_t *source = pixels + rows->first[i] * row_bytes;
    int64_t n_taps = rows->n_taps[i], tap = 0;
    memset(dst, 0, (size_t)row_bytes * sizeof(float));
    for (; tap + 4 <= n_taps; tap += 4) {
        const uint8_t *row0 = source + tap * row_bytes, *row1 = row0 + row_bytes;
        const uint8_t *row2 = row1 + row_bytes, *row3 = row2 + row_bytes;
        float w0 = (float)weight[tap], w1 = (float)weight[tap + 1];
        float w2 = (float)weight[tap + 2], w3 = (float)weight[tap + 3];
        for (int64_t k = 0; k < row_bytes; k++)
            dst[k] += w0 * row0[k] + w1 * row1[k] + w2 * row2[k] + w3 * row3[k];
    }
    for (; tap < n_taps; tap++) {
        const uint8_t *row = source + tap * row_bytes;
        float w = (float)weight[tap];
        for (int64_t k = 0; k < row_bytes; k++) dst[k] += w * row[k];
    }
}

/* Horizontal pass of one row, with normalisation. Four lanes are summed where three are channels: a
 * vector load of a pixel and its neighbour is cheaper than three loads. The row has one float to
 * spare. */
static void blend_columns(const ResizeAxis *columns, const float *restrict row, bool flip,
                          float *restrict dst)
{
    for (int64_t i = 0; i < columns->out; i++) {
        const double *weight = columns->weight + i * columns->stride;
        const float *source = row + CHANNELS * columns->first[i];
        float sum[4] = {0};
        for (int64_t tap = 0; tap < columns->n_taps[i]; tap++, source += CHANNELS) {
            float w = (float)weight[tap];
            for (int lane = 0; lane < 4; lane++) sum[lane] += w * source[lane];
        }
        float *pixel = dst + CHANNELS * (flip ? columns->out - 1 - i : i);
        for (int c = 0; c < CHANNELS; c++) pixel[c] = (sum[c] - channel_mean[c]) / channel_std[c];
    }
}

static void pad(float *dst, int64_t side, ImageSize filled)
{
    for (int64_t y = 0; y < filled.height; y++)
        memset(dst + (y * side + filled.width) * CHANNELS, 0,
               (size_t)((side - filled.width) * CHANNELS) * sizeof(float));
    memset(dst + filled.height * side * CHANNELS, 0,
           (size_t)((side - filled.height) * side * CHANNELS) * sizeof(float));
}

Status resize_to_tensor(Resizer *resizer, const Pixels *pixels, ImageSize out, bool flip,
                        int64_t side, float *dst)
{
    assert(out.height <= side && out.width <= side);
    TRY(prepare_axes(resizer, pixels, out));
    int64_t row_bytes = pixels->size.width * CHANNELS;
    TRY(buffer_reserve(&resizer->scratch, (size_t)(row_bytes + 1) * sizeof(float)));
    float *row = resizer->scratch.data;
    row[row_bytes] = 0.0f; /* read by the fourth lane of the last pixel */
    for (int64_t y = 0; y < out.height; y++) {
        blend_rows(&resizer->rows, y, pixels->rgb, row_bytes, row);
        blend_columns(&resizer->columns, row, flip, dst + y * side * CHANNELS);
    }
    pad(dst, side, out);
    return OK;
}

static uint32_t fixed_weight(double weight)
{
    return (uint32_t)(weight * (1 << WEIGHT_BITS) + 0.5);
}

static uint8_t round_fixed(uint32_t sum)
{
    sum = (sum + (1u << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    return (uint8_t)(sum > 255 ? 255 : sum);
}

static void shrink_columns_bytes(const ResizeAxis *columns, const uint8_t *row,
                                 uint8_t *restrict dst)
{
    for (int64_t i = 0; i < columns->out; i++) {
        const double *weight = columns->weight + i * columns->stride;
        const uint8_t *source = row + CHANNELS * columns->first[i];
        uint32_t sum[CHANNELS] = {0};
        for (int64_t tap = 0; tap < columns->n_taps[i]; tap++, source += CHANNELS) {
            uint32_t w = fixed_weight(weight[tap]);
            for (int c = 0; c < CHANNELS; c++) sum[c] += w * source[c];
        }
        for (int c = 0; c < CHANNELS; c++) dst[CHANNELS * i + c] = round_fixed(sum[c]);
    }
}

static void shrink_rows_bytes(const ResizeAxis *rows, int64_t i, const uint8_t *pixels,
                              int64_t row_bytes, uint32_t *restrict sum, uint8_t *restrict dst)
{
    const double *weight = rows->weight + i * rows->stride;
    const uint8_t *source = pixels + rows->first[i] * row_bytes;
    memset(sum, 0, (size_t)row_bytes * sizeof *sum);
    for (int64_t tap = 0; tap < rows->n_taps[i]; tap++, source += row_bytes) {
        uint32_t w = fixed_weight(weight[tap]);
        for (int64_t k = 0; k < row_bytes; k++) sum[k] += w * source[k];
    }
    for (int64_t k = 0; k < row_bytes; k++) dst[k] = round_fixed(sum[k]);
}

Status resize_bytes(Resizer *resizer, const Pixels *pixels, ImageSize out, uint8_t *dst)
{
    TRY(prepare_axes(resizer, pixels, out));
    ImageSize in = pixels->size;
    int64_t in_bytes = in.width * CHANNELS, out_bytes = out.width * CHANNELS;
    size_t sums_bytes = (size_t)out_bytes * sizeof(uint32_t);
    TRY(buffer_reserve(&resizer->scratch, sums_bytes + (size_t)(in.height * out_bytes)));
    uint32_t *sums = resizer->scratch.data;
    const uint8_t *narrowed = pixels->rgb;
    if (in.width != out.width) {
        uint8_t *rows = (uint8_t *)resizer->scratch.data + sums_bytes;
        for (int64_t y = 0; y < in.height; y++)
            shrink_columns_bytes(&resizer->columns, pixels->rgb + y * in_bytes,
                                 rows + y * out_bytes);
        narrowed = rows;
    }
    if (in.height == out.height) {
        memcpy(dst, narrowed, (size_t)(out.height * out_bytes));
        return OK;
    }
    for (int64_t y = 0; y < out.height; y++)
        shrink_rows_bytes(&resizer->rows, y, narrowed, out_bytes, sums, dst + y * out_bytes);
    return OK;
}

void bytes_to_tensor(const uint8_t *pixels, ImageSize size, int64_t side, float *dst)
{
    assert(size.height <= side && size.width <= side);
    for (int64_t y = 0; y < size.height; y++) {
        const uint8_t *row = pixels + y * size.width * CHANNELS;
        float *out = dst + y * side * CHANNELS;
        for (int64_t x = 0; x < size.width; x++)
            for (int c = 0; c < CHANNELS; c++)
                out[CHANNELS * x + c] = ((float)row[CHANNELS * x + c] - channel_mean[c]) /
                                        channel_std[c];
    }
    pad(dst, side, size);
}
