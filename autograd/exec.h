/* The executor: owns the arena of a plan and replays its program.
 *
 * Invariants
 *  1. exec_run allocates nothing and decides nothing: it walks instructions, steps the pointers of
 * sliced operands at loop iterations and calls bound kernels.
 *  2. Host access to inputs and outputs is between runs only.
 */
#ifndef RETORT_AUTOGRAD_EXEC_H
#define RETORT_AUTOGRAD_EXEC_H

#include "autograd/plan.h"

typedef struct Exec Exec;

/* exec_create: plans `graph` on `backend` and allocates the arena. The stores the graph refers to
 * must be allocated. The graph must outlive the Exec. */
Status exec_create(Graph *graph, Backend *backend, Exec **out);
void exec_destroy(Exec *exec);
const Plan *exec_plan(const Exec *exec);

/* exec_write / exec_read: a whole input, or an input or output by value, from or to host memory of
 * the value's dtype and stored shape (N,H,W,C for maps). */
Status exec_write(Exec *exec, ValueId input, const void *host);
Status exec_read(Exec *exec, ValueId value, void *host);
/* exec_read_f32: the same of a value of any float dtype, as f32. */
Status exec_read_f32(Exec *exec, ValueId value, float *host);

/* exec_run: one run of the program. Where the backend can record runs and may (Backend.recording,
 * not Backend.sync), the first run is launched call by call (libraries make up their minds then),
 * the second is recorded, and from then on a run is one launch. errors  those of Backend.wait */
Status exec_run(Exec *exec);

/* exec_run_checked: as exec_run, but stops at the first node that writes a NaN or an infinity.
 * errors  E_NUMERIC naming label, op, destination, iteration and index of the value */
Status exec_run_checked(Exec *exec);

/* ---- profile: only while it is on ---- */

/* Executions and time, of a node or of whole runs. */
typedef struct NodeProfile {
    int64_t runs;
    double seconds;
} NodeProfile;

/* One execution of a node in the last run; start in seconds since the run began. */
typedef struct ProfileEvent {
    NodeId node;
    double start, seconds;
} ProfileEvent;

/* exec_profile: switches it on or off. Switching on makes room for the events of one run. */
void exec_profile(Exec *exec, bool on);
const NodeProfile *exec_profile_of(const Exec *exec, NodeId node); /* over all profiled runs */
const NodeProfile *exec_profile_total(const Exec *exec);           /* the runs themselves */
/* exec_profile_events: those of the last profiled run, in order. returns how many */
int64_t exec_profile_events(const Exec *exec, const ProfileEvent **out);

#endif
