/* What GPUs can do at most, by their makers' data sheets: the limits that `retort plan` counts
 * with. All numbers are of one GPU, dense (without the factor two of 2:4 sparsity), sums in f32.
 */
#ifndef RETORT_TRAIN_GPUS_H
#define RETORT_TRAIN_GPUS_H

#include "base/status.h"

typedef struct Gpu {
    const char *name;                       /* of --gpu */
    const char *title;
    double f32_tflops, tf32_tflops, low_tflops; /* 10^12 operations a second; low: bf16 and f16 */
    double memory_gb_s, memory_mib;
    double link_gb_s;    /* to the other GPUs of its server, one direction */
    double network_gb_s; /* its share of what leaves the server, one direction */
} Gpu;

enum { GPUS_PER_SERVER = 8 };

/* gpus_find: errors  E_CONFIG listing the known names */
Status gpus_find(const char *name, const Gpu **out);

#endif
