/* Functions from graph to graph, in the order they are applied:
 *
 *   build -> fuse -> differentiate -> accumulate early -> all-reduce -> (optimiser nodes, train/)
 *         -> cast -> recompute -> prune -> plan
 *
 * Fusion comes first, because a fused op has a gradient rule of its own that keeps less alive (a
 * BatchNorm with its GELU keeps only its input), which fusing afterwards could not undo.
 */
#ifndef RETORT_AUTOGRAD_PASSES_H
#define RETORT_AUTOGRAD_PASSES_H

#include "autograd/graph.h"

/* pass_fuse: BATCHNORM, BATCHNORM_FROZEN or LAYERNORM whose only reader is an ACT takes it in.
 * Module outputs and graph outputs are readers too, so nothing that someone wants to see
 * disappears. */
void pass_fuse(Graph *graph);

/* pass_differentiate: backward nodes of `loss` (1) of region STEP, seeded with `seed` (1)
 * (VALUE_NONE: 1.0). For each wanted value i, gradient[i] is its gradient in f32, owned by the
 * wanted value's region, or VALUE_NONE if no path leads from it to the loss ("took no part").
 * errors  sticky: E_UNSUPPORTED naming the op without a rule on the path */
void pass_differentiate(Graph *graph, ValueId loss, ValueId seed, int n_wanted,
                        const ValueId *wanted, ValueId *gradient);

/* pass_accumulate_early: sums over a loop's iterations take each gradient right where it is made,
 * not at the loop's end: fewer live at a time, and a bucket is complete sooner. The same bits. */
void pass_accumulate_early(Graph *graph);

/* pass_all_reduce: sums f32 values of the step (gradients, and what else all ranks need) over the
 * ranks, in buckets of up to bucket_bytes (a larger value has one to itself), beside what is left
 * of the backward pass. Nodes added afterwards read the sums. For more than one rank only. */
enum { PASS_BUCKET_BYTES = 25 << 20 }; /* PyTorch's default */
void pass_all_reduce(Graph *graph, int64_t bucket_bytes, int n, const ValueId *values);

/* pass_cast: operands of kind 'l' become `low` (DT_BF16 or DT_F16), those of kind 'f' f32, with
 * CAST nodes made once per value and region. Parameters are cast once per step. No-op for DT_F32.
 */
void pass_cast(Graph *graph, DType low);

/* pass_widen: every f32 value becomes f64 (reference backend: gradient checks). Store entries
 * included: they must be declared as f64 by the caller. */
void pass_widen(Graph *graph);

/* pass_recompute: what the backward pass computes again instead of keeping it: results of ops that
 * the table calls REPEAT, and forward values that do not leave their label segment (nodes whose
 * label starts with one of `prefixes`, each prefix one segment), from the segment's inputs.
 * Bit-equal; BN_UPDATE is never repeated. */
void pass_recompute(Graph *graph, int n_prefixes, const char *const *prefixes);

/* pass_prune: marks nodes dead whose results nobody reads (outputs, mutated values and store
 * entries are read by definition). */
void pass_prune(Graph *graph);

#endif
