/* The evaluation's clicker and its distance transform: every click of the table of known answers,
 * and the transform against its definition. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "data/clicker.h"
#include "data/source.h"
#include "tests/kat.h"
#include "tests/support.h"

static void must(Status status) { cr_assert(status == OK, "%s", status_message()); }

/* ---- the transform ---- */

/* By definition: the nearest zero, the ring outside included. */
static int64_t nearest_zero(const uint8_t *mask, int64_t height, int64_t width, int64_t y0,
                            int64_t x0)
{
    int64_t best = INT64_MAX;
    for (int64_t y = -1; y <= height; y++)
        for (int64_t x = -1; x <= width; x++) {
            bool inside = y >= 0 && y < height && x >= 0 && x < width;
            int64_t squared = (y - y0) * (y - y0) + (x - x0) * (x - x0);
            if ((!inside || !mask[y * width + x]) && squared < best) best = squared;
        }
    return best;
}

Test(distance, equals_its_definition)
{
    static const int64_t sizes[][2] = {{1, 1}, {1, 7}, {9, 1}, {13, 17}, {24, 19}};
    DistanceScratch scratch = {0};
    uint8_t mask[24 * 19];
    int32_t squared[24 * 19];
    for (uint64_t round = 0; round < 60; round++) {
        int64_t height = sizes[round % 5][0], width = sizes[round % 5][1];
        double share = (double)(round / 5) / 11; /* of zeros; 0: all foreground */
        RngKey key = {.purpose = RNG_TEST, .sample = round};
        for (int64_t i = 0; i < height * width; i++)
            mask[i] = rng_uniform(key, (uint64_t)i) < share * share ? 0 : 255;
        must(distance_squared(&scratch, mask, height, width, width, squared));
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++) {
                int64_t wanted = nearest_zero(mask, height, width, y, x);
                if (!mask[y * width + x]) wanted = 0;
                cr_assert_eq(squared[y * width + x], wanted, "round %d, (%d,%d): %d, wanted %d",
                             (int)round, (int)x, (int)y, squared[y * width + x], (int)wanted);
            }
    }
    distance_scratch_free(&scratch);
}

/* ---- known answers ---- */

enum { N_MASKS = 10, N_CLICKS = 4 };

typedef struct Case { /* one mask of the table */
    ImageSize size;
    int64_t n_px;
    uint8_t *truth, *prediction;
    Clicker clicker;
    Click clicks[N_CLICKS];
} Case;

static void fill_box(uint8_t *dst, ImageSize size, const int64_t box[4])
{
    memset(dst, 0, (size_t)(size.height * size.width));
    for (int64_t y = box[1]; y < box[1] + box[3]; y++)
        memset(dst + y * size.width + box[0], 1, (size_t)box[2]);
}

/* What the table says was predicted in front of each click. */
static void predict(Case *c, const Rle *mask, int click)
{
    int64_t box[4];
    rle_bbox(mask, box);
    memset(c->prediction, 0, (size_t)c->n_px);
    if (click == 1) fill_box(c->prediction, c->size, box);
    if (click < 2) return;
    for (int64_t i = 0; i < c->n_px; i++) c->prediction[i] = (c->truth[i] != 0) == (click == 3);
}

/* Error pixels of the kind "in a, not in b", counted apart from the clicker. */
static int64_t count_wrong(const uint8_t *a, const uint8_t *b, int64_t n_px)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_px; i++) n += a[i] && !b[i];
    return n;
}

/* Pixels of the chosen map that attain the maximum, on a map of the whole image. */
static int64_t count_deepest(const Case *c, int n_earlier, const Click *click)
{
    const uint8_t *in = click->positive ? c->truth : c->prediction;
    const uint8_t *out = click->positive ? c->prediction : c->truth;
    int64_t deepest = click->positive ? click->missing : click->superfluous, n = 0;
    uint8_t *wrong = mem_alloc((size_t)c->n_px);
    int32_t *squared = mem_alloc((size_t)c->n_px * sizeof *squared);
    DistanceScratch scratch = {0};
    for (int64_t i = 0; i < c->n_px; i++) wrong[i] = in[i] && !out[i];
    must(distance_squared(&scratch, wrong, c->size.height, c->size.width, c->size.width, squared));
    for (int i = 0; i < n_earlier; i++)
        squared[c->clicks[i].y * c->size.width + c->clicks[i].x] = 0;
    for (int64_t i = 0; i < c->n_px; i++) n += squared[i] == deepest;
    distance_scratch_free(&scratch);
    free(squared);
    free(wrong);
    return n;
}

static void expect_row(const Case *c, const KatRow *row, int i)
{
    const Click *click = &c->clicks[i];
    double a = sqrt((double)click->missing), b = sqrt((double)click->superfluous);
    const double got[6] = {click->positive,
                           (double)click->x,
                           (double)click->y,
                           (double)count_deepest(c, i, click),
                           (double)count_wrong(c->truth, c->prediction, c->n_px),
                           (double)count_wrong(c->prediction, c->truth, c->n_px)};
    /* Nine digits are printed, which tell the roots of neighbouring integers apart. */
    cr_expect_float_eq(a, row->a, 1e-6, "%s %s: missing %.9g, wanted %.9g", row->mode, row->item, a,
                       row->a);
    cr_expect_float_eq(b, row->b, 1e-6, "%s %s: superfluous %.9g, wanted %.9g", row->mode,
                       row->item, b, row->b);
    for (int v = 0; v < 6; v++)
        cr_expect_eq(got[v], row->v[v], "%s %s: v%d is %.9g, wanted %.9g", row->mode, row->item, v,
                     got[v], row->v[v]);
}

static int check_mask(Case *c, const Rle *mask, const KatTable *table, int number)
{
    char mode[32], item[32];
    int n = 0;
    rle_decode(mask, c->truth);
    snprintf(mode, sizeof mode, "mask %d", number);
    for (int i = 0; i < N_CLICKS; i++) {
        snprintf(item, sizeof item, "click %d", i);
        const KatRow *row = kat_find(table, "sa_1", mode, item);
        cr_assert_not_null(row, "%s %s", mode, item);
        predict(c, mask, i);
        must(clicker_next(&c->clicker, c->truth, c->prediction, c->size, i, c->clicks,
                          &c->clicks[i]));
        expect_row(c, row, i);
        n++;
    }
    return n;
}

Test(clicks, of_sa_1_equal_the_official_ones)
{
    char table_path[256], mask_path[256];
    KatTable table = {0};
    Annotations annotations = {0};
    SKIP_WITHOUT("spec/kat/clicks.tsv", table_path);
    SKIP_WITHOUT("data/sa1b/pairs/sa_1.json", mask_path);
    must(kat_load(table_path, &table));
    must(annotations_read(mask_path, &annotations));
    Case c = {.size = {annotations.height, annotations.width}};
    c.n_px = c.size.height * c.size.width;
    c.truth = mem_alloc((size_t)c.n_px);
    c.prediction = mem_alloc((size_t)c.n_px);
    int n = 0;
    for (int mask = 0; mask < N_MASKS; mask++)
        n += check_mask(&c, &annotations.items[mask].mask, &table, mask);
    cr_expect_eq(n, table.n_rows, "%d clicks checked of %d in the table", n, table.n_rows);
    clicker_free(&c.clicker);
    free(c.truth);
    free(c.prediction);
    annotations_free(&annotations);
    kat_free(&table);
}
