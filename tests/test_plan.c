/* The placement is a pure function: its properties are checked on random live ranges. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/plan.h"
#include "base/rng.h"

static RngKey key_of(uint64_t trial)
{
    return (RngKey){.seed = 7, .purpose = RNG_TEST, .sample = trial};
}

/* Nested, short and long lives, as forward and backward passes make them. */
static int random_blocks(uint64_t trial, PlanBlock *blocks, int capacity)
{
    RngKey key = key_of(trial);
    int n = 1 + (int)rng_below(key, 0, (uint64_t)capacity);
    for (int i = 0; i < n; i++) {
        uint64_t at = 1 + 3 * (uint64_t)i;
        int32_t first = (int32_t)rng_below(key, at, 200);
        int32_t length = (int32_t)rng_below(key, at + 1, rng_below(key, at + 1, 4) ? 10 : 200);
        size_t bytes = rng_below(key, at + 2, 8) == 0 ? 0 : (size_t)rng_below(key, at + 2, 100000);
        blocks[i] = (PlanBlock){.bytes = bytes, .first = first, .last = first + length};
    }
    return n;
}

static bool overlap(const PlanBlock *a, const PlanBlock *b)
{
    bool in_time = a->first <= b->last && b->first <= a->last;
    bool in_memory = a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
    return in_time && in_memory && a->bytes > 0 && b->bytes > 0;
}

Test(plan, live_blocks_never_overlap_and_peak_is_between_the_bounds)
{
    enum { CAPACITY = 120 };
    PlanBlock blocks[CAPACITY];
    for (uint64_t trial = 0; trial < 300; trial++) {
        int n = random_blocks(trial, blocks, CAPACITY);
        size_t arena = plan_place(blocks, n), naive = 0;
        for (int i = 0; i < n; i++) {
            cr_assert_eq(blocks[i].offset % PLAN_ALIGN, 0);
            cr_assert_leq(blocks[i].offset + blocks[i].bytes, arena);
            naive += blocks[i].bytes;
            for (int j = 0; j < i; j++)
                cr_assert(!overlap(&blocks[i], &blocks[j]), "trial %d: blocks %d and %d",
                          (int)trial, i, j);
        }
        cr_assert_geq(arena, plan_lower_bound(blocks, n));
        cr_assert_leq(arena, naive);
    }
}

Test(plan, lives_that_only_touch_do_overlap)
{
    PlanBlock blocks[] = {{.bytes = 256, .first = 0, .last = 3},
                          {.bytes = 256, .first = 3, .last = 5}};
    cr_assert_eq(plan_place(blocks, 2), 512);
    PlanBlock apart[] = {{.bytes = 256, .first = 0, .last = 2},
                         {.bytes = 256, .first = 3, .last = 5}};
    cr_assert_eq(plan_place(apart, 2), 256);
}

Test(plan, lower_bound_is_the_largest_sum_of_live_bytes)
{
    PlanBlock blocks[] = {{.bytes = 100, .first = 0, .last = 9},
                          {.bytes = 30, .first = 2, .last = 4},
                          {.bytes = 50, .first = 5, .last = 7}};
    cr_assert_eq(plan_lower_bound(blocks, 3), 150);
}

Test(plan, equal_inputs_give_equal_plans)
{
    PlanBlock a[100], b[100];
    int n = random_blocks(3, a, 100);
    memcpy(b, a, sizeof a);
    cr_assert_eq(plan_place(a, n), plan_place(b, n));
    cr_assert_arr_eq(a, b, (size_t)n * sizeof a[0]);
}
