/* A bench for ops: the graph of one case with the backward nodes of its op, and the means to run
 * single nodes on a backend without planner and executor, which have tests of their own.
 *
 * Values are f64 and computed by the reference backend, so every node, forward or backward, finds
 * sources that belong together.
 */
#ifndef RETORT_TESTS_OP_BENCH_H
#define RETORT_TESTS_OP_BENCH_H

#include "autograd/graph.h"
#include "autograd/rules.h"
#include "kernels/backend.h"
#include "tests/op_cases.h"

/* What a mutant does to the gradient of one source; the members that are not NULL are applied. */
typedef struct GradientMutator {
    const char *name;
    void (*change_rule)(GradCall *call, int src);           /* before sums over broadcast axes */
    void (*change_cotangent)(double *cotangent, int64_t n); /* before the backward nodes run */
    void (*change_gradient)(double *gradient, int64_t n);   /* after they ran */
} GradientMutator;

typedef struct OpBench {
    const OpCase *op_case;
    Graph *graph;
    NodeId forward;
    ValueId src[OP_MAX_SRC], dst[OP_MAX_DST];
    ValueId cotangent;            /* of dst 0; VALUE_NONE if the op has no gradient */
    ValueId gradient[OP_MAX_SRC]; /* of the sources that train, in their shapes */
    Tensor *values;               /* by value id; f64 or integer */
    int n_values;
    Backend *ref;
    const GradientMutator *mutator; /* NULL: none */
} OpBench;

/* bench_open: builds the graph of a case in f64 and, for a differentiable op, asks its gradient
 * rule. `mutator` (NULL: none) damages what the rule gave for source `mutated_src`. errors  those
 * of the rules and of the backend; *out is to be closed all the same */
Status bench_open(const OpCase *op_case, const GradientMutator *mutator, int mutated_src,
                  OpBench **out);
void bench_close(OpBench *bench);

/* bench_run: fills every input and runs all nodes. errors  those of bind */
Status bench_run(OpBench *bench);

/* bench_run_forward: only the forward node, from the present contents of the sources. */
Status bench_run_forward(OpBench *bench);

#endif
