/* Training states: the header of a run, and every tensor. Once as they are, and once with the right
 * checksum, so that what lies behind it is reached. */
#include <stdlib.h>
#include <string.h>

#include "checkpoints/state.h"
#include "tests/fuzz/fuzz.h"

static void use_state(const uint8_t *bytes, size_t n_bytes)
{
    State *state;
    if (state_open(fuzz_file(bytes, n_bytes), &state) != OK) return;
    volatile size_t sum = strlen(state->header.config);
    for (int i = 0; i < state->file->n_tensors; i++) {
        const Tensor *tensor = &state->file->tensors[i].tensor;
        const unsigned char *data = tensor->data;
        for (size_t b = 0; b < tensor_bytes(tensor); b++) sum += data[b];
    }
    state_close(state);
}

/* Writes the checksum that the content asks for over the one that is there. */
static void mend(uint8_t *bytes, size_t n_bytes)
{
    SafeTensors *file;
    char wanted[DIGEST_HEX_BYTES];
    if (safetensors_open(fuzz_file(bytes, n_bytes), &file) != OK) return;
    const char *found = safetensors_meta(file, STATE_CHECKSUM_KEY);
    if (found != NULL && strlen(found) == sizeof wanted - 1) {
        uint8_t *at = memmem(bytes, n_bytes, found, sizeof wanted - 1);
        state_checksum(file, wanted);
        if (at != NULL) memcpy(at, wanted, sizeof wanted - 1);
    }
    safetensors_close(file);
}

void fuzz_state(const uint8_t *bytes, size_t n_bytes)
{
    use_state(bytes, n_bytes);
    uint8_t *mended = malloc(n_bytes + 1);
    memcpy(mended, bytes, n_bytes);
    mend(mended, n_bytes);
    use_state(mended, n_bytes);
    free(mended);
}
