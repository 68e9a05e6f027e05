/* Signals that ask a run to stop. See stop.h. */
#include "train/stop.h"

#include <signal.h>

static volatile sig_atomic_t stop_signal; /* the one thing a signal handler may touch */

static void on_signal(int signal_number) { stop_signal = signal_number; }

void stop_watch(void)
{
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGUSR1, on_signal);
}

int stop_asked(void) { return stop_signal; }
