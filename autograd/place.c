/* Placement of blocks with live ranges in one arena: a pure function. See plan.h.
 *
 * Largest first, each at the lowest offset that is free during its whole life. For the graphs here
 * this stays within a few per cent of the lower bound, because the big activations dominate.
 */
#include <stdlib.h>

#include "autograd/plan.h"
#include "base/memory.h"

static int by_size(const void *a, const void *b)
{
    const PlanBlock *x = *(const PlanBlock *const *)a, *y = *(const PlanBlock *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x < y ? -1 : x > y; /* ties by index, so that equal inputs give equal plans */
}

static bool alive_together(const PlanBlock *a, const PlanBlock *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* `placed` is sorted by offset: walks the gaps between the blocks alive together with `block`. */
static size_t lowest_gap(const PlanBlock *block, PlanBlock *const *placed, int n_placed)
{
    size_t offset = 0;
    for (int i = 0; i < n_placed; i++) {
        if (!alive_together(block, placed[i])) continue;
        if (placed[i]->offset >= offset + block->bytes) break;
        size_t end = placed[i]->offset + placed[i]->bytes;
        if (end > offset) offset = end;
    }
    return offset;
}

static void insert_by_offset(PlanBlock *block, PlanBlock **placed, int n_placed)
{
    int i = n_placed;
    for (; i > 0 && placed[i - 1]->offset > block->offset; i--) placed[i] = placed[i - 1];
    placed[i] = block;
}

size_t plan_place(PlanBlock *blocks, int n_blocks)
{
    PlanBlock **order = mem_alloc((size_t)n_blocks * sizeof *order);
    PlanBlock **placed = mem_alloc((size_t)n_blocks * sizeof *placed);
    int n_order = 0, n_placed = 0;
    size_t arena = 0;
    for (int i = 0; i < n_blocks; i++) {
        blocks[i].bytes = (blocks[i].bytes + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
        blocks[i].offset = 0;
        if (blocks[i].bytes > 0) order[n_order++] = &blocks[i];
    }
    qsort(order, (size_t)n_order, sizeof *order, by_size);
    for (int i = 0; i < n_order; i++) {
        order[i]->offset = lowest_gap(order[i], placed, n_placed);
        insert_by_offset(order[i], placed, n_placed++);
        size_t end = order[i]->offset + order[i]->bytes;
        if (end > arena) arena = end;
    }
    free(order);
    free(placed);
    return arena;
}

typedef struct Change {
    int32_t at;
    int64_t bytes;
} Change;

static int by_position(const void *a, const void *b)
{
    const Change *x = a, *y = b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* deaths before births */
}

size_t plan_lower_bound(const PlanBlock *blocks, int n_blocks)
{
    Change *changes = mem_alloc(2 * (size_t)n_blocks * sizeof *changes);
    for (int i = 0; i < n_blocks; i++) {
        changes[2 * i] = (Change){blocks[i].first, (int64_t)blocks[i].bytes};
        changes[2 * i + 1] = (Change){blocks[i].last + 1, -(int64_t)blocks[i].bytes};
    }
    qsort(changes, 2 * (size_t)n_blocks, sizeof *changes, by_position);
    int64_t live = 0, most = 0;
    for (int i = 0; i < 2 * n_blocks; i++) {
        live += changes[i].bytes;
        if (live > most) most = live;
    }
    free(changes);
    return (size_t)most;
}
