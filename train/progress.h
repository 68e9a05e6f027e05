/* The one line on a terminal that says how far a run is, redrawn in place.
 *
 *    42% [======>         ] 420/1000 loss 0.0123 12.3 img/s wait 3% 1.2 GB ETA 12:34
 *
 * Used by the training loop; elsewhere than on a terminal it writes lines of text instead
 * (train/log.h). Whoever else writes to the same terminal hides the line first and shows it again.
 *
 * Invariant: the line is always narrower than the terminal, as it is at that moment, so it never
 * wraps and can always be taken back. The cursor stays visible throughout: nothing is left to be
 * repaired, however the program ends.
 */
#ifndef RETORT_TRAIN_PROGRESS_H
#define RETORT_TRAIN_PROGRESS_H

#include <stdint.h>
#include <stdio.h>

typedef struct Progress Progress;

/* What the line shows. NaN: not known, not shown. */
typedef struct ProgressState {
    int64_t step, n_steps; /* steps done, of how many */
    double loss, images_per_s, wait_share /* 0..1 of the time, waiting for data */, left_s;
    int64_t memory_bytes; /* 0: not shown */
} ProgressState;

/* progress_format: the line for a terminal of `columns`; what matters less is left out where there
 * is no room. Printable ASCII.
 * returns its length, less than `columns` and than `room` */
int progress_format(const ProgressState *state, int columns, char *line, int room);

/* progress_open: a line on `out`, not owned, drawn at once; NULL, which all the others take, if
 * `out` is no terminal. */
Progress *progress_open(FILE *out, int64_t first_step, int64_t n_steps);

typedef struct ProgressStep {
    int64_t n_images, memory_bytes;
    double loss, seconds, wait_seconds; /* of the step, waiting included */
} ProgressStep;

/* progress_step: one more step is done. Rates and time left are running means. Draws at most ten
 * times a second. */
void progress_step(Progress *progress, const ProgressStep *step);

/* progress_hide, progress_show: clear the line for other text; draw it again. */
void progress_hide(Progress *progress);
void progress_show(Progress *progress);

/* progress_close: leaves the last state on a line of its own. */
void progress_close(Progress *progress);

#endif
