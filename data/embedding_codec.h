/* One embedding to bytes and back: in 32, 16 or 8 bits a number, packed by zstd or not. The only
 * place that knows zstd.
 *
 * Called by data/embedding_shard.c and data/embedding_cache.c. A codec serves one thread and keeps
 * its memory between embeddings.
 *
 * Form, before zstd: (D,grid,grid), PyTorch's order.
 *   f32, f16, bf16  the values. Under zstd 16-bit values lie as two planes, all low bytes and then
 *                   all high bytes, because only the latter (sign and exponent) have patterns
 *   int8            D scales (f32), then the values as multiples of their channel's scale, which is
 *                   the channel's largest magnitude / 127
 */
#ifndef RETORT_DATA_EMBEDDING_CODEC_H
#define RETORT_DATA_EMBEDDING_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum EmbeddingDType {
    EMBEDDING_F32,
    EMBEDDING_F16,
    EMBEDDING_BF16,
    EMBEDDING_INT8,
    EMBEDDING_DTYPES
} EmbeddingDType;

extern const char *const embedding_dtype_names[EMBEDDING_DTYPES]; /* "f32", "f16", .. */

typedef struct EmbeddingForm {
    EmbeddingDType dtype;
    bool packed;        /* by zstd */
    int64_t cells, dim; /* grid * grid, D */
} EmbeddingForm;

/* embedding_plain_bytes: of a view before zstd; what it takes if nothing can be packed. */
size_t embedding_plain_bytes(const EmbeddingForm *form);

typedef struct EmbeddingCodec EmbeddingCodec;

/* embedding_codec_create: zstd_level  of packing, 1..22; ignored if the form is not packed, and for
 * reading. errors  E_MEMORY */
Status embedding_codec_create(const EmbeddingForm *form, int zstd_level, EmbeddingCodec **out);
void embedding_codec_destroy(EmbeddingCodec *codec);

/* embedding_encode: shapes  view (cells, D) f32, our order
 * bytes   valid until the codec's next use
 * errors  E_NUMERIC if a value is no number, or too large for the dtype; E_MEMORY if zstd fails */
Status embedding_encode(EmbeddingCodec *codec, const float *view, const void **bytes,
                        size_t *n_bytes);

/* embedding_decode: the inverse. errors  E_FORMAT, without naming a file, if the bytes are no
 * embedding of this form */
Status embedding_decode(EmbeddingCodec *codec, const void *bytes, size_t n_bytes, float *view);

#endif
