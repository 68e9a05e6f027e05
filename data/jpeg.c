/* JPEG through libjpeg-turbo's TurboJPEG interface. See jpeg.h. */
#include "data/jpeg.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <turbojpeg.h>

#include "data/buffer.h"

/* The accurate DCT and smooth up-sampling are the defaults of the decompressor; asking for them by
 * name keeps them if a default changes. Warnings stop; progressive files of absurdly many scans
 * stop, too. */
enum { DECODE_FLAGS = TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS };

static const int64_t max_file_bytes = (int64_t)1 << 30;
static const int64_t max_px = (int64_t)1 << 28;

struct JpegDecoder {
    tjhandle handle;
    Buffer file, pixels;
};

Status jpeg_create(JpegDecoder **out)
{
    JpegDecoder *decoder = calloc(1, sizeof *decoder);
    if (decoder != NULL) decoder->handle = tjInitDecompress();
    if (decoder == NULL || decoder->handle == NULL) {
        free(decoder);
        return status_fail(E_MEMORY, "out of memory: JPEG decoder");
    }
    *out = decoder;
    return OK;
}

void jpeg_destroy(JpegDecoder *decoder)
{
    if (decoder == NULL) return;
    if (decoder->handle != NULL) tjDestroy(decoder->handle);
    buffer_free(&decoder->file);
    buffer_free(&decoder->pixels);
    free(decoder);
}

/* Only halvings: for them libjpeg-turbo has vector code, the eighths between are slower than full
 * size. */
static tjscalingfactor choose_scale(int64_t longer_px, int64_t min_side_px)
{
    tjscalingfactor scale = {1, 1};
    if (min_side_px <= 0) return scale;
    while (scale.denom < 8 && longer_px >= 2 * scale.denom * min_side_px) scale.denom *= 2;
    return scale;
}

/* A failure can leave the library in the middle of a head, which the next file would be taken to go
 * on with; nothing but a new instance ends that. */
static Status fail_decode(JpegDecoder *decoder, const char *path)
{
    Status status = status_fail(
        E_FORMAT, "%s: damaged or unsupported JPEG: %s; get the file again or remove it", path,
        tjGetErrorStr2(decoder->handle));
    tjDestroy(decoder->handle);
    decoder->handle = tjInitDecompress();
    return decoder->handle ? status : status_fail(E_MEMORY, "out of memory: JPEG decoder");
}

Status jpeg_decode(JpegDecoder *decoder, const char *path, const void *bytes, size_t n_bytes,
                   int64_t min_side_px, JpegImage *image)
{
    int width, height, subsampling, colour_space;
    if (tjDecompressHeader3(decoder->handle, bytes, n_bytes, &width, &height, &subsampling,
                            &colour_space) != 0)
        return fail_decode(decoder, path);
    if (width < 1 || height < 1 || (int64_t)width * height > max_px)
        return status_fail(E_FORMAT, "%s: %d x %d px, wanted 1..2^28 px in all", path, width,
                           height);

    tjscalingfactor scale = choose_scale(width > height ? width : height, min_side_px);
    int out_width = TJSCALED(width, scale), out_height = TJSCALED(height, scale);
    TRY(buffer_reserve(&decoder->pixels, (size_t)out_width * (size_t)out_height * 3));
    if (tjDecompress2(decoder->handle, bytes, n_bytes, decoder->pixels.data, out_width, 0,
                      out_height, TJPF_RGB, DECODE_FLAGS) != 0)
        return fail_decode(decoder, path);
    *image = (JpegImage){.height = out_height,
                         .width = out_width,
                         .full_height = height,
                         .full_width = width,
                         .reduction = scale.denom,
                         .pixels = decoder->pixels.data};
    return OK;
}

Status jpeg_read(JpegDecoder *decoder, const char *path, int64_t min_side_px, JpegImage *image)
{
    size_t n_bytes = 0;
    TRY(buffer_read_file(&decoder->file, path, max_file_bytes, &n_bytes));
    return jpeg_decode(decoder, path, decoder->file.data, n_bytes, min_side_px, image);
}

/* ---- Encoding ---- */

struct JpegEncoder {
    tjhandle handle;
    Buffer file;
};

Status jpeg_encoder_create(JpegEncoder **out)
{
    JpegEncoder *encoder = calloc(1, sizeof *encoder);
    if (encoder != NULL) encoder->handle = tjInitCompress();
    if (encoder == NULL || encoder->handle == NULL) {
        free(encoder);
        return status_fail(E_MEMORY, "out of memory: JPEG encoder");
    }
    *out = encoder;
    return OK;
}

void jpeg_encoder_destroy(JpegEncoder *encoder)
{
    if (encoder == NULL) return;
    tjDestroy(encoder->handle);
    buffer_free(&encoder->file);
    free(encoder);
}

Status jpeg_encode(JpegEncoder *encoder, const uint8_t *pixels, int64_t height, int64_t width,
                   int quality, const uint8_t **bytes, size_t *n_bytes)
{
    assert(height >= 1 && width >= 1 && height <= 65500 && width <= 65500);
    assert(quality >= 1 && quality <= 100);
    unsigned long used = tjBufSize((int)width, (int)height, TJSAMP_420); /* of the worst image */
    TRY(buffer_reserve(&encoder->file, used));
    unsigned char *file = encoder->file.data;
    if (tjCompress2(encoder->handle, pixels, (int)width, 0, (int)height, TJPF_RGB, &file, &used,
                    TJSAMP_420, quality, TJFLAG_ACCURATEDCT | TJFLAG_NOREALLOC) != 0)
        return status_fail(E_MEMORY, "JPEG of %lld x %lld px: %s", (long long)width,
                           (long long)height, tjGetErrorStr2(encoder->handle));
    *bytes = file;
    *n_bytes = used;
    return OK;
}
