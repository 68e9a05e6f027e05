/* Runs the program under test as a user does: a command line in, an exit code, a line on stderr and
 * files out. Used by the tests of whole runs. */
#ifndef RETORT_TESTS_PROGRAM_H
#define RETORT_TESTS_PROGRAM_H

#include <stdbool.h>

#include "checkpoints/safetensors.h"

#ifndef RETORT_BINARY
#define RETORT_BINARY "build/retort"
#endif

/* Runs that take a second: models of a quarter of the published widths, two images a step. One
 * compute thread, so that tests do not wait for cores that others use; later words on a command
 * line win. */
#define TINY_STUDENT "configs/models/efficientvit_sam_tiny.yaml"
#define TINY_TEACHER "configs/models/sam_tiny.yaml"
#define TINY_STEP " --train.batch=2 --optim.lr=1e-3 --run.threads=1"
#define TINY_TEACH                                                 \
    "teach --model=" TINY_STUDENT " --teacher.model=" TINY_TEACHER \
    " --teacher.weights=random --run.threads=1"
#define TINY_DISTILL                                                 \
    "distill --model=" TINY_STUDENT " --teacher.model=" TINY_TEACHER \
    " --teacher.weights=random" TINY_STEP
#define TINY_FINETUNE "finetune --model=" TINY_STUDENT " --data.masks_per_image=4" TINY_STEP

/* What the last program_run left: its exit code (128 + signal if it was killed), and its two
 * streams. */
typedef struct ProgramResult {
    int code;
    char *out, *err;
} ProgramResult;

/* program_run: `retort` with these words (a shell's command line), waited for. The result is valid
 * until the next run. program_succeed: the same, and the test fails if the exit code is not 0. */
const ProgramResult *program_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
const ProgramResult *program_succeed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* program_error: the last line of stderr, which on failure is "retort COMMAND: message". */
const char *program_error(const ProgramResult *result);

/* shell: a command of other programs, which must succeed. */
void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* file_text: a whole text file; the test fails if it cannot be read. To be freed. */
char *file_text(const char *path);

/* log_column: the numbers under `key` in a log.jsonl, one per line; the test fails if a line lacks
 * it, or there are more than `room`. returns their number */
int log_column(const char *folder, const char *key, int room, double *values);

/* same_tensors: whether two files hold the same tensors, bit for bit and none more; if not, `why`
 * says which differs first. */
bool same_tensors(const char *path_a, const char *path_b, char *why, size_t why_bytes);

#endif
