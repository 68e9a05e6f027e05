/* PyTorch's .pth archives: zip, pickle and tensors. */
#include "checkpoints/torch_file.h"
#include "tests/fuzz/fuzz.h"

void fuzz_torch(const uint8_t *bytes, size_t n_bytes)
{
    TorchFile *file;
    if (torch_file_open(fuzz_file(bytes, n_bytes), &file) == OK) torch_file_close(file);
}
