/* Polygons to masks. See polygon.h.
 *
 * Positions are counted down the columns, as in run-length codes. A polygon is the set of positions
 * at which its mask changes sides; sorted, two by two, they are its spans of foreground. An outline
 * that passes a position twice changes nothing there.
 */
#include "data/polygon.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { FINE = 5, LARGEST_PX = 1 << 20 }; /* steps of the walk per pixel */

typedef struct Point {
    int64_t x, y; /* of the fine grid */
} Point;

typedef struct Span {
    int64_t first, end; /* positions */
} Span;

typedef struct Walk { /* along one polygon's outline */
    PolygonScratch *scratch;
    int64_t height, width;
    Point before; /* the last point */
    int64_t n_crossings;
} Walk;

void polygon_scratch_free(PolygonScratch *scratch)
{
    buffer_free(&scratch->crossings);
    buffer_free(&scratch->spans);
    buffer_free(&scratch->counts);
}

/* ---- one outline ---- */

static Status add_crossing(Walk *walk, int64_t column, int64_t fine_y)
{
    PolygonScratch *scratch = walk->scratch;
    double y = ceil(((double)fine_y + 0.5) / FINE - 0.5);
    if (y < 0) y = 0;
    if (y > (double)walk->height) y = (double)walk->height;
    TRY(buffer_grow(&scratch->crossings, (size_t)(walk->n_crossings + 1) * sizeof(int64_t)));
    int64_t *crossings = scratch->crossings.data;
    crossings[walk->n_crossings++] = column * walk->height + (int64_t)y;
    return OK;
}

/* A column's middle lies between its third and fourth fine column. */
static Status step_to(Walk *walk, Point to)
{
    Point from = walk->before;
    walk->before = to;
    if (to.x == from.x) return OK;
    int64_t left = to.x < from.x ? to.x : to.x - 1, upper = to.y < from.y ? to.y : from.y;
    if (left < 0 || left % FINE != FINE / 2 || left / FINE >= walk->width) return OK;
    return add_crossing(walk, left / FINE, upper);
}

/* Not inlined, or the compiler would fuse the product with the sum it goes into: without the
 * rounding in between a point that lies half-way may go to the other side than the source's. */
__attribute__((noinline)) static double product(double a, double b) { return a * b; }

/* Every point of an edge, in steps of one along its longer axis. The points of an edge walked
 * backwards are those of the edge walked forwards, so that neighbours share them. */
static Status walk_edge(Walk *walk, Point from, Point to)
{
    int64_t dx = llabs(to.x - from.x), dy = llabs(to.y - from.y), n = dx >= dy ? dx : dy;
    bool flat = dx >= dy, back = flat ? from.x > to.x : from.y > to.y;
    Point a = back ? to : from, b = back ? from : to;
    double slope = n == 0 ? 0 : (double)(flat ? b.y - a.y : b.x - a.x) / (double)n;
    for (int64_t i = 0; i <= n; i++) {
        int64_t t = back ? n - i : i;
        int64_t start = flat ? a.y : a.x;
        int64_t across = (int64_t)((double)start + product(slope, (double)t) + 0.5);
        TRY(step_to(walk, flat ? (Point){a.x + t, across} : (Point){across, a.y + t}));
    }
    return OK;
}

static Status fine_point(const double xy[2], Point *out)
{
    if (!(fabs(xy[0]) <= LARGEST_PX && fabs(xy[1]) <= LARGEST_PX))
        return status_fail(E_FORMAT, "a polygon has the corner %g,%g, wanted at most %d px", xy[0],
                           xy[1], LARGEST_PX);
    *out = (Point){(int64_t)(product(FINE, xy[0]) + 0.5), (int64_t)(product(FINE, xy[1]) + 0.5)};
    return OK;
}

static Status walk_outline(Walk *walk, const Polygon *polygon)
{
    Point first = {0}, from, to = {0};
    TRY(fine_point(polygon->xy, &first));
    walk->before = from = first;
    for (int64_t i = 1; i <= polygon->n; i++, from = to) {
        to = first;
        if (i < polygon->n) TRY(fine_point(polygon->xy + 2 * i, &to));
        TRY(walk_edge(walk, from, to));
    }
    return OK;
}

static int by_position(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Crossings of equal position cancel out in the spans: one that ends where the next begins is
 * joined with it later, and one that begins where it ends is empty. */
static Status append_spans(PolygonScratch *scratch, int64_t n_crossings, int64_t n_px,
                           int64_t *n_spans)
{
    int64_t *crossings = scratch->crossings.data;
    TRY(buffer_grow(&scratch->spans, (size_t)(*n_spans + n_crossings / 2 + 1) * sizeof(Span)));
    Span *spans = scratch->spans.data;
    if (n_crossings == 0) return OK;
    qsort(crossings, (size_t)n_crossings, sizeof *crossings, by_position);
    for (int64_t i = 0; i < n_crossings; i += 2) {
        int64_t end = i + 1 < n_crossings ? crossings[i + 1] : n_px;
        if (end > crossings[i]) spans[(*n_spans)++] = (Span){crossings[i], end};
    }
    return OK;
}

/* ---- the union ---- */

static int by_first(const void *a, const void *b)
{
    int64_t x = ((const Span *)a)->first, y = ((const Span *)b)->first;
    return (x > y) - (x < y);
}

/* Joins spans that overlap or touch; returns how many are left. */
static int64_t join_spans(Span *spans, int64_t n)
{
    int64_t n_joined = 0;
    if (n == 0) return 0;
    qsort(spans, (size_t)n, sizeof *spans, by_first);
    for (int64_t i = 0; i < n; i++) {
        Span *last = n_joined > 0 ? &spans[n_joined - 1] : NULL;
        if (!last || spans[i].first > last->end)
            spans[n_joined++] = spans[i];
        else if (spans[i].end > last->end)
            last->end = spans[i].end;
    }
    return n_joined;
}

static Status write_runs(PolygonScratch *scratch, int64_t n_spans, int64_t n_px, Rle *out)
{
    const Span *spans = scratch->spans.data;
    TRY(buffer_reserve(&scratch->counts, (size_t)(2 * n_spans + 1) * sizeof(uint32_t)));
    out->counts = scratch->counts.data;
    int64_t position = 0;
    for (int64_t i = 0; i < n_spans; i++) {
        out->counts[out->n++] = (uint32_t)(spans[i].first - position);
        out->counts[out->n++] = (uint32_t)(spans[i].end - spans[i].first);
        position = spans[i].end;
    }
    if (position < n_px || n_spans == 0) out->counts[out->n++] = (uint32_t)(n_px - position);
    return OK;
}

Status polygons_to_rle(PolygonScratch *scratch, const Polygon *polygons, int64_t n_polygons,
                       int64_t height, int64_t width, Rle *out)
{
    int64_t n_spans = 0, n_px = height * width;
    *out = (Rle){.height = height, .width = width};
    for (int64_t i = 0; i < n_polygons; i++) {
        Walk walk = {.scratch = scratch, .height = height, .width = width};
        if (polygons[i].n == 0) continue;
        TRY(walk_outline(&walk, &polygons[i]));
        TRY(append_spans(scratch, walk.n_crossings, n_px, &n_spans));
    }
    n_spans = join_spans(scratch->spans.data, n_spans);
    return write_runs(scratch, n_spans, n_px, out);
}

/* ---- measures ---- */

static double polygon_area(const Polygon *polygon)
{
    double twice = 0;
    for (int64_t i = 0; i < polygon->n; i++) {
        const double *a = polygon->xy + 2 * i, *b = polygon->xy + 2 * ((i + 1) % polygon->n);
        twice += a[0] * b[1] - b[0] * a[1];
    }
    return fabs(twice) / 2;
}

double polygons_area(const Polygon *polygons, int64_t n_polygons)
{
    double area = 0;
    for (int64_t i = 0; i < n_polygons; i++) area += polygon_area(&polygons[i]);
    return area;
}

void polygons_extent(const Polygon *polygons, int64_t n_polygons, double extent[4])
{
    extent[0] = extent[1] = INFINITY;
    extent[2] = extent[3] = -INFINITY;
    for (int64_t p = 0; p < n_polygons; p++)
        for (int64_t i = 0; i < 2 * polygons[p].n; i++) {
            double *low = &extent[i % 2], *high = &extent[2 + i % 2];
            *low = fmin(*low, polygons[p].xy[i]);
            *high = fmax(*high, polygons[p].xy[i]);
        }
    for (int i = 0; i < 4; i++)
        if (isinf(extent[i])) extent[i] = 0;
}
