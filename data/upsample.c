/* Logits to masks of the image's size. See upsample.h. */
#include "data/upsample.h"

#include <math.h>
#include <string.h>

static void fill_axis(const UpsampleAxis *axis, int64_t in, int64_t out)
{
    float ratio = (float)in / (float)out; /* in f32, as torch has it */
    for (int64_t i = 0; i < out; i++) {
        float source = ((float)i + 0.5f) * ratio - 0.5f;
        if (source < 0) source = 0;
        int64_t first = (int64_t)source;
        if (first > in - 1) first = in - 1;
        axis->first[i] = (int32_t)first;
        axis->second[i] = (int32_t)(first < in - 1 ? first + 1 : first);
        axis->weight[i] = source - (float)first;
    }
}

static UpsampleAxis take_axis(char **memory, int64_t n)
{
    UpsampleAxis axis = {.first = (int32_t *)*memory};
    axis.second = axis.first + n;
    axis.weight = (float *)(axis.second + n);
    *memory = (char *)(axis.weight + n);
    return axis;
}

Status upsampler_prepare(Upsampler *upsampler, int64_t lowres, int64_t frame, ImageSize image)
{
    Upsampler *u = upsampler;
    ImageSize extent = resize_fit(image, frame);
    size_t per_entry = 2 * sizeof(int32_t) + sizeof(float);
    size_t widest = (size_t)(image.width > frame ? image.width : frame);
    /* Scratch: all low-resolution rows at the image's width, two rows of the frame, one row before
     * its columns are resized, and one row of the result. */
    size_t n_floats = (size_t)(lowres + 2) * (size_t)image.width + widest + (size_t)image.width;
    TRY(buffer_reserve(&u->tables, (size_t)(frame + image.height + image.width) * per_entry));
    TRY(buffer_reserve(&u->scratch, n_floats * sizeof(float)));
    char *memory = u->tables.data;
    u->to_frame = take_axis(&memory, frame);
    u->to_rows = take_axis(&memory, image.height);
    u->to_columns = take_axis(&memory, image.width);
    fill_axis(&u->to_frame, lowres, frame);
    fill_axis(&u->to_rows, extent.height, image.height);
    fill_axis(&u->to_columns, extent.width, image.width);
    u->lowres = lowres;
    u->frame = frame;
    u->extent = extent;
    u->image = image;
    return OK;
}

void upsampler_free(Upsampler *upsampler)
{
    buffer_free(&upsampler->tables);
    buffer_free(&upsampler->scratch);
    *upsampler = (Upsampler){0};
}

static void resize_row(const UpsampleAxis *axis, const float *row, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) {
        float a = row[axis->first[i]], b = row[axis->second[i]], w = axis->weight[i];
        dst[i] = (1 - w) * a + w * b;
    }
}

static void blend_rows(const float *a, const float *b, float weight, int64_t n, float *restrict dst)
{
    for (int64_t i = 0; i < n; i++) dst[i] = (1 - weight) * a[i] + weight * b[i];
}

/* The rows of the frame are made when the result first asks for them; it never asks backwards, and
 * for two at a time. */
typedef struct Rows {
    const Upsampler *u;
    const float *wide; /* (lowres, image.width) */
    float *kept[2];
    int64_t number[2]; /* which row of the frame is kept; -1: none */
} Rows;

static const float *frame_row(Rows *rows, int64_t number)
{
    int slot = (int)(number % 2);
    const UpsampleAxis *axis = &rows->u->to_frame;
    int64_t width = rows->u->image.width;
    if (rows->number[slot] != number)
        blend_rows(rows->wide + axis->first[number] * width,
                   rows->wide + axis->second[number] * width, axis->weight[number], width,
                   rows->kept[slot]);
    rows->number[slot] = number;
    return rows->kept[slot];
}

/* Row by row, into `logits`, or thresholded into `mask`. */
static void upsample(Upsampler *u, const float *lowres, float *logits, uint8_t *mask)
{
    int64_t width = u->image.width;
    float *wide = u->scratch.data, *kept = wide + u->lowres * width, *line = kept + 2 * width;
    float *own_row = line + (width > u->frame ? width : u->frame);
    for (int64_t y = 0; y < u->lowres; y++) {
        resize_row(&u->to_frame, lowres + y * u->lowres, u->extent.width, line);
        resize_row(&u->to_columns, line, width, wide + y * width);
    }
    Rows rows = {.u = u, .wide = wide, .kept = {kept, kept + width}, .number = {-1, -1}};
    for (int64_t y = 0; y < u->image.height; y++) {
        const float *first = frame_row(&rows, u->to_rows.first[y]);
        const float *second = frame_row(&rows, u->to_rows.second[y]);
        float *row = logits ? logits + y * width : own_row;
        blend_rows(first, second, u->to_rows.weight[y], width, row);
        for (int64_t x = 0; mask && x < width; x++) mask[y * width + x] = row[x] > 0;
    }
}

void upsample_logits(Upsampler *upsampler, const float *lowres, float *dst)
{
    upsample(upsampler, lowres, dst, NULL);
}

void upsample_mask(Upsampler *upsampler, const float *lowres, uint8_t *dst)
{
    upsample(upsampler, lowres, NULL, dst);
}
