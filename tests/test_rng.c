/* The small things that everything rests on: random draws, float conversions, soft runs. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/soft_runs.h"
#include "base/tensor.h"

/* ---- rng ---- */

/* The published known answers of philox4x32-10 (Random123), whose first two words rng_u64 shows. */
Test(rng, known_answers)
{
    RngKey zero = {0}, ones = {.seed = UINT64_MAX, .epoch = UINT32_MAX, .sample = UINT64_MAX};
    RngKey pi = {.seed = 0x299f31d0a4093822, .epoch = 0x85a308d3, .sample = 0x0370734413198a2e};
    cr_assert_eq(rng_u64(zero, 0), 0xe169c58d6627e8d5);
    cr_assert_eq(rng_u64(ones, UINT32_MAX), 0x41c83b0e408f276d);
    cr_assert_eq(rng_u64(pi, 0x243f6a88), 0x94fdccebd16cfe09);
}

Test(rng, every_part_of_the_key_matters)
{
    RngKey keys[] = {{1, RNG_TEST, 1, 1},
                     {2, RNG_TEST, 1, 1},
                     {1, RNG_FLIP, 1, 1},
                     {1, RNG_TEST, 2, 1},
                     {1, RNG_TEST, 1, 2},
                     {1, RNG_TEST, 1, 1 + (1ull << 32)},
                     {1 + (1ull << 32), RNG_TEST, 1, 1}};
    enum { N = sizeof keys / sizeof *keys };
    for (int i = 0; i < N; i++) {
        cr_expect_neq(rng_u64(keys[i], 0), rng_u64(keys[i], 1));
        for (int k = 0; k < i; k++)
            cr_expect_neq(rng_u64(keys[i], 0), rng_u64(keys[k], 0), "%d %d", i, k);
    }
}

enum { N_DRAWS = 100000 };
static const RngKey test_key = {.seed = 7, .purpose = RNG_TEST, .sample = 3};

/* Bounds are five standard deviations of the statistic. */
Test(rng, uniform_draws_are_uniform)
{
    enum { BINS = 64 };
    int count[BINS] = {0};
    double sum = 0, chi2 = 0, product = 0, previous = 0.5;
    for (uint64_t i = 0; i < N_DRAWS; i++) {
        double u = rng_uniform(test_key, i);
        cr_assert(u >= 0 && u < 1);
        count[(int)(u * BINS)]++;
        sum += u;
        product += (u - 0.5) * (previous - 0.5);
        previous = u;
    }
    for (int i = 0; i < BINS; i++)
        chi2 += pow(count[i] - (double)N_DRAWS / BINS, 2) * BINS / N_DRAWS;
    cr_expect_lt(fabs(sum / N_DRAWS - 0.5), 5 * sqrt(1.0 / 12 / N_DRAWS));
    cr_expect_lt(fabs(product / N_DRAWS),
                 5 * sqrt(1.0 / 144 / N_DRAWS)); /* neighbours are unrelated */
    cr_expect_lt(fabs(chi2 - (BINS - 1)), 5 * sqrt(2.0 * (BINS - 1)));
}

Test(rng, normal_draws_are_normal)
{
    double moment[5] = {0};
    for (uint64_t i = 0; i < N_DRAWS; i++)
        for (int p = 1; p <= 4; p++) moment[p] += pow(rng_normal(test_key, i), p) / N_DRAWS;
    cr_expect_lt(fabs(moment[1]), 5 * sqrt(1.0 / N_DRAWS));
    cr_expect_lt(fabs(moment[2] - 1), 5 * sqrt(2.0 / N_DRAWS));
    cr_expect_lt(fabs(moment[3]), 5 * sqrt(15.0 / N_DRAWS));
    cr_expect_lt(fabs(moment[4] - 3), 5 * sqrt(96.0 / N_DRAWS));
}

Test(rng, below_stays_below_and_reaches_all)
{
    int count[10] = {0};
    for (uint64_t i = 0; i < N_DRAWS; i++) {
        uint64_t value = rng_below(test_key, i, 10);
        cr_assert_lt(value, 10);
        count[value]++;
    }
    for (int i = 0; i < 10; i++)
        cr_expect_lt(abs(count[i] - N_DRAWS / 10), 5 * sqrt(N_DRAWS * 0.09));
    cr_expect_eq(rng_below(test_key, 0, 1), 0);
}

Test(rng, permute_is_a_permutation)
{
    const uint64_t sizes[] = {1, 2, 3, 4, 5, 7, 16, 17, 100, 1024, 1025, 11186};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint32_t epoch = 0; epoch < 3; epoch++) {
            uint64_t n = sizes[s];
            RngKey key = {.seed = 5, .purpose = RNG_ORDER, .epoch = epoch};
            bool *seen = mem_alloc(n);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t place = rng_permute(key, i, n);
                cr_assert_lt(place, n);
                cr_assert_not(seen[place], "n %d, position %d", (int)n, (int)i);
                seen[place] = true;
            }
            free(seen);
        }
}

Test(rng, permutations_of_epochs_differ_and_favour_no_place)
{
    enum { N = 100, EPOCHS = 2000 };
    int first[N] = {0}, fixed = 0;
    double chi2 = 0;
    for (uint32_t epoch = 0; epoch < EPOCHS; epoch++) {
        RngKey key = {.seed = 5, .purpose = RNG_ORDER, .epoch = epoch};
        first[rng_permute(key, 0, N)]++;
        for (uint64_t i = 0; i < N; i++) fixed += rng_permute(key, i, N) == i;
    }
    for (int i = 0; i < N; i++) chi2 += pow(first[i] - (double)EPOCHS / N, 2) * N / EPOCHS;
    cr_expect_lt(fabs(chi2 - (N - 1)), 5 * sqrt(2.0 * (N - 1)));
    cr_expect_lt(fabs((double)fixed / EPOCHS - 1),
                 5 * sqrt(1.0 / EPOCHS)); /* one fixed point on average */
}

Test(rng, name_hash_is_fnv1a)
{
    cr_assert_eq(rng_name_hash(""), 0xcbf29ce484222325);
    cr_assert_eq(rng_name_hash("a"), 0xaf63dc4c8601ec8c);
    cr_assert_eq(rng_name_hash("kat.image"), 0xc936374df0b16d78);
}

/* ---- 16-bit floats ---- */

typedef struct Half {
    const char *name;
    uint16_t (*from)(float);
    float (*to)(uint16_t);
    int mantissa_bits, bias;
} Half;

static const Half halves[] = {{"f16", f16_from_f32, f16_to_f32, 10, 15},
                              {"bf16", bf16_from_f32, bf16_to_f32, 7, 127}};

/* The value of a bit pattern, from the definition of IEEE 754. */
static double value_of(const Half *half, uint16_t bits)
{
    int exponent = (bits & 0x7fff) >> half->mantissa_bits;
    double mantissa = bits & ((1 << half->mantissa_bits) - 1);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * half->bias + 1) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - half->bias - half->mantissa_bits);
    return sign * ldexp(mantissa + (1 << half->mantissa_bits),
                        exponent - half->bias - half->mantissa_bits);
}

Test(half, every_pattern_has_its_value_and_comes_back)
{
    for (int k = 0; k < 2; k++)
        for (int bits = 0; bits < 65536; bits++) {
            double wanted = value_of(&halves[k], (uint16_t)bits);
            float got = halves[k].to((uint16_t)bits);
            uint16_t back = halves[k].from(got);
            if (isnan(wanted)) {
                cr_assert(isnan(got) && isnan(halves[k].to(back)), "%s %04x", halves[k].name, bits);
                continue;
            }
            cr_assert_eq((double)got, wanted, "%s %04x", halves[k].name, bits);
            cr_assert_eq(back, bits, "%s %04x came back as %04x", halves[k].name, bits, back);
        }
}

/* Between each pair of neighbours: the middle goes to the even one, anything off it to the
 * nearer one. */
Test(half, rounds_to_nearest_even)
{
    for (int k = 0; k < 2; k++) {
        const Half *half = &halves[k];
        int largest = ((2 * half->bias + 1) << half->mantissa_bits) -
                      1; /* of the finite patterns */
        for (int bits = 0; bits < largest; bits++) {
            double low = value_of(half, (uint16_t)bits),
                   high = value_of(half, (uint16_t)(bits + 1));
            float middle = (float)((low + high) / 2); /* exact: float has more bits */
            int even = bits & 1 ? bits + 1 : bits;
            cr_assert_eq(half->from(middle), even, "%s %04x", half->name, bits);
            cr_assert_eq(half->from(-middle), even | 0x8000, "%s -%04x", half->name, bits);
            cr_assert_eq(half->from(nextafterf(middle, 0)), bits, "%s %04x", half->name, bits);
            cr_assert_eq(half->from(nextafterf(middle, INFINITY)), bits + 1, "%s %04x", half->name,
                         bits);
        }
        double step = value_of(half, (uint16_t)largest) - value_of(half, (uint16_t)(largest - 1));
        double limit = value_of(half, (uint16_t)largest) + step / 2; /* from here on: infinity */
        cr_assert_eq(half->from(nextafterf((float)limit, 0)), largest, "%s", half->name);
        cr_assert(isinf(half->to(half->from((float)limit))), "%s", half->name);
        cr_assert(isinf(half->to(half->from(INFINITY))), "%s", half->name);
    }
}

Test(half, tensors_are_converted_through_any_pair)
{
    const DType dtypes[] = {DT_F32, DT_F64, DT_BF16, DT_F16};
    const float source[] = {0, -1, 1.5f, 0.1f, 60000, 1e-3f};
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            double first[6], second[6], one[6], two[6];
            tensor_convert(first, dtypes[a], source, DT_F32, 6);
            tensor_convert(second, dtypes[b], first, dtypes[a], 6);
            tensor_convert(one, DT_F64, first, dtypes[a], 6);
            tensor_convert(two, DT_F64, second, dtypes[b], 6);
            double precision = dtypes[a] == DT_BF16 || dtypes[b] == DT_BF16 ? 1.0 / 256
                                                                            : 1.0 / 2048;
            for (int i = 0; i < 6; i++) {
                cr_expect_lt(fabs(two[i] - (double)source[i]),
                             2 * precision * fabs((double)source[i]) + 1e-7);
                if (a == b) cr_expect_eq(one[i], two[i]);
            }
        }
}

/* ---- soft runs ---- */

/* A row of spans of 0, of 1 and of fringe, chosen by `seed`; longer than a token can say if n is
 * large. */
static void paint_row(float *row, int64_t n, uint64_t seed)
{
    RngKey key = {.seed = seed, .purpose = RNG_TEST};
    uint64_t draw = 0;
    for (int64_t x = 0; x < n;) {
        uint64_t kind = rng_below(key, draw++, 3);
        int64_t length = 1 + (int64_t)rng_below(key, draw++, (uint64_t)n);
        for (; length > 0 && x < n; length--, x++)
            row[x] = kind < 2 ? (float)kind : (float)((rng_below(key, draw++, 1000) + 1) / 1002.0);
    }
}

Test(soft_runs, a_row_comes_back)
{
    const int64_t widths[] = {1, 2, 3, 17, 512, 200000};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            int64_t width = widths[w], capacity = 2 * width + 8;
            float *row = mem_alloc((size_t)width * sizeof *row),
                  *back = mem_alloc((size_t)width * sizeof *back);
            uint32_t *words = mem_alloc((size_t)capacity * sizeof *words);
            paint_row(row, width, seed);
            memset(back, 0xff, (size_t)width * sizeof *back);
            int64_t used = soft_runs_encode_row(row, width, words, capacity);
            cr_assert_geq(used, 0);
            soft_runs_expand_row(words, words + used, back, width);
            cr_assert_eq(memcmp(row, back, (size_t)width * sizeof *row), 0, "width %d, seed %d",
                         (int)width, (int)seed);
            if (used > 0) cr_assert_eq(soft_runs_encode_row(row, width, words, used - 1), -1);
            free(row), free(back), free(words);
        }
}

Test(soft_runs, empty_and_full_rows_are_short)
{
    float row[300];
    uint32_t words[8];
    for (int i = 0; i < 300; i++) row[i] = 0;
    cr_assert_eq(soft_runs_encode_row(row, 300, words, 8), 0);
    for (int i = 100; i < 200; i++) row[i] = 1;
    cr_assert_eq(soft_runs_encode_row(row, 300, words, 8),
                 2); /* zeros, ones; the rest is implied */
    cr_assert_eq(words[1], SOFT_ONES | 100u);
}
