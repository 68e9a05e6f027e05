/* Scalars of a run as an event file, which TensorBoard and what reads its files can show.
 *
 * Written natively: a file of records (length, masked CRC-32C of the length, data, masked CRC-32C
 * of the data), each an Event in protobuf. Used by the training loop, after each step.
 *
 * Invariants
 *  1. Files are only appended to, whole records at a time, so a reader may follow a run.
 *  2. A run that goes on opens a new file, whose name sorts behind the earlier ones, and which
 *     withdraws the steps that the earlier ones hold beyond its start.
 *
 * source  TFRecord and event.proto of TensorFlow
 */
#ifndef RETORT_TRAIN_TENSORBOARD_H
#define RETORT_TRAIN_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Tensorboard Tensorboard;

typedef struct TensorboardScalar {
    const char *tag; /* at most TENSORBOARD_MAX_TAG bytes */
    double value;    /* kept as float */
} TensorboardScalar;

enum { TENSORBOARD_MAX_TAG = 63, TENSORBOARD_MAX_SCALARS = 16 };

/* tensorboard_open: a new event file in `folder`, which is made if it is missing.
 * first_step  the step that will be written first
 * errors  E_FILE */
Status tensorboard_open(const char *folder, int64_t first_step, Tensorboard **out);
void tensorboard_close(Tensorboard *board); /* NULL is fine */

/* tensorboard_add: the scalars of a step, as one record, flushed. errors  E_FILE */
Status tensorboard_add(Tensorboard *board, int64_t step, int n_scalars,
                       const TensorboardScalar *scalars);

/* tensorboard_crc32c: Castagnoli's CRC of n_bytes, unmasked. Bit by bit: a step has 200 bytes. */
uint32_t tensorboard_crc32c(const void *data, size_t n_bytes);

#endif
