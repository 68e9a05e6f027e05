/* Joins one target, named at compile time, and libFuzzer. See fuzz.h. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    FUZZ_TARGET(bytes, n_bytes);
    return 0;
}
