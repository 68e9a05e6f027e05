/* The least time that a step can take on a GPU: its graph, played through without running it.
 *
 * Every execution of a node takes the longer of two times: its multiply-adds at the GPU's rate for
 * their kind, and the bytes of its operands at the rate of the memory. Kinds: dense convolutions
 * and matrix products, and attention with relative position, run on tensor cores, in the rate of
 * their dtype (f32 without run.tf32: the plain one); depthwise convolutions and the other
 * attentions in the plain f32 rate. Other arithmetic, launches and stalls count nothing, caches
 * neither: so real steps take longer, and by how much is to be measured, not guessed.
 *
 * Ranks: an all-reduce of B bytes over n GPUs takes 2 (n-1)/n B at the rate of the slowest link of
 * the ring, after what it sums is there and after the one before; the compute goes on until the
 * matching wait.
 *
 * source  Williams, Waterman, Patterson, Roofline (2009); ring all-reduce: NCCL's performance notes
 */
#ifndef RETORT_TRAIN_ROOFLINE_H
#define RETORT_TRAIN_ROOFLINE_H

#include "autograd/plan.h"
#include "train/gpus.h"

typedef struct RooflineMachine {
    const Gpu *gpu;
    int n_gpus;
    bool tf32;
} RooflineMachine;

/* Seconds of one step. */
typedef struct Roofline {
    double compute;  /* all multiply-adds alone, at their rates */
    double memory;   /* all bytes alone */
    double kernels;  /* the longer of the two, node by node */
    double reduce;   /* all sums over ranks alone */
    double exposed;  /* what of them the compute waits for */
    double step;     /* kernels + exposed */
    double macs;     /* multiply-adds */
} Roofline;

/* roofline_link_gb_s: of the slowest link in a ring of all GPUs, one direction; a server has
 * GPUS_PER_SERVER. */
double roofline_link_gb_s(const RooflineMachine *machine);

/* roofline_step: of one run of a planned graph. */
Roofline roofline_step(const Graph *graph, const Plan *plan, const RooflineMachine *machine);

#endif
