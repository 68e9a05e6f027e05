/* The table of GPUs. See gpus.h.
 *
 * source  A100: NVIDIA A100 Tensor Core GPU data sheet (SXM4 and PCIe; NVLink 600 GB/s in both
 *         directions together), DGX A100 (one 200 Gb/s adapter for each GPU)
 *         H100, H200: their data sheets (SXM; tensor rates there are with sparsity, here halved;
 *         NVLink 900 GB/s), DGX H100 (one 400 Gb/s adapter for each GPU)
 *         L40S: its data sheet (rates with sparsity halved; PCIe 4.0 x16)
 *         RTX 4090, RTX 3090: NVIDIA Ada and GA102 GPU architecture, appendix A (tensor rates with
 *         f32 sums; PCIe 4.0 x16)
 * Cards on PCIe: 32 GB/s a direction between them, and, as nothing is written of their servers, one
 * 100 Gb/s adapter that eight share.
 */
#include "train/gpus.h"

#include <stdio.h>
#include <string.h>

#define PCIE_GB_S 32.0
#define SHARED_ADAPTER_GB_S (12.5 / GPUS_PER_SERVER)

static const Gpu gpus[] = {
    /* name, title, f32, tf32, low, GB/s, MiB, link, network */
    {"a100-40g", "A100 SXM4 40 GB", 19.5, 156, 312, 1555, 40960, 300, 25},
    {"a100-80g", "A100 SXM4 80 GB", 19.5, 156, 312, 2039, 81920, 300, 25},
    {"a100-pcie-80g", "A100 PCIe 80 GB", 19.5, 156, 312, 1935, 81920, PCIE_GB_S,
     SHARED_ADAPTER_GB_S},
    {"h100-80g", "H100 SXM5 80 GB", 67, 494.7, 989.4, 3350, 81559, 450, 50},
    {"h200", "H200 SXM 141 GB", 67, 494.7, 989.4, 4800, 143771, 450, 50},
    {"l40s", "L40S 48 GB", 91.6, 183, 362, 864, 46068, PCIE_GB_S, SHARED_ADAPTER_GB_S},
    {"rtx4090", "GeForce RTX 4090 24 GB", 82.6, 82.6, 165.2, 1008, 24564, PCIE_GB_S,
     SHARED_ADAPTER_GB_S},
    {"rtx3090", "GeForce RTX 3090 24 GB", 35.6, 35.6, 71, 936, 24576, PCIE_GB_S,
     SHARED_ADAPTER_GB_S},
};
enum { N_GPUS = sizeof gpus / sizeof *gpus };

Status gpus_find(const char *name, const Gpu **out)
{
    char known[256] = "";
    for (int i = 0; i < N_GPUS; i++) {
        if (strcmp(name, gpus[i].name) == 0) {
            *out = &gpus[i];
            return OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, i ? ", %s" : "%s", gpus[i].name);
    }
    return status_fail(E_CONFIG, "unknown GPU --gpu=%s; known are %s", name, known);
}
