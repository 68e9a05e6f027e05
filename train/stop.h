/* Signals that ask a run to stop: SIGINT, SIGTERM and SIGUSR1, as terminals, schedulers and their
 * warnings before a time limit send them. The run ends what it is doing, saves, and leaves with
 * E_INTERRUPTED, which main turns into exit code 75: "run it again". */
#ifndef RETORT_TRAIN_STOP_H
#define RETORT_TRAIN_STOP_H

/* stop_watch: from now on these signals are only noted. stop_asked: the last one; 0: none. */
void stop_watch(void);
int stop_asked(void);

#endif
