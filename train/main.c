/* retort: finds the subcommand, runs it, and turns a failure into one line and an exit code. The
 * only place that exits. */
#include <stdio.h>
#include <string.h>

#include "train/commands.h"
#include "train/options.h"

typedef struct Command {
    const char *name;
    Status (*run)(Args *args);
    const char *help;
} Command;

static const Command commands[] = {
    {"synth", command_synth, "paint scenes with masks, in SA-1B's form, to train on without data"},
    {"data", command_data, "check data before it is trained on; pack it as tar shards"},
    {"teach", command_teach, "run the teacher over images and keep its embeddings"},
    {"distill", command_distill, "train an encoder to give the teacher's embedding"},
    {"finetune", command_finetune, "train encoder, prompt encoder and mask decoder on masks"},
    {"eval", command_eval, "mean IoU of masks from boxes and clicks on a data set"},
    {"segment", command_segment, "masks of one image from points, boxes, masks; pictures"},
    {"report", command_report, "what runs were and gave, as one page of HTML"},
    {"inspect", command_inspect, "layers, parameters and MACs of a model; tensors of a file"},
    {"export", command_export, "convert weights between safetensors and PyTorch's .pth"},
    {"trace", command_trace, "exact steps on given inputs, to compare with PyTorch"},
    {"selftest", command_selftest, "is the loss right? train 200 steps, compare with a kept band"},
    {"plan", command_plan, "memory, time and disk of a run on GPUs that need not be here"},
    {"bench", command_bench, "time training steps and forward passes"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out)
{
    fprintf(out, "usage: retort COMMAND [CONFIG.yaml] [--key=value ..]\n\ncommands\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\noptions, in a config file or as --key=value\n");
    options_print_help(out);
}

static int run(const Command *command, int n, char **words)
{
    Args args = {.n = n, .words = words};
    if (args_switch(&args, "help")) {
        print_help(stdout);
        return 0;
    }
    Status status = command->run(&args);
    if (status == OK) return 0;
    fprintf(stderr, "retort %s: %s\n", command->name, status_message());
    return status == E_INTERRUPTED ? 75 : 1; /* 75: EX_TEMPFAIL, "run it again" to a scheduler */
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return run(&commands[i], argc - 2, argv + 2);
    fprintf(stderr, "retort: unknown command %s; try retort --help\n", argv[1]);
    return 2;
}
