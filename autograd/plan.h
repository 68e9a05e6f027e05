/* Memory planning: every temporary gets a place in one arena before anything runs.
 *
 * Two parts: plan_place is a pure function of live ranges, without devices or graphs
 * (property-tested); plan_build derives the live ranges of a bound graph's program and calls it.
 */
#ifndef RETORT_AUTOGRAD_PLAN_H
#define RETORT_AUTOGRAD_PLAN_H

#include "autograd/graph.h"
#include "kernels/backend.h"

/* One block of memory, alive at program positions first..last, both included. */
typedef struct PlanBlock {
    size_t bytes;
    int32_t first, last;
    size_t offset; /* out: multiple of PLAN_ALIGN */
} PlanBlock;

enum { PLAN_ALIGN = 256 }; /* bytes; a CUDA transaction and four cache lines */

/* plan_place: offsets such that blocks with overlapping ranges do not overlap in memory (largest
 * first, each at the lowest offset where it fits). returns the arena's size in bytes */
size_t plan_place(PlanBlock *blocks, int n_blocks);
/* plan_lower_bound: largest sum of live bytes at any position; no placement can need less. */
size_t plan_lower_bound(const PlanBlock *blocks, int n_blocks);

/* One instruction of the flattened program. */
typedef enum InstrKind { INSTR_RUN, INSTR_LOOP_BEGIN, INSTR_LOOP_END } InstrKind;
typedef struct Instr {
    InstrKind kind;
    int32_t id; /* node or region */
} Instr;

typedef struct PlanMemory { /* what is printed before step 1, in bytes */
    size_t parameters, buffers, optimizer, ema, inputs, gradients, activations, scratch, arena,
        total;
} PlanMemory;

typedef struct Plan {
    Instr *program;
    int n_instrs;
    KernelCall *calls; /* by node id; run == NULL for dead and view nodes */
    int n_calls;
    size_t *offset;         /* by value id: place in the arena, of temporaries and inputs */
    size_t *scratch_offset; /* by node id */
    size_t arena_bytes;
    PlanMemory memory;
} Plan;

/* plan_build: binds every live node on `backend` and places all values of `graph`. Inputs and
 * outputs get memory of their own for the whole step. errors  the graph's sticky error; bind's
 * errors; E_MEMORY on overflow */
Status plan_build(Graph *graph, Backend *backend, Plan **out);
void plan_destroy(Plan *plan);

#endif
