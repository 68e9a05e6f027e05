/* Checkpoints beside the training: between two steps the store is copied, and a thread writes the
 * copy while the next steps run.
 *
 * Called by the training loop, from its one thread. The saver's thread touches the copy and files,
 * nothing else; it does not log, and no signal reaches it. What it did or failed to do is told by
 * the next call.
 *
 * Invariants
 *  1. A state is a moment of the run: copied whole between two steps, written under a checksum, and
 *     visible by a rename (checkpoints/state.h). It counts once it is there, not when it was asked.
 *  2. One copy, one write at a time: who saves again before the last write ended waits for it.
 *  3. A write that fails stops the run at its next step; the states of before stay.
 */
#ifndef RETORT_TRAIN_SAVER_H
#define RETORT_TRAIN_SAVER_H

#include "train/log.h"
#include "train/run_folder.h"
#include "train/run_state.h"

typedef struct Saver Saver;

/* saver_open: takes the memory of the copy and starts the thread. What is given must outlive it.
 * saved_step  of the state that the run started from; -1: none
 * errors  E_MEMORY */
Status saver_open(RunFolder *folder, const Store *store, Log *log, int64_t saved_step, Saver **out);

/* saver_close: waits for the write that is under way, and frees. NULL is fine. */
void saver_close(Saver *saver);

/* saver_save: a state of this moment; nothing if header->step was saved last.
 * header  its text is copied
 * score   how good the weights were judged to be, higher is better; NaN: not judged. The best state
 *         is kept (run_folder_publish); judged after it was saved, a state is saved again
 * errors  E_DEVICE; those of the write before */
Status saver_save(Saver *saver, const StateHeader *header, double score);

/* saver_poll: logs a write that ended. saver_wait: waits for it first: what was saved is on disk.
 * errors  those of the write: state_write's and run_folder_publish's */
Status saver_poll(Saver *saver);
Status saver_wait(Saver *saver);

int64_t saver_saved_step(const Saver *saver); /* of the last state known to be on disk; -1: none */

#endif
