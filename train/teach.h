/* The work of `retort teach`, apart from its command line. */
#ifndef RETORT_TRAIN_TEACH_H
#define RETORT_TRAIN_TEACH_H

#include "train/options.h"

typedef struct TeachWork {
    const char *folder; /* of the cache */
    int part, n_parts;  /* this process takes the part-th of n_parts runs of the source, from 1 */
} TeachWork;

/* teach_run: the embeddings that the folder lacks of this part's images; says size and time first.
 * ops     what shards are written with
 * errors  those of reading samples, computing and writing; E_CONFIG if the folder's embeddings were
 *         made by something else; E_INTERRUPTED after a signal. What was written stays */
Status teach_run(const Options *options, const TeachWork *work, const FileOps *ops);

#endif
