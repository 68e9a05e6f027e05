/* Small kernels, right and wrong, that the simulator's own tests launch. */
#ifndef RETORT_TESTS_CUDASIM_FAULTS_H
#define RETORT_TESTS_CUDASIM_FAULTS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* FAULT(name): launch_<name>(stream, data, n): one launch that works on n floats of device memory.
 */
#define FAULTS(FAULT)                                                                           \
    FAULT(scale) FAULT(reverse) FAULT(warp_reverse) FAULT(sum_rows) FAULT(count) /* right */    \
    FAULT(past_the_end) FAULT(host_table) FAULT(misaligned) FAULT(blank_shared)                 \
    FAULT(read_before_barrier) FAULT(write_before_barrier) FAULT(same_element)                  \
    FAULT(between_blocks) FAULT(divergent_barrier) FAULT(returned_early) FAULT(missing_lane)    \
    FAULT(lane_not_in_mask) FAULT(missing_warp_barrier) FAULT(local_of_another)                 \
    FAULT(past_dynamic_shared) FAULT(too_much_shared) FAULT(no_blocks)

#define FAULT(name) void launch_##name(cudaStream_t stream, float *data, int n);
FAULTS(FAULT)
#undef FAULT

#ifdef __cplusplus
}
#endif
#endif
