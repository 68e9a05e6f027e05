/* One embedding to bytes and back. See embedding_codec.h. */
#include "data/embedding_codec.h"

#include <zstd.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/tensor.h"

const char *const embedding_dtype_names[EMBEDDING_DTYPES] = {"f32", "f16", "bf16", "int8"};

struct EmbeddingCodec {
    EmbeddingForm form;
    int zstd_level;
    float *channels; /* (D, cells) f32 */
    char *plain;     /* the form, before zstd */
    char *planes;    /* the same, its bytes split; NULL if they are not */
    char *packed;
    size_t packed_room;
    ZSTD_CCtx *packer;
    ZSTD_DCtx *unpacker;
};

static size_t value_bytes(EmbeddingDType dtype)
{
    return dtype == EMBEDDING_F32 ? 4 : dtype == EMBEDDING_INT8 ? 1 : 2;
}

size_t embedding_plain_bytes(const EmbeddingForm *form)
{
    size_t values = (size_t)(form->cells * form->dim) * value_bytes(form->dtype);
    return form->dtype == EMBEDDING_INT8 ? values + (size_t)form->dim * sizeof(float) : values;
}

static bool has_planes(const EmbeddingForm *form)
{
    return form->packed && value_bytes(form->dtype) == 2;
}

/* ---- creation ---- */

static bool allocate(EmbeddingCodec *codec)
{
    const EmbeddingForm *form = &codec->form;
    size_t n_plain = embedding_plain_bytes(form);
    codec->channels = malloc((size_t)(form->cells * form->dim) * sizeof(float));
    codec->plain = malloc(n_plain);
    if (!codec->channels || !codec->plain) return false;
    if (!form->packed) return true;
    codec->packed_room = ZSTD_compressBound(n_plain);
    codec->packed = malloc(codec->packed_room);
    codec->packer = ZSTD_createCCtx();
    codec->unpacker = ZSTD_createDCtx();
    if (has_planes(form)) codec->planes = malloc(n_plain);
    return codec->packed && codec->packer && codec->unpacker &&
           (codec->planes || !has_planes(form));
}

Status embedding_codec_create(const EmbeddingForm *form, int zstd_level, EmbeddingCodec **out)
{
    EmbeddingCodec *codec = calloc(1, sizeof *codec);
    if (!codec) return status_fail(E_MEMORY, "out of memory: codec of embeddings");
    codec->form = *form;
    codec->zstd_level = zstd_level;
    if (allocate(codec)) {
        *out = codec;
        return OK;
    }
    embedding_codec_destroy(codec);
    return status_fail(E_MEMORY, "out of memory: codec of embeddings of %lld x %lld values",
                       (long long)form->dim, (long long)form->cells);
}

void embedding_codec_destroy(EmbeddingCodec *codec)
{
    if (!codec) return;
    free(codec->channels);
    free(codec->plain);
    free(codec->planes);
    free(codec->packed);
    ZSTD_freeCCtx(codec->packer);
    ZSTD_freeDCtx(codec->unpacker);
    free(codec);
}

/* ---- values ---- */

/* dst[c][r] = src[r][c], in tiles that stay in the first cache. */
static void transpose(float *dst, const float *src, int64_t rows, int64_t columns)
{
    enum { TILE = 32 };
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c0 = 0; c0 < columns; c0 += TILE)
            for (int64_t c = c0; c < columns && c < c0 + TILE; c++)
                for (int64_t r = r0; r < rows && r < r0 + TILE; r++)
                    dst[c * rows + r] = src[r * columns + c];
}

static float largest_magnitude(const float *values, int64_t n)
{
    float largest = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) return NAN;
        largest = fmaxf(largest, fabsf(values[i]));
    }
    return largest;
}

static void quantize(const EmbeddingForm *form, const float *channels, char *plain)
{
    float *scales = (float *)plain;
    int8_t *values = (int8_t *)(scales + form->dim);
    for (int64_t d = 0; d < form->dim; d++) {
        const float *channel = channels + d * form->cells;
        float scale = largest_magnitude(channel, form->cells) / 127;
        float inverse = scale > 0 ? 1 / scale : 0;
        scales[d] = scale;
        for (int64_t c = 0; c < form->cells; c++)
            values[d * form->cells + c] = (int8_t)lrintf(channel[c] * inverse);
    }
}

static void dequantize(const EmbeddingForm *form, const char *plain, float *channels)
{
    const float *scales = (const float *)plain;
    const int8_t *values = (const int8_t *)(scales + form->dim);
    for (int64_t d = 0; d < form->dim; d++)
        for (int64_t c = 0; c < form->cells; c++)
            channels[d * form->cells + c] = scales[d] * values[d * form->cells + c];
}

static void to_plain(EmbeddingCodec *codec)
{
    int64_t n = codec->form.cells * codec->form.dim;
    const float *channels = codec->channels;
    uint16_t *halves = (uint16_t *)codec->plain;
    switch (codec->form.dtype) {
    case EMBEDDING_F16:
        for (int64_t i = 0; i < n; i++) halves[i] = f16_from_f32(channels[i]);
        break;
    case EMBEDDING_BF16:
        for (int64_t i = 0; i < n; i++) halves[i] = bf16_from_f32(channels[i]);
        break;
    case EMBEDDING_INT8: quantize(&codec->form, channels, codec->plain); break;
    default: memcpy(codec->plain, channels, (size_t)n * sizeof(float));
    }
}

static void from_plain(EmbeddingCodec *codec, const char *plain)
{
    int64_t n = codec->form.cells * codec->form.dim;
    float *channels = codec->channels;
    const uint16_t *halves = (const uint16_t *)plain;
    switch (codec->form.dtype) {
    case EMBEDDING_F16:
        for (int64_t i = 0; i < n; i++) channels[i] = f16_to_f32(halves[i]);
        break;
    case EMBEDDING_BF16:
        for (int64_t i = 0; i < n; i++) channels[i] = bf16_to_f32(halves[i]);
        break;
    case EMBEDDING_INT8: dequantize(&codec->form, plain, channels); break;
    default: memcpy(channels, plain, (size_t)n * sizeof(float));
    }
}

static void split_planes(char *dst, const char *src, size_t n_values)
{
    for (size_t i = 0; i < n_values; i++) {
        dst[i] = src[2 * i];
        dst[n_values + i] = src[2 * i + 1];
    }
}

static void join_planes(char *dst, const char *src, size_t n_values)
{
    for (size_t i = 0; i < n_values; i++) {
        dst[2 * i] = src[i];
        dst[2 * i + 1] = src[n_values + i];
    }
}

/* ---- encoding ---- */

static const float largest_value[EMBEDDING_DTYPES] = {3.4028235e38f, 65504.0f, 3.3895314e38f,
                                                      3.4028235e38f};

static Status check_values(const EmbeddingCodec *codec)
{
    EmbeddingDType dtype = codec->form.dtype;
    float largest = largest_magnitude(codec->channels, codec->form.cells * codec->form.dim);
    if (isnan(largest))
        return status_fail(E_NUMERIC, "the teacher's embedding has a value that is no number");
    if (largest <= largest_value[dtype]) return OK;
    return status_fail(E_NUMERIC,
                       "the teacher's embedding has a value of magnitude %g, %s holds up to %g; "
                       "use bf16",
                       largest, embedding_dtype_names[dtype], largest_value[dtype]);
}

Status embedding_encode(EmbeddingCodec *codec, const float *view, const void **bytes,
                        size_t *n_bytes)
{
    const EmbeddingForm *form = &codec->form;
    size_t n_plain = embedding_plain_bytes(form);
    const char *plain = codec->plain;
    transpose(codec->channels, view, form->cells, form->dim);
    TRY(check_values(codec));
    to_plain(codec);
    *bytes = plain;
    *n_bytes = n_plain;
    if (!form->packed) return OK;
    if (codec->planes) {
        split_planes(codec->planes, plain, n_plain / 2);
        plain = codec->planes;
    }
    size_t n = ZSTD_compressCCtx(codec->packer, codec->packed, codec->packed_room, plain, n_plain,
                                 codec->zstd_level);
    if (ZSTD_isError(n))
        return status_fail(E_MEMORY, "zstd cannot pack an embedding: %s", ZSTD_getErrorName(n));
    *bytes = codec->packed;
    *n_bytes = n;
    return OK;
}

/* ---- decoding ---- */

static Status unpack(EmbeddingCodec *codec, const void *bytes, size_t n_bytes, const char **plain)
{
    size_t n_plain = embedding_plain_bytes(&codec->form);
    char *dst = codec->planes ? codec->planes : codec->plain;
    size_t n = ZSTD_decompressDCtx(codec->unpacker, dst, n_plain, bytes, n_bytes);
    if (ZSTD_isError(n))
        return status_fail(E_FORMAT, "zstd cannot unpack it: %s", ZSTD_getErrorName(n));
    if (n != n_plain)
        return status_fail(E_FORMAT, "it unpacks to %zu bytes, wanted %zu", n, n_plain);
    if (codec->planes) join_planes(codec->plain, codec->planes, n_plain / 2);
    *plain = codec->plain;
    return OK;
}

Status embedding_decode(EmbeddingCodec *codec, const void *bytes, size_t n_bytes, float *view)
{
    const EmbeddingForm *form = &codec->form;
    const char *plain = bytes;
    if (form->packed)
        TRY(unpack(codec, bytes, n_bytes, &plain));
    else if (n_bytes != embedding_plain_bytes(form))
        return status_fail(E_FORMAT, "it has %zu bytes, wanted %zu", n_bytes,
                           embedding_plain_bytes(form));
    from_plain(codec, plain);
    transpose(view, codec->channels, form->dim, form->cells);
    return OK;
}
