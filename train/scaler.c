/* Loss scaling of fp16 runs. See scaler.h. */
#include "train/scaler.h"

#define FIRST_SCALE 65536.0f

static Status get(const Scaler *scaler, int entry, float *value)
{
    Tensor host = {.dtype = DT_F32, .shape = SHAPE(1), .data = value};
    return store_get(scaler->store, entry, &host);
}

static Status set(const Scaler *scaler, int entry, float value)
{
    Tensor host = {.dtype = DT_F32, .shape = SHAPE(1), .data = &value};
    return store_set(scaler->store, entry, &host);
}

Status scaler_declare(Scaler *scaler, Store *store, DType precision)
{
    *scaler = (Scaler){.store = store, .scale = -1, .good_steps = -1, .skipped_steps = -1};
    if (precision != DT_F16) return OK;
    const char *names[] = {"scaler.scale", "scaler.good_steps", "scaler.skipped_steps"};
    int *entries[] = {&scaler->scale, &scaler->good_steps, &scaler->skipped_steps};
    for (int i = 0; i < 3; i++)
        TRY(store_declare(store, names[i], STORE_SCALER, LAYOUT_PLAIN, DT_F32, SHAPE(1),
                          entries[i]));
    return OK;
}

Status scaler_init(const Scaler *scaler)
{
    return scaler->scale < 0 ? OK : set(scaler, scaler->scale, FIRST_SCALE);
}

double scaler_scale(const Scaler *scaler)
{
    float scale = 1;
    if (scaler->scale >= 0) get(scaler, scaler->scale, &scale);
    return scale;
}

static Status skip(const Scaler *scaler, float scale)
{
    float skipped;
    TRY(get(scaler, scaler->skipped_steps, &skipped));
    TRY(set(scaler, scaler->skipped_steps, skipped + 1));
    TRY(set(scaler, scaler->good_steps, 0));
    return set(scaler, scaler->scale, scale / 2);
}

Status scaler_update(const Scaler *scaler, bool ok)
{
    float scale = 1, good;
    if (scaler->scale >= 0) TRY(get(scaler, scaler->scale, &scale));
    if (!ok && scale <= 1)
        return status_fail(E_NUMERIC, "the loss or its gradients are not finite");
    if (scaler->scale < 0) return OK;
    if (!ok) return skip(scaler, scale);
    TRY(get(scaler, scaler->good_steps, &good));
    if (good + 1 < SCALER_GROWTH) return set(scaler, scaler->good_steps, good + 1);
    TRY(set(scaler, scaler->good_steps, 0));
    return set(scaler, scaler->scale, scale * 2);
}
