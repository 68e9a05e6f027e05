/* Safetensors files: weights, and what training states and inputs are made of. */
#include "checkpoints/safetensors.h"
#include "tests/fuzz/fuzz.h"

void fuzz_safetensors(const uint8_t *bytes, size_t n_bytes)
{
    SafeTensors *file;
    if (safetensors_open(fuzz_file(bytes, n_bytes), &file) != OK) return;
    volatile unsigned sum = 0; /* every byte that a tensor points to must be there */
    for (int i = 0; i < file->n_tensors; i++) {
        const Tensor *tensor = &file->tensors[i].tensor;
        const unsigned char *data = tensor->data;
        size_t n = (size_t)shape_elems(tensor->shape) * dtype_size(tensor->dtype);
        for (size_t b = 0; b < n; b++) sum += data[b];
    }
    safetensors_close(file);
}
