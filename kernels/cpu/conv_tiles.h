/* Rows of results of a dense f32 convolution, by tiles, with short sums: what the forward pass
 * (conv_forward.c) and the data pass (conv_data.c) share.
 *
 * oneDNN adds all R*S*C products of a result in one chain of roundings, whose error grows with the
 * square root of its length; the batch norms behind linear attention magnify it tenfold (see
 * README, "What f32 costs"). Here a chain is at most CONV_TERMS products of one tap, and the chains
 * are added up: a third of the error for the same number of operations. Where that would be 36
 * products for 2x2 results, conv_winograd.h has 16: half the time for thrice that error.
 */
#ifndef RETORT_KERNELS_CPU_CONV_TILES_H
#define RETORT_KERNELS_CPU_CONV_TILES_H

#include "kernels/cpu/conv.h"
#include "kernels/cpu/tile.h"

/* products of one chain; channels of a panel of weights: what tile_matmul holds in registers;
 * panels that share a copy of pixels */
enum { CONV_TERMS = 64, CONV_PANEL = 2 * TILE_VEC, CONV_SHARING = 16 };

/* Where result (n, y, x, 0) lies: at offset + n*image + y*row + x*pixel, in floats. */
typedef struct ConvPlace {
    int64_t offset, image, row, pixel;
} ConvPlace;

/* conv_tiles_scratch: bytes of scratch that conv_tiles_run wants. */
size_t conv_tiles_scratch(int n_threads, const ConvShape *shape);

/* conv_tiles_run: the convolution of `shape` (as a forward pass, one group) from src (n,h,w,c).
 * shapes  packed (K/PANEL, R*S, C, PANEL), the last panel as narrow as it is; bias (K) or NULL; dst
 *         as `place` says
 * units   K is a multiple of TILE_VEC */
void conv_tiles_run(int n_threads, const ConvShape *shape, const float *src, const float *packed,
                    const float *bias, const ConvPlace *place, float *dst, float *scratch);

/* conv_copy_pixels: rows (end - begin, width) = `width` channels, from `from` on, of the pixels
 * [begin, end) of a row of n_pixels with `channels` channels; zeros beside it. */
void conv_copy_pixels(const float *from, int64_t channels, int64_t n_pixels, int64_t begin,
                      int64_t end, int64_t width, float *rows);

#endif
