/* The subcommands of `retort`, one file each. Each takes the words behind its name. */
#ifndef RETORT_TRAIN_COMMANDS_H
#define RETORT_TRAIN_COMMANDS_H

#include "train/args.h"

Status command_synth(Args *args);
Status command_data(Args *args);
Status command_teach(Args *args);
Status command_distill(Args *args);
Status command_finetune(Args *args);
Status command_eval(Args *args);
Status command_segment(Args *args);
Status command_report(Args *args);
Status command_inspect(Args *args);
Status command_export(Args *args);
Status command_trace(Args *args);
Status command_bench(Args *args);
Status command_plan(Args *args);
Status command_selftest(Args *args);

#endif
