/* Training states: everything a run needs to go on as if it had never stopped, in one safetensors
 * file.
 *
 * Tensors, in the caller's order: the weights under PyTorch's names, shapes and order (so the file
 * is also a weights file), then the optimiser's entries, named exp_avg.NAME, exp_avg_sq.NAME,
 * step.NAME, ema.NAME, and whatever else the caller keeps (loss scale). Known here as NamedTensor
 * only; train/ fills and reads them. The run's other facts are strings in the metadata.
 *
 * Invariants
 *  1. The metadata's "sha256" covers every name, dtype, shape, byte and metadata string of the
 *     file, so a state is read exactly as it was written or not at all.
 *  2. Written through base/file: an interrupted write leaves the previous state.
 */
#ifndef RETORT_CHECKPOINTS_STATE_H
#define RETORT_CHECKPOINTS_STATE_H

#include "checkpoints/digest.h"
#include "checkpoints/safetensors.h"

enum { STATE_VERSION = 2 };
#define STATE_CHECKSUM_KEY "sha256"

typedef struct StateHeader {
    int64_t step;          /* updates done */
    int64_t data_position; /* samples of the endless sequence consumed, over all ranks */
    uint64_t seed;
    int n_threads; /* compute threads: another number is not bit-exact */
    int world_size;
    const char *config; /* the resolved options as text; of a state that was read: its own */
} StateHeader;

typedef struct State {
    StateHeader header;
    SafeTensors *file;
} State;

/* state_write: replaces `path` by a state.
 * errors  those of safetensors_write */
Status state_write(const FileOps *ops, const char *path, const StateHeader *header, int n_tensors,
                   const NamedTensor *tensors);

/* state_open: maps and verifies a state.
 * errors  E_FILE; E_FORMAT if it is no state, of another version, or its content is not what was
 *         written */
Status state_open(const char *path, State **out);
void state_close(State *state);

/* state_checksum: what the metadata of such a file must say under STATE_CHECKSUM_KEY. */
void state_checksum(const SafeTensors *file, char hex[DIGEST_HEX_BYTES]);

#endif
