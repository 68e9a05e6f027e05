/* Data parallelism as a function from graph to graph: gradients move into buckets, and each bucket
 * is summed over the ranks as soon as it is complete.
 *
 * A bucket is one value; the gradients in it become views of it, so nothing is copied. ALL_REDUCE
 * goes right behind the last node that touches any of them, in the last iteration of the
 * micro-batch loop, and so runs beside the rest of the backward pass; ALL_REDUCE_WAIT comes at the
 * end of the step, before the optimiser. The graph is the same on all ranks, and so is the order.
 *
 * source  the buckets of PyTorch's DistributedDataParallel (Li et al. 2020, section 3.2)
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/graph_edit.h"
#include "autograd/passes.h"
#include "base/memory.h"

/* gradients begin at multiples of 256 bytes, as the planner's blocks do */
enum { PIECE_ELEMS = 64 };

typedef struct Member { /* a value that moves into a bucket */
    ValueId value;
    int complete; /* number of the last item that touches it, counted through the whole program */
} Member;

/* Where the program is when an item of the step, or of a loop directly in it, has run. */
typedef struct Place {
    RegionId region;
    NodeId node; /* the item, if it is a node; -1: a region */
    int32_t inner_region;
} Place;

typedef struct Buckets {
    Graph *graph;
    Member *members;
    int n_members;
    int *member_of; /* by value: index into members, -1: none */
    Place *places;
    int n_places, place_capacity;
} Buckets;

/* ---- when is each complete ---- */

static void touch(Buckets *b, ValueId value, int place)
{
    if (value == VALUE_NONE) return;
    int member = b->member_of[graph_base(b->graph, value)];
    if (member >= 0) b->members[member].complete = place;
}

static void touch_node(Buckets *b, const Node *node, int place)
{
    if (node->dead) return;
    for (int i = 0; i < node->n_src; i++) touch(b, node->src[i], place);
    for (int i = 0; i < node->n_dst; i++) touch(b, node->dst[i], place);
}

static void touch_region(Buckets *b, RegionId region, int place)
{
    const Region *r = &b->graph->regions[region];
    for (int i = 0; i < r->n_items; i++)
        if (r->items[i].is_region)
            touch_region(b, r->items[i].id, place);
        else
            touch_node(b, &b->graph->nodes[r->items[i].id], place);
}

static int add_place(Buckets *b, Place place)
{
    b->places = mem_grow(b->places, &b->place_capacity, b->n_places + 1, sizeof(Place));
    b->places[b->n_places] = place;
    return b->n_places++;
}

/* Items of the step, and those of its loops one by one; what lies deeper counts as one item. */
static void walk(Buckets *b, RegionId region)
{
    const Region *r = &b->graph->regions[region];
    for (int i = 0; i < r->n_items; i++) {
        Item item = r->items[i];
        if (item.is_region && region == REGION_STEP) {
            walk(b, item.id);
            continue;
        }
        int place = add_place(b, (Place){.region = region,
                                         .node = item.is_region ? -1 : item.id,
                                         .inner_region = item.is_region ? item.id : -1});
        if (item.is_region)
            touch_region(b, item.id, place);
        else
            touch_node(b, &b->graph->nodes[item.id], place);
    }
}

static int by_completion(const void *left, const void *right)
{
    const Member *a = left, *b = right;
    if (a->complete != b->complete) return a->complete < b->complete ? -1 : 1;
    return a->value < b->value ? -1 : a->value > b->value;
}

static void collect(Buckets *b, int n, const ValueId *values)
{
    Graph *graph = b->graph;
    for (ValueId v = 0; v < graph->n_values; v++) b->member_of[v] = -1;
    for (int i = 0; i < n; i++) {
        ValueId base = graph_base(graph, values[i]);
        const Value *value = &graph->values[base];
        assert(value->kind == VALUE_TEMP && value->region == REGION_STEP &&
               value->dtype == DT_F32);
        if (b->member_of[base] >= 0) continue;
        b->member_of[base] = b->n_members;
        b->members[b->n_members++] = (Member){.value = base, .complete = -1};
    }
}

/* ---- moving in ---- */

static int64_t piece_elems(const Graph *graph, ValueId value)
{
    int64_t n = shape_elems(graph->values[value].shape);
    return (n + PIECE_ELEMS - 1) / PIECE_ELEMS * PIECE_ELEMS;
}

/* An accumulator starts at 0 with its whole bucket. */
static void drop_own_fill(Graph *graph, ValueId value)
{
    NodeId producer = graph->values[value].producer;
    if (producer < 0 || graph->nodes[producer].op != OP_FILL) return;
    assert(graph->nodes[producer].attr.fill.value == 0);
    graph->nodes[producer].dead = true;
}

static void move_in(Graph *graph, ValueId value, ValueId bucket, int64_t offset)
{
    drop_own_fill(graph, value);
    for (ValueId v = 1; v < graph->n_values; v++) { /* itself, and views of it */
        Value *view = &graph->values[v];
        if (v != value && !(view->kind == VALUE_VIEW && view->base == value)) continue;
        view->kind = VALUE_VIEW;
        view->base = bucket;
        view->offset += offset;
    }
}

static int item_index(const Graph *graph, const Place *place)
{
    const Region *r = &graph->regions[place->region];
    for (int i = 0; i < r->n_items; i++)
        if (r->items[i].is_region ? r->items[i].id == place->inner_region
                                  : r->items[i].id == place->node)
            return i;
    assert(!"a place is an item");
    return -1;
}

/* The bucket of members first..last-1: its memory, its start and its wait. */
static void make_bucket(Buckets *b, int first, int last, int number)
{
    Graph *graph = b->graph;
    int64_t n_elems = 0;
    for (int i = first; i < last; i++) n_elems += piece_elems(graph, b->members[i].value);
    int mark = graph_label_push(graph, "all_reduce.%d", number);
    ValueId bucket = graph_filled_at(graph, REGION_STEP, 0, DT_F32, SHAPE(n_elems), 0);
    int64_t offset = 0;
    for (int i = first; i < last; i++) {
        move_in(graph, b->members[i].value, bucket, offset);
        offset += piece_elems(graph, b->members[i].value);
    }
    Place place = b->places[b->members[last - 1].complete];
    NodeId start = graph_mutate_at(graph, OP_ALL_REDUCE, NO_ATTR, place.region,
                                   item_index(graph, &place) + 1, 0, NULL, 1, &bucket);
    if (start >= 0) graph->nodes[start].last_only = place.region != REGION_STEP;
    graph_mutate(graph, OP_ALL_REDUCE_WAIT, NO_ATTR, REGION_STEP, 0, NULL, 1, &bucket);
    graph_label_pop(graph, mark);
}

static void make_buckets(Buckets *b, int64_t bucket_bytes)
{
    int number = 0;
    for (int first = 0, last; first < b->n_members; first = last) {
        int64_t bytes = 0;
        for (last = first; last < b->n_members; last++) {
            int64_t more = piece_elems(b->graph, b->members[last].value) * (int64_t)sizeof(float);
            if (last > first && bytes + more > bucket_bytes) break;
            bytes += more;
        }
        make_bucket(b, first, last, number++);
    }
}

void pass_all_reduce(Graph *graph, int64_t bucket_bytes, int n, const ValueId *values)
{
    if (graph->status != OK || n == 0) return;
    Buckets b = {.graph = graph,
                 .members = mem_alloc((size_t)n * sizeof(Member)),
                 .member_of = mem_alloc((size_t)graph->n_values * sizeof(int))};
    collect(&b, n, values);
    walk(&b, REGION_STEP);
    qsort(b.members, (size_t)b.n_members, sizeof(Member), by_completion);
    bool backward = graph->backward;
    graph->backward = true; /* the planner counts buckets as gradients */
    make_buckets(&b, bucket_bytes);
    graph->backward = backward;
    free(b.members);
    free(b.member_of);
    free(b.places);
}

/* ---- accumulating early ---- */

static bool writes(const Graph *graph, const Item *item, ValueId base)
{
    if (item->is_region) {
        const Region *r = &graph->regions[item->id];
        for (int i = 0; i < r->n_items; i++)
            if (writes(graph, &r->items[i], base)) return true;
        return false;
    }
    const Node *node = &graph->nodes[item->id];
    for (int d = 0; d < node->n_dst; d++)
        if (!node->dead && graph_base(graph, node->dst[d]) == base) return true;
    return false;
}

/* Index behind the last of the first n items that writes `value`: its producer, or, for a sum over
 * an inner loop, that loop. */
static int behind_last_writer(const Graph *graph, const Region *region, int n, ValueId value)
{
    ValueId base = graph_base(graph, value);
    while (n > 0 && !writes(graph, &region->items[n - 1], base)) n--;
    return n;
}

void pass_accumulate_early(Graph *graph)
{
    if (graph->status != OK) return;
    for (RegionId region = 1; region < graph->n_regions; region++) {
        Region *r = &graph->regions[region];
        for (int i = 0; i < r->n_items; i++) {
            Item item = r->items[i];
            const Node *node = item.is_region ? NULL : &graph->nodes[item.id];
            if (!node || !node->backward || node->op != OP_ACCUM) continue;
            int to = behind_last_writer(graph, r, i, node->src[0]);
            if (to == 0) continue; /* made outside the loop */
            memmove(&r->items[to + 1], &r->items[to], (size_t)(i - to) * sizeof(Item));
            r->items[to] = item;
        }
    }
}
