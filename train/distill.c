/* `retort distill`: an image encoder learns to give the embedding that the teacher gives (L2 loss).
 * The result, model.safetensors in the run folder, is a complete SAM: student encoder, teacher's
 * prompt encoder and decoder.
 *
 *   retort distill CONFIG [--key=value ..]
 */
#include "train/commands.h"
#include "train/trainer.h"

Status command_distill(Args *args)
{
    Options options;
    TRY(options_load(args_positional(args), args->n, args->words, &options));
    Status status = trainer_run(&options, STEP_DISTILL, &file_ops_system);
    options_free(&options);
    return status;
}
