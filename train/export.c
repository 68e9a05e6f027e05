/* `retort export`: weights from one format into the other.
 *
 *   retort export FILE --out=FILE.pth           what torch.load(weights_only=True) reads
 *   retort export FILE --out=FILE.safetensors
 *
 * FILE is of either format. Of a training state the weights are taken and the optimiser's tensors
 * left out, so that load_state_dict(strict=True) accepts the result.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "checkpoints/weights_file.h"
#include "train/commands.h"
#include "train/weights.h"

static const char usage[] = "retort export FILE --out=FILE.pth|FILE.safetensors";

static Status write_weights(const WeightsFile *file, const char *out)
{
    char sha256[DIGEST_HEX_BYTES];
    NamedTensor *weights = mem_alloc((size_t)file->n_tensors * sizeof *weights);
    int n = 0;
    for (int i = 0; i < file->n_tensors; i++)
        if (!weights_is_optimizer_name(file->tensors[i].name)) weights[n++] = file->tensors[i];
    Status status = weights_file_write(out, n, weights);
    if (status == OK) status = file_sha256(out, sha256);
    if (status == OK) printf("wrote %s: %d tensors, sha256 %s\n", out, n, sha256);
    if (status == OK && n < file->n_tensors)
        printf("left out: %d tensors of the optimiser\n", file->n_tensors - n);
    if (status == OK && file->note) printf("not read: %s\n", file->note);
    free(weights);
    return status;
}

Status command_export(Args *args)
{
    WeightsFile *file;
    const char *out, *path = args_positional(args);
    if (!path) return status_fail(E_CONFIG, "name a file; usage: %s", usage);
    TRY(args_need(args, "out", usage, &out));
    TRY(args_finish(args, usage));
    TRY(weights_file_can_write(out));
    TRY(weights_file_open(path, &file));
    Status status = write_weights(file, out);
    weights_file_close(file);
    return status;
}
