/* The folder of a run, given by run.dir:
 *
 *   config.yaml                            the resolved options of the run
 *   log.jsonl                              one record per step (train/log.h)
 *   tensorboard/events.out.tfevents.*      the same for TensorBoard (train/tensorboard.h)
 *   checkpoints/step_000001000.safetensors training states (checkpoints/state.h)
 *   checkpoints/latest                     name of the state to resume from
 *
 * Used by the training commands; in a run of several ranks by rank 0 only.
 *
 * Invariants
 *  1. `latest` is written after the state it names, and names are never reused for other content
 *     while named; so a run that is killed at any point resumes from a whole state.
 *  2. One process at a time holds a folder (flock; it is free again when the process ends, however
 *     it ends).
 *  3. A folder that holds a run is never started over: run.resume has to say what to do with it.
 */
#ifndef RETORT_TRAIN_RUN_FOLDER_H
#define RETORT_TRAIN_RUN_FOLDER_H

#include "train/options.h"

typedef struct RunFolder {
    const FileOps *ops;
    char *path, *checkpoints, *log_path;
    char *resume_from; /* state to start from; NULL: start at step 0 */
    char *changes;     /* on resume, one line per option that is not as before, else "" */
    int64_t keep_last;
    int lock; /* file descriptor that holds the lock */
} RunFolder;

/* run_folder_open: creates or takes up run.dir as run.resume says, and writes config.yaml.
 * errors  E_CONFIG if run.dir is not given, holds a run that is not to be resumed, or is held by
 *         another process; E_FILE, E_FORMAT if the state to resume from is named but missing */
Status run_folder_open(const FileOps *ops, const Options *options, RunFolder **out);
void run_folder_close(RunFolder *folder);

/* run_folder_state_path: where the state after `step` updates is to be written, to be freed. */
char *run_folder_state_path(const RunFolder *folder, int64_t step);

/* run_folder_publish: makes the state of `step`, which has been written, the one to resume from,
 * then removes the oldest states beyond run.keep_last.
 * errors  E_FILE; the former state is then still the one to resume from */
Status run_folder_publish(RunFolder *folder, int64_t step);

#endif
