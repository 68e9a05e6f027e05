/* Mean IoU by size. See miou.h. */
#include "train/miou.h"

#include <math.h>

const char *const area_class_names[N_AREA_CLASSES] = {"all", "large", "medium", "small"};

static const double UNITS = (double)((int64_t)1 << 36);
static const double lowest_px[N_AREA_CLASSES] = {-INFINITY, 96 * 96, 32 * 32, -INFINITY};
static const double highest_px[N_AREA_CLASSES] = {INFINITY, INFINITY, 96 * 96, 32 * 32};

double mask_iou(const uint8_t *a, const uint8_t *b, int64_t n_px)
{
    int64_t common = 0, either = 0;
    for (int64_t i = 0; i < n_px; i++) {
        common += a[i] & b[i];
        either += a[i] | b[i];
    }
    return (double)common / ((double)either + 1e-7);
}

void miou_add(Miou *miou, double area_px, double iou)
{
    for (int i = 0; i < N_AREA_CLASSES; i++) {
        if (!(area_px >= lowest_px[i] && area_px <= highest_px[i])) continue;
        miou->sum[i] += llround(iou * UNITS);
        miou->n[i]++;
    }
}

static void merge(Miou *miou, const Miou *other)
{
    for (int i = 0; i < N_AREA_CLASSES; i++) {
        miou->sum[i] += other->sum[i];
        miou->n[i] += other->n[i];
    }
}

Status miou_merge_ranks(Comm *comm, Miou *miou)
{
    Miou own = *miou;
    *miou = (Miou){0};
    for (int rank = 0; rank < comm_size(comm); rank++) {
        Miou part = own;
        TRY(comm_broadcast(comm, "a rank's scores", &part, sizeof part, rank));
        merge(miou, &part);
    }
    return OK;
}

double miou_mean(const Miou *miou, AreaClass area)
{
    return miou->n[area] > 0 ? (double)miou->sum[area] / UNITS / (double)miou->n[area] : NAN;
}
