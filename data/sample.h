/* One sample of a batch, from its files: the work of a loader's thread.
 *
 * A pure function of (config, epoch, source index): nothing depends on the thread or on earlier
 * samples.
 */
#ifndef RETORT_DATA_SAMPLE_H
#define RETORT_DATA_SAMPLE_H

#include "data/loader.h"

typedef struct SampleReader SampleReader; /* the readers and scratch of one thread */

Status sample_reader_create(const LoaderConfig *config, SampleReader **out); /* errors  E_MEMORY */
void sample_reader_destroy(SampleReader *reader);

/* sample_read: fills row b of every array of the batch.
 * errors  those of image_read and annotations_read; E_FORMAT if image and masks differ in size;
 *         E_CONFIG if the masks need more than config->mask_words; E_MEMORY */
Status sample_read(SampleReader *reader, const Source *source, int64_t index, uint32_t epoch,
                   Batch *batch, int64_t b);

/* sample_was_empty: whether the last sample failed only because none of its masks passed the
 * filters: it is not damaged. */
bool sample_was_empty(const SampleReader *reader);

#endif
