/* base/rng.h on the device: the same Philox4x32-10 of the same keys, so that a draw is equal
 * wherever it is made. The sample id of a key is 0 in all kernels.
 */
#ifndef RETORT_KERNELS_CUDA_RNG_CUH
#define RETORT_KERNELS_CUDA_RNG_CUH

#include "kernels/cuda/launch.h"

/* rng_u64 of the key {seed, purpose, epoch, sample 0}. */
static __device__ __forceinline__ uint64_t philox_u64(uint64_t seed, unsigned purpose,
                                                      unsigned epoch, uint64_t index)
{
    uint64_t mixed = seed ^ ((uint64_t)purpose * 0x9E3779B97F4A7C15u);
    unsigned key0 = (unsigned)mixed, key1 = (unsigned)(mixed >> 32);
    unsigned c0 = (unsigned)index, c1 = epoch ^ ((unsigned)(index >> 32) << 16), c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0, product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (unsigned)(product1 >> 32) ^ c1 ^ key0;
        c2 = (unsigned)(product0 >> 32) ^ c3 ^ key1;
        c1 = (unsigned)product1;
        c3 = (unsigned)product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return ((uint64_t)c1 << 32) | c0;
}

/* rng_uniform: [0, 1), 53 bits. */
static __device__ __forceinline__ double philox_uniform(uint64_t seed, unsigned purpose,
                                                        unsigned epoch, uint64_t index)
{
    return (double)(philox_u64(seed, purpose, epoch, index) >> 11) * 0x1p-53;
}

/* rng_below: the upper half of the product of 64 bits with n < 2^32. */
static __device__ __forceinline__ uint64_t philox_below(uint64_t seed, unsigned purpose,
                                                        unsigned epoch, uint64_t index, uint64_t n)
{
    uint64_t draw = philox_u64(seed, purpose, epoch, index);
    uint64_t low = (draw & 0xffffffffu) * n, high = (draw >> 32) * n;
    return (high + (low >> 32)) >> 32;
}

#endif
