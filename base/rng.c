/* Philox4x32-10 and what is drawn from it. See rng.h. */
#include "base/rng.h"

#include <assert.h>
#include <math.h>

static void philox_round(uint32_t counter[4], const uint32_t key[2])
{
    uint64_t product0 = (uint64_t)0xD2511F53u * counter[0];
    uint64_t product1 = (uint64_t)0xCD9E8D57u * counter[2];
    uint32_t next[4] = {
        (uint32_t)(product1 >> 32) ^ counter[1] ^ key[0],
        (uint32_t)product1,
        (uint32_t)(product0 >> 32) ^ counter[3] ^ key[1],
        (uint32_t)product0,
    };
    for (int i = 0; i < 4; i++) counter[i] = next[i];
}

static void philox(RngKey key, uint64_t index, uint32_t out[4])
{
    /* 160 bits of identity go into 128 bits of counter and 64 of key: the purpose is mixed into the
     * key, epoch shares a word with the high half of the index (an index stays below 2^32). */
    uint64_t mixed = key.seed ^ ((uint64_t)key.purpose * 0x9E3779B97F4A7C15u);
    uint32_t round_key[2] = {(uint32_t)mixed, (uint32_t)(mixed >> 32)};
    out[0] = (uint32_t)index;
    out[1] = key.epoch ^ ((uint32_t)(index >> 32) << 16);
    out[2] = (uint32_t)key.sample;
    out[3] = (uint32_t)(key.sample >> 32);
    for (int round = 0; round < 10; round++) {
        philox_round(out, round_key);
        round_key[0] += 0x9E3779B9u;
        round_key[1] += 0xBB67AE85u;
    }
}

uint64_t rng_u64(RngKey key, uint64_t index)
{
    uint32_t word[4];
    philox(key, index, word);
    return ((uint64_t)word[1] << 32) | word[0];
}

double rng_uniform(RngKey key, uint64_t index)
{
    return (double)(rng_u64(key, index) >> 11) * 0x1p-53;
}

double rng_normal(RngKey key, uint64_t index)
{
    uint32_t word[4];
    philox(key, index, word);
    double u = ((double)word[0] + 0.5) * 0x1p-32; /* never 0, so the logarithm is finite */
    double angle = 6.283185307179586 * ((double)word[1] * 0x1p-32);
    return sqrt(-2.0 * log(u)) * cos(angle);
}

uint64_t rng_below(RngKey key, uint64_t index, uint64_t n)
{
    assert(n > 0);
    return (uint64_t)(((unsigned __int128)rng_u64(key, index) * n) >> 64);
}

uint64_t rng_permute(RngKey key, uint64_t position, uint64_t n)
{
    assert(position < n);
    int half_bits = 1;
    while (half_bits < 32 && ((uint64_t)1 << (2 * half_bits)) < n) half_bits++;
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    do { /* walk the cycle until the value falls inside 0..n-1: at most four steps on average */
        uint64_t left = position >> half_bits, right = position & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (rng_u64(key, (round << half_bits) | right) & mask);
            left = right;
            right = next;
        }
        position = (left << half_bits) | right;
    } while (position >= n);
    return position;
}

uint64_t rng_name_hash(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash;
}
