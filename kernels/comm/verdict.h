/* Whose fault it is when a run of several ranks stops: a pure function of what rank 0's hub saw.
 *
 * Called by hub.c after every message and tick. The order of the rules is the order of
 * certainty: what a rank says of itself, a connection that broke, ranks that differ, silence,
 * standstill, and last a collective that failed somewhere without any of these.
 */
#ifndef RETORT_KERNELS_COMM_VERDICT_H
#define RETORT_KERNELS_COMM_VERDICT_H

#include "kernels/comm/wire.h"

enum { SYMPTOM_PATIENCE_MS = 3000 }; /* how long a symptom waits for its cause to show */

typedef struct RankView {
    bool joined;   /* its heartbeat has come */
    bool finished; /* it said goodbye */
    bool gone;     /* its connection broke without that */
    int64_t absent_ms; /* while not joined */
    int64_t silent_ms; /* since its last beat */
    int64_t stuck_ms;  /* since its progress last changed */
    WirePosition position;
    char failure[WIRE_TEXT_BYTES]; /* why it stopped, in its own words; "": it did not */
    char symptom[WIRE_TEXT_BYTES]; /* of a collective that failed on it; "": none */
    int64_t symptom_ms;             /* since then */
} RankView;

/* verdict_find: writes one line that names rank, step and op.
 * units   timeout_ms: how long a rank may be absent, silent or at a standstill
 * returns false if nothing is wrong */
bool verdict_find(int n_ranks, const RankView *ranks, int64_t timeout_ms, char *out,
                  size_t out_bytes);

/* verdict_place: "step 7, encoder.stages.1: conv2d", as far as the position tells. */
void verdict_place(const WirePosition *position, char *out, size_t out_bytes);

#endif
