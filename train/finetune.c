/* `retort finetune`: encoder, prompt encoder and mask decoder are trained on images with masks,
 * from random box or point prompts; of three predicted masks only the best is trained.
 *
 *   retort finetune CONFIG [--key=value ..]
 */
#include "train/commands.h"
#include "train/trainer.h"

Status command_finetune(Args *args)
{
    Options options;
    TRY(options_load(args_positional(args), args->n, args->words, &options));
    Status status = trainer_run(&options, STEP_FINETUNE, &file_ops_system);
    options_free(&options);
    return status;
}
