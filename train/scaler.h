/* Loss scaling of fp16 runs: gradients of small losses would vanish in half precision, so the loss
 * is multiplied by a scale that is halved after a step whose gradients overflow (which is skipped)
 * and doubled after SCALER_GROWTH good steps. Kept in the store, so it is part of a run's state.
 *
 * source  torch.amp.GradScaler, with its defaults
 */
#ifndef RETORT_TRAIN_SCALER_H
#define RETORT_TRAIN_SCALER_H

#include "autograd/store.h"

enum { SCALER_GROWTH = 2000 }; /* good steps in a row */

typedef struct Scaler {
    Store *store;
    int scale, good_steps, skipped_steps; /* entries; -1 if the run has no scaling */
} Scaler;

/* scaler_declare: the entries of a run in `precision`; none unless it is DT_F16. Before
 * store_allocate. */
Status scaler_declare(Scaler *scaler, Store *store, DType precision);
Status scaler_init(const Scaler *scaler);  /* scale 65536, counts 0 */
double scaler_scale(const Scaler *scaler); /* 1 for a run without scaling */

/* scaler_update: after a step. ok false: halve and count.
 * errors  E_NUMERIC if there is nothing to halve: the run is not in fp16, or the scale is below 1
 */
Status scaler_update(const Scaler *scaler, bool ok);

#endif
