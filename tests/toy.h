/* The encoder of a small student with its norms as they are trained, and folded as eval, segment
 * and teachers run it. Used by test_frozen.c, and by that of the simulated GPU. */
#ifndef RETORT_TESTS_TOY_H
#define RETORT_TESTS_TOY_H

#include "train/step.h"

typedef struct Toy {
    Backend *backend;
    Model *model;
    Store *full, *frozen; /* declared and allocated */
    char path[300], report[600];
} Toy;

/* toy_open: `path` names a file in an empty folder; low: the dtype of the frozen store's products.
 * toy_init: initial weights in `full`, with norms whose statistics are far from (0,1), so that
 * folding has something to fold. */
void toy_open(Toy *toy, const char *backend, const char *folder, DType low);
void toy_init(Toy *toy);
void toy_close(Toy *toy);

/* toy_encode: the embedding of one made-up image of *n values, to be freed. */
float *toy_encode(Toy *toy, Store *store, BnMode bn, DType precision, int64_t *n);

/* toy_encoder: the step of it; embedding kept. */
Step *toy_encoder(const Model *model, Store *store, BnMode bn, DType precision);

/* toy_distance: root mean square of the difference. b NULL: of a. */
double toy_distance(const float *a, const float *b, int64_t n);

#endif
