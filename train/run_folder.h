/* The folder of a run, given by run.dir:
 *
 *   config.yaml                            the resolved options of the run
 *   log.jsonl                              one record per step (train/log.h)
 *   tensorboard/events.out.tfevents.*      the same for TensorBoard (train/tensorboard.h)
 *   checkpoints/step_000001000.safetensors training states (checkpoints/state.h)
 *   checkpoints/latest                     name of the newest state
 *   checkpoints/best                       name and score of the best one that was judged
 *   model.safetensors                      the weights at the end
 *   DONE                                   the run did all its steps; their number
 *
 * Used by the training commands; in a run of several ranks by rank 0 only.
 *
 * Invariants
 *  1. A state counts once its file is there under its name, whole: it comes by a rename, and what
 *     happens to it later shows in its checksum. `latest` is written after it and tells on resume
 *     whether the newest state was lost since.
 *  2. All states of a folder are of one run: a run that is to start from a state of its own or
 *     another run's past (run.resume=FILE) needs a folder without a run. So the newest whole state
 *     is always the right one to go on from.
 *  3. One process at a time holds a folder (flock; it is free again when the process ends, however
 *     it ends).
 *  4. A folder that holds a run is never started over: run.resume has to say what to do with it.
 *  5. DONE is written last, behind model.safetensors, and removed first when the run is taken up to
 *     do more steps.
 */
#ifndef RETORT_TRAIN_RUN_FOLDER_H
#define RETORT_TRAIN_RUN_FOLDER_H

#include "train/options.h"

typedef struct RunFolder {
    const FileOps *ops;
    char *path, *checkpoints, *log_path;
    char **resume_from; /* states to start from: the first that is whole; none: start at step 0 */
    int n_resume_from;
    bool done;     /* it ended; DONE is there */
    char *lost;    /* what is not as the last process left it, in one line, or NULL */
    char *changes; /* on resume, one line per option that is not as before, else "" */
    int64_t keep_last, milestone_every;
    int64_t best_step; /* of the best state; -1: none was judged */
    double best_score;
    int lock; /* file descriptor that holds the lock */
} RunFolder;

/* run_folder_open: creates or takes up run.dir as run.resume says; writes nothing into it.
 * errors  E_CONFIG if run.dir is not given, holds a run that is not to be resumed, or is held by
 *         another process; E_FILE if the state to resume from is named but missing; E_FORMAT if
 *         checkpoints/best cannot be understood */
Status run_folder_open(const FileOps *ops, const Options *options, RunFolder **out);
void run_folder_close(RunFolder *folder);

/* run_folder_begin: the run is about to do update `first_step`: removes DONE and what killed
 * processes left, writes config.yaml and sets `changes`. A best state of a later step is judged
 * again when the run comes to it: it may be the one that was damaged. errors  E_FILE */
Status run_folder_begin(RunFolder *folder, const Options *options, int64_t first_step);

/* run_folder_state_path: where the state after `step` updates is to be written, to be freed. */
char *run_folder_state_path(const RunFolder *folder, int64_t step);

/* run_folder_publish: notes that the state of `step` has been written, and removes what need not be
 * kept: all but the newest run.keep_last, the best one, and each run.milestone_every steps.
 * score   how good it is, higher is better; NaN: it was not judged
 * errors  E_FILE; the state counts nevertheless */
Status run_folder_publish(RunFolder *folder, int64_t step, double score);

/* run_folder_finish: writes DONE: model.safetensors is there, and there is no step left to do.
 * errors  E_FILE */
Status run_folder_finish(RunFolder *folder, int64_t n_steps);

#endif
