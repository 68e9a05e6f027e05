/* What data/check.c (findings, one sample) and data/check_roots.c (all of them) share. Included by
 * these two, and the test of findings. */
#ifndef RETORT_DATA_CHECK_PARTS_H
#define RETORT_DATA_CHECK_PARTS_H

#include "data/check.h"
#include "data/jpeg.h"
#include "data/root.h"

typedef struct CheckRoot { /* one that could be opened */
    Root root;
    bool wants_masks;   /* some sample of what it was opened for has masks */
    CheckKind unmasked; /* what those without are then */
    int64_t first;      /* of all samples */
} CheckRoot;

typedef struct CheckWorker { /* of one thread; zero-initialise before check_worker_open */
    RootReader reader;
    JpegDecoder *decoder;
    Annotations annotations;
    CheckReport *report; /* of all threads */
    int64_t n_lines;
} CheckWorker;

Status check_worker_open(CheckReport *report, int64_t n_lines, CheckWorker *out);
void check_worker_close(CheckWorker *worker);

/* check_note: counts a finding; threads may do it at once.
 * order  its place among the findings of its kind */
void check_note(CheckReport *report, int64_t n_lines, CheckKind kind, int64_t order,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

/* check_sample: reads a sample and notes what is found. errors  E_MEMORY */
Status check_sample(CheckWorker *worker, const CheckRoot *root, int64_t index);

#endif
