/* Dense f32 convolutions of 3x3 at stride 1 with 16 products where there would be 36.
 *
 * Winograd's F(2x2, 3x3): with 2x2 results y, the 4x4 pixels d that they see and the taps g,
 *
 *   y = A^T [ (G g G^T) * (B^T d B) ] A
 *
 * where * is element by element, so that each of the 16 elements is a matrix product over channels.
 * It is linear in g, too: dg = G^T [ (A dy A^T) * (B^T d B) ] G. A, B and G hold 0, 1, -1 and 1/2
 * alone, so the results are as good as direct ones to a small factor; larger tiles would not be.
 *
 * source  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1
 *
 * Called by conv_tiles.c (forward and data pass) and conv_weight.c.
 */
#ifndef RETORT_KERNELS_CPU_CONV_WINOGRAD_H
#define RETORT_KERNELS_CPU_CONV_WINOGRAD_H

#include "kernels/cpu/conv_tiles.h"

/* elements of a tile; pixels of its side in the map, and of its results */
enum { WINO_ELEMS = 16, WINO_SIDE = 4, WINO_STEP = 2 };

/* conv_winograd_plane: floats from one element of many tiles to the next, of which each takes
 * n_floats: an odd number of cache lines, so that the elements of a tile lie in different sets of a
 * cache. */
static inline int64_t conv_winograd_plane(int64_t n_floats)
{
    return (tile_round(n_floats) / TILE_LANES | 1) * TILE_LANES;
}

/* conv_winograd_suits: whether the shape is one for this, whatever the pass. */
bool conv_winograd_suits(const ConvShape *shape);

/* conv_winograd_tiles: tiles of all images; they are counted row by row, image by image. */
int64_t conv_winograd_tiles(const ConvShape *shape);

/* conv_winograd_scratch, conv_winograd_run: as conv_tiles_scratch and conv_tiles_run. */
size_t conv_winograd_scratch(int n_threads, const ConvShape *shape);
void conv_winograd_run(int n_threads, const ConvShape *shape, const float *src, const float *packed,
                       const float *bias, const ConvPlace *place, float *dst, float *scratch);

/* conv_winograd_source: v (16,n_tiles,n_c) = B^T d B of channels [c, c + n_c) of src (n,h,w,C).
 * conv_winograd_results: v (16,n_tiles,n_k) = A dy A^T of channels [k, k + n_k) of ddst
 *   (n,out_h,out_w,K).
 * conv_winograd_taps: dw (n_k,3,3,n_c), a part of (K,3,3,C), = G^T v G of v (16,n_k,n_c).
 * units   n_c, n_k are multiples of TILE_VEC, at most CONV_TERMS; elements of v are a
 * conv_winograd_plane apart */
void conv_winograd_source(const ConvShape *shape, const float *src, int64_t first_tile,
                          int64_t n_tiles, int64_t c, int64_t n_c, float *v);
void conv_winograd_results(const ConvShape *shape, const float *ddst, int64_t first_tile,
                           int64_t n_tiles, int64_t k, int64_t n_k, float *v);
void conv_winograd_taps(const ConvShape *shape, int64_t n_k, int64_t n_c, const float *v,
                        float *dw);

#endif
